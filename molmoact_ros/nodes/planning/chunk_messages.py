"""Makes the message of a plan's actions, converted from what the checkpoint's numbers mean."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from scipy.spatial.transform import Rotation
from sensor_msgs.msg import JointState

from molmoact_ros.control.action_conversion import SPACES, convert_actions
from molmoact_ros.msg import ActionChunk
from molmoact_ros.nodes.planning.inference_thread import ReasonedPlan
from molmoact_ros.reasoning.action_convention import ActionConvention
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import conversions
from molmoact_ros.utils.paths import robot_model

DEFAULT_DT = 0.1
"""s of one action, where neither the checkpoint nor the parameter says it."""


class ChunkMessages:
    """Makes messages of the actions of one un-normalisation key."""

    def __init__(
        self, key: str, convention: ActionConvention, arms: Sequence[str] = ("",), base_frame: str = "", dt: float = 0.0
    ) -> None:
        """arms: prefix of each arm's names, left first. base_frame: a single arm's. dt: of one action, s; 0: stated."""
        self._key, self._convention, self._arms = key, convention, [Arm(prefix) for prefix in arms]
        self._frame = base_frame if len(arms) == 1 else ""  # of two arms, each has its own
        self._dt = dt or convention.dt or DEFAULT_DT
        self._links = Links(robot_model(), self._arms) if convention.frame == "hand" else None

    def message(self, plan: ReasonedPlan) -> ActionChunk | None:
        """The plan's actions as ActionChunk.msg has them; None before they are complete.

        Raises RefusedStep if they are in the frame of a hand whose joints were not received with the image, and
        RefusedChunk if their number does not fit the arms.
        """
        actions = plan.reasoning.actions
        if not plan.reasoning.complete or actions is None:
            return None
        convention = self._convention
        hands = [] if self._links is None else self._hands(self._links, plan.joints)
        chunk = conversions.chunk_message(
            convert_actions(actions, convention, len(self._arms), hands), self._dt, self._key, plan.plan_id,
            conversions.header(plan.observation.stamp, self._frame), plan.timings.mode.value,
            SPACES[convention.space], convention.stated,
        )  # fmt: skip
        if plan.joints is not None:
            chunk.joint_names, chunk.joint_positions = plan.joints.name, plan.joints.position
        return chunk

    def _hands(self, links: Links, joints: JointState | None) -> list[Rotation]:
        """The orientation of each arm's hand at the image."""
        known = {} if joints is None else conversions.joint_positions(joints)
        lacking = [name for arm in self._arms for name in arm.joints if name not in known]
        if lacking:
            raise RefusedStep(
                f"the key {self._key!r} has actions in the frame of the hand, and {lacking[0]} was not received within "
                "joint_slop of the image: check the parameter joint_states"
            )
        links.update(known)
        return [Rotation.from_matrix(np.asarray(links.pose(arm.tcp_frame))[:3, :3]) for arm in self._arms]
