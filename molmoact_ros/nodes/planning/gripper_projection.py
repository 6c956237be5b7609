"""Projects the gripper into the front image: from joint states, camera intrinsics and the camera's /tf_static pose."""

from __future__ import annotations

from typing import Final

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, JointState
from tf2_msgs.msg import TFMessage

from molmoact_ros.cameras.static_frames import StaticFrames
from molmoact_ros.nodes.planning.observation_buffer import LARGEST_JOINTS
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.robots.joint_state import JointStateMonitor
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.polling import LazyPollingSubscription
from molmoact_ros.utils.paths import robot_model

MOST_PARTS: Final = 10
"""Messages of joint states between two looks: arm and hand may be published separately."""
LARGEST: Final = 1 << 20
"""Largest message, bytes: thousands of frames on /tf_static."""


class GripperProjection:
    """Projects the tool centre point into the front image; subscribes only between `open` and `close`."""

    def __init__(self, node: Node, camera: str, joint_states: str) -> None:
        """camera: name of the front one; joint_states: topic of the measured joints."""
        self._arm, self._links = SINGLE, Links(robot_model())
        self._frames, self._info = StaticFrames(), CameraInfo()
        self._monitor = JointStateMonitor(self._arm.joints)
        self._optical = conversions.optical_frame(camera)
        self._transforms = LazyPollingSubscription(node, TFMessage, "/tf_static", qos.TF_STATIC, LARGEST)
        self._infos = LazyPollingSubscription(node, CameraInfo, f"{camera}/color/camera_info", qos.SENSOR, LARGEST)
        self._joints = LazyPollingSubscription(node, JointState, joint_states, qos.sensor(MOST_PARTS), LARGEST_JOINTS)

    def open(self) -> None:
        """Subscribe."""
        self._set_wanted(True)

    def close(self) -> None:
        """Unsubscribe, and forget the joint positions."""
        self._set_wanted(False)
        self._monitor.forget()

    def _set_wanted(self, wanted: bool) -> None:
        for polled in self._transforms, self._infos, self._joints:
            polled.want(wanted)

    def _take(self) -> None:
        for transforms in self._transforms.messages():
            self._frames.add_transforms(transforms)
        self._info = self._infos.newest() or self._info
        for joints in self._joints.messages():
            self._monitor.take_message(joints.name, joints.position, 0.0, 0.0)

    def place(self) -> np.ndarray | None:
        """The tool centre point in the front image [2], in fractions of its size; None while it is unknown."""
        self._take()
        optical = self._info.header.frame_id or self._optical  # each driver names it in its own way
        camera, lacking = self._frames.pose(optical, self._arm.base_frame), self._monitor.missing
        if camera is None or not any(self._info.k) or lacking or min(self._info.width, self._info.height) < 2:
            return None
        self._links.update(self._monitor.positions())
        x, y, z = (np.linalg.inv(camera) @ self._links.pose(self._arm.tcp_frame))[:3, 3]
        if not z > 0:
            return None  # behind the camera, or not finite
        k = np.asarray(self._info.k).reshape(3, 3)
        pixel = (k @ [x / z, y / z, 1.0])[:2]
        fractions: np.ndarray = pixel / (self._info.width - 1, self._info.height - 1)
        return fractions if np.isfinite(fractions).all() else None
