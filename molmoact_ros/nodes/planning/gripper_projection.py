"""Projects the gripper into the front image: from joint states and the front camera's calibration."""

from __future__ import annotations

from typing import Final

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import JointState

from molmoact_ros.nodes.planning.front_camera import FrontCamera
from molmoact_ros.nodes.planning.observation_buffer import LARGEST_JOINTS
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.robots.joint_state import JointStateMonitor
from molmoact_ros.ros import qos
from molmoact_ros.ros.polling import LazyPollingSubscription
from molmoact_ros.utils.paths import robot_model

MOST_PARTS: Final = 10
"""Messages of joint states between two looks: arm and hand may be published separately."""


class GripperProjection:
    """Projects the tool centre point into the front image; subscribes only between `open` and `close`."""

    def __init__(self, node: Node, camera: str, joint_states: str) -> None:
        """camera: name of the front one; joint_states: topic of the measured joints."""
        self._arm, self._links = SINGLE, Links(robot_model())
        self._monitor, self._camera = JointStateMonitor(self._arm.joints), FrontCamera(node, camera)
        self._joints = LazyPollingSubscription(node, JointState, joint_states, qos.sensor(MOST_PARTS), LARGEST_JOINTS)

    def open(self) -> None:
        """Subscribe."""
        self._set_wanted(True)

    def close(self) -> None:
        """Unsubscribe, and forget the joint positions."""
        self._set_wanted(False)
        self._monitor.forget()

    def _set_wanted(self, wanted: bool) -> None:
        self._camera.want(wanted)
        self._joints.want(wanted)

    def place(self) -> np.ndarray | None:
        """The tool centre point in the front image [2], in fractions of its size; None while it is unknown."""
        for joints in self._joints.messages():
            self._monitor.take_message(joints.name, joints.position, 0.0, 0.0)
        view = self._camera.view([self._arm.base_frame])
        if isinstance(view, str) or self._monitor.missing:
            return None
        self._links.update(self._monitor.positions())
        (pixel,), _ = view.project(self._links.pose(self._arm.tcp_frame)[None, :3, 3])
        fractions: np.ndarray = pixel / (view.width - 1, view.height - 1)
        return fractions if np.isfinite(fractions).all() else None
