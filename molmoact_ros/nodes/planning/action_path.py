"""Where a plan's actions take the hand in the front image: what takes the trace's place for models that plan none."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from rclpy.node import Node

from molmoact_ros.cameras.image_path import path_in_image
from molmoact_ros.control.action_chunk import ActionChunk as Chunk
from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.hand_path import hand_paths
from molmoact_ros.msg import ActionChunk
from molmoact_ros.nodes.planning.front_camera import FrontCamera
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import conversions
from molmoact_ros.utils.paths import robot_model


class ActionPath:
    """Projects the path of a chunk's hand; of two arms, of the one that moves farther.

    reason: why the last chunk's path is not known, in one line; empty where it is.
    """

    def __init__(self, node: Node, camera: str, arms: Sequence[str]) -> None:
        """camera: name of the front one. arms: prefix of each arm's names, left first."""
        self._log, self._camera = node.get_logger(), FrontCamera(node, camera)
        self._arms = [Arm(prefix) for prefix in arms]
        self._links = Links(robot_model(), self._arms)
        self._camera.want(True)
        self.reason = ""

    def trace(self, message: ActionChunk) -> np.ndarray | None:
        """The path as a trace, int64 [n, 2] in 0..255; None where it is not known, which `reason` and the log say."""
        view = self._camera.view([arm.base_frame for arm in self._arms])
        known = dict(zip(message.joint_names, message.joint_positions, strict=False))
        lacking = [name for arm in self._arms for name in arm.joints if name not in known]
        trace = None
        if isinstance(view, str):
            self.reason = view
        elif lacking:
            self.reason = f"{lacking[0]} was not received within joint_slop of the image"
        else:
            actions, space = conversions.chunk_actions(message), ActionSpace(message.action_space)
            paths = hand_paths(Chunk(actions, message.dt, 0.0, space=space), self._arms, self._links, known)
            trace = path_in_image(view, paths)[0].trace(0)
            self.reason = "" if trace is not None else "it is outside of the image"
        if self.reason:
            self.reason = f"the hand's path is not drawn: {self.reason}"
            self._log.warning(self.reason, throttle_duration_sec=10.0)
        return trace
