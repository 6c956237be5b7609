"""Where the actions of a chunk take the hands: their poses after each action, by kinematics."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ARM, ActionChunk, ActionSpace, split
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.trajectory import ChunkTrajectory, Target
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import Arm


def hand_targets(
    chunk: ActionChunk, arms: Sequence[Arm], links: Links, joints: Mapping[str, float]
) -> list[list[Target]]:
    """Of each arm the hand's pose in its base frame, and the gripper: at the image, and after each action.

    links: of these arms; they are moved. joints: all joints of the arms at the image, rad. The gripper at the image is
    None. Raises RefusedChunk if the shape of the actions does not fit the arms.
    """
    parts, out = split(chunk, len(arms)), []
    for arm, part in zip(arms, parts, strict=True):
        links.update(joints)
        here = Target(pose=_hand(links, arm))
        follow = _by_joints if chunk.space is ActionSpace.JOINT else _by_poses
        out.append([here, *follow(part, arm, links, here)])
    return out


def hand_paths(chunk: ActionChunk, arms: Sequence[Arm], links: Links, joints: Mapping[str, float]) -> list[np.ndarray]:
    """Of each arm the positions float [N + 1, 3] m of the hand in its base frame; see `hand_targets`."""
    return [
        np.array([target.pose.position for target in targets if target.pose is not None])
        for targets in hand_targets(chunk, arms, links, joints)
    ]


def _by_joints(chunk: ActionChunk, arm: Arm, links: Links, _: Target) -> list[Target]:
    out = []
    for row in chunk.actions:
        links.update(dict(zip(arm.joints, row[:ARM].tolist(), strict=True)))
        out.append(Target(pose=_hand(links, arm), gripper=float(row[-1])))
    return out


def _by_poses(chunk: ActionChunk, _: Arm, __: Links, here: Target) -> list[Target]:
    path = ChunkTrajectory(chunk.actions, chunk.space, chunk.dt, 0.0, here)
    return [path.at(end) for end in [*np.arange(1, len(chunk.actions)) * chunk.dt, path.end]]


def _hand(links: Links, arm: Arm) -> Pose:
    hand = np.linalg.inv(links.pose(arm.base_frame)) @ links.pose(arm.tcp_frame)
    return Pose(hand[:3, 3], Rotation.from_matrix(hand[:3, :3]))
