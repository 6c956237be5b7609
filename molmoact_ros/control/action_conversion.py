"""Converts a checkpoint's actions to the meaning of ActionChunk.msg, and refuses those that do not fit the robot."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ARM, ActionChunk, ActionSpace, join, split
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.hands import FRANKA_HAND

SPACES: Final = {
    "delta_ee_pose": ActionSpace.DELTA_EE,
    "ee_pose": ActionSpace.EE,
    "joint_position": ActionSpace.JOINT,
}
"""The action space of each `ActionConvention.space`."""


def check_fit(
    key: str, convention: ActionConvention, dimensions: int, robot: str, arms: int, cameras: Sequence[str]
) -> None:
    """Raise ValueError, in one line that says what to do, if the actions of a checkpoint cannot move this robot.

    key: un-normalisation key of `convention`. dimensions: values in one action. robot: what is to be moved, such as
    franka. arms: how many of them. cameras: names of the policy's cameras, front first.
    """
    if convention.robot != robot:
        raise ValueError(
            f"the key {key!r} holds actions of the robot {convention.robot}, not of a {robot}: choose another "
            "un-normalisation key or checkpoint, or fine-tune this one on your robot"
        )
    values = SPACES[convention.space].dimensions
    if dimensions != arms * values:
        fits = {values: "one arm", 2 * values: "two arms"}.get(dimensions)
        what = f"which are {fits} in {convention.space}" if fits else f"and {convention.space} has {values} an arm"
        raise ValueError(
            f"the key {key!r} has {dimensions} values in an action, {what}, but this policy moves "
            f"{'one arm' if arms == 1 else 'two arms'}: choose another key, or set the policy's parameter arms"
        )
    wanted = list(convention.cameras)
    if wanted and len(wanted) != len(cameras):
        raise ValueError(
            f"the key {key!r} needs {len(wanted)} cameras ({', '.join(wanted)}), not {len(cameras)} "
            f"({', '.join(cameras)}): set the policy's parameter cameras"
        )
    if sorted(wanted) == sorted(cameras) and wanted != list(cameras):
        raise ValueError(f"the key {key!r} needs its cameras in the order {', '.join(wanted)}: change the parameter")


def convert_actions(
    actions: np.ndarray, convention: ActionConvention, arms: int = 1, hands: Sequence[Rotation] = ()
) -> np.ndarray:
    """Actions [N, D] in the meaning of `convention`, as float64 [N, D] in that of msg/ActionChunk.msg.

    The action space stays. hands: orientation of each arm's hand in its base frame, before the first action; needed
    only for displacements in the frame of the hand. Raises RefusedChunk if D does not fit the arms.
    """
    chunk = ActionChunk(actions, dt=1.0, stamp=0.0, space=SPACES[convention.space])
    if convention.order == "arms":
        parts = _arm_after_arm(np.asarray(actions, np.float64), chunk, arms)
    else:
        parts = [part.actions for part in split(chunk, arms)]
    turned = [hands[arm] if convention.frame == "hand" else None for arm in range(arms)]
    return join([_convert_arm(*of, convention) for of in zip(parts, turned, strict=True)], chunk.space)


def _arm_after_arm(actions: np.ndarray, chunk: ActionChunk, arms: int) -> list[np.ndarray]:
    """The actions of each arm, where a row has all values of one arm before those of the next."""
    split(chunk, arms)  # refuses a shape that does not fit
    return np.split(actions, arms, axis=1)


def state_joints(arms: Sequence[Arm]) -> list[str]:
    """Names of the joints that a state of joint positions is made of."""
    return [name for arm in arms for name in (*arm.joints, *arm.hand_joints)]


def robot_state(joints: Mapping[str, float], convention: ActionConvention, arms: Sequence[Arm]) -> np.ndarray:
    """The state float64 [8 a] of a arms in the meaning of `convention`.

    joints: positions of all `state_joints`, rad or m.
    """
    parts = []
    for arm in arms:
        hand = FRANKA_HAND if arm.hand is None else arm.hand
        opening = hand.opening([joints[name] for name in arm.hand_joints]) / hand.stroke
        angles = np.array([joints[name] for name in arm.joints]) / convention.rotation_scale
        parts.append(np.append(angles, convention.gripper.values(np.array(opening))))
    if convention.order == "arms":
        return np.concatenate(parts)
    together: np.ndarray = join([part[None] for part in parts], ActionSpace.JOINT)[0]
    return together


def check_state(key: str, convention: ActionConvention, dimensions: int, arms: int) -> None:
    """Raise ValueError, in one line, if the policy cannot make the state of `dimensions` values that a model reads."""
    if not dimensions:
        return
    if convention.state != "joint_position":
        what = "the pose of the hand" if convention.state else "nobody has stated what"
        raise ValueError(
            f"the key {key!r} reads a state of {dimensions} values, {what}, and this policy gives joints and gripper: "
            'fine-tune the checkpoint on such a state, or say "state": "joint_position" in run.json if it is one'
        )
    wanted = arms * ActionSpace.JOINT.dimensions
    if dimensions != wanted:
        raise ValueError(
            f"the key {key!r} reads a state of {dimensions} values, and "
            f"{'one arm has' if arms == 1 else 'two arms have'} {wanted}: choose another key, or set the policy's "
            "parameter arms"
        )


def _convert_arm(actions: np.ndarray, hand: Rotation | None, convention: ActionConvention) -> np.ndarray:
    """The actions [N, 7] of one arm, [N, 8] of joints. hand: orientation of the hand; None: they are in the base."""
    gripper = convention.gripper.opening(actions[:, -1])
    if convention.clip_gripper:
        gripper = gripper.clip(0.0, 1.0)
    if convention.space == "joint_position":
        return np.column_stack([actions[:, :ARM] * convention.rotation_scale, gripper])
    position, angles = actions[:, :3] * convention.position_scale, actions[:, 3:6] * convention.rotation_scale
    if convention.rotation == "roll_pitch_yaw" and hand is None:
        return np.column_stack([position, angles, gripper])
    make = Rotation.from_rotvec if convention.rotation == "rotation_vector" else _from_angles
    turns = make(angles)
    if hand is not None:
        position, turns = _in_base(position, turns, hand)
    return np.column_stack([position, turns.as_euler("xyz"), gripper])


def _from_angles(angles: np.ndarray) -> Rotation:
    return Rotation.from_euler("xyz", angles)


def _in_base(position: np.ndarray, turns: Rotation, hand: Rotation) -> tuple[np.ndarray, Rotation]:
    """Displacements [N, 3] m and rotations [N] of the hand, each in the hand's frame before it, in the base frame."""
    moved, turned = np.empty_like(position), []
    for k, turn in enumerate(turns):
        moved[k] = hand.apply(position[k])
        turned.append(hand * turn * hand.inv())
        hand = hand * turn
    return moved, Rotation.concatenate(turned)
