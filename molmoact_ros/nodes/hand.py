"""Where the gripper is in the front picture: from the joints, the camera's intrinsics and its place in /tf_static."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CameraInfo, JointState
from tf2_msgs.msg import TFMessage

from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.lazy import LazySubscription
from molmoact_ros.nodes.static_frames import StaticFrames
from molmoact_ros.paths import robot_model
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.robots.links import Links


class HandView:
    """Listens only between `open` and `close`."""

    def __init__(self, node: Node, camera: str, joint_states: str) -> None:
        """camera: name of the front one; joint_states: topic of the measured joints."""
        self._arm, self._links = SINGLE, Links(robot_model())
        self._frames, self._info, self._joints = StaticFrames(), CameraInfo(), b""
        self._optical = conversions.optical_frame(camera)
        self._subscriptions = (
            LazySubscription(node, TFMessage, "/tf_static", self._frames.add, qos.TF_STATIC),
            LazySubscription(node, CameraInfo, f"/{camera}/color/camera_info", self._on_info, qos.SENSOR),
            # As bytes: of a hundred a second, ten are read.
            LazySubscription(node, JointState, joint_states, self._on_joints, qos.SENSOR, raw=True),
        )

    def open(self) -> None:
        """Listen from now on."""
        for subscription in self._subscriptions:
            subscription.want(True)

    def close(self) -> None:
        """Listen no more, and forget where the joints were."""
        for subscription in self._subscriptions:
            subscription.want(False)
        self._joints = b""

    def _on_info(self, message: CameraInfo) -> None:
        self._info = message

    def _on_joints(self, data: bytes) -> None:
        self._joints = data

    def place(self) -> np.ndarray | None:
        """The tool centre point in the front picture [2], in fractions of it; None while it cannot be known."""
        camera = self._frames.pose(self._optical, self._arm.base_frame)
        if camera is None or not any(self._info.k) or not self._joints:
            return None
        joints = deserialize_message(self._joints, JointState)
        self._links.update(dict(zip(joints.name, joints.position, strict=False)))
        x, y, z = (np.linalg.inv(camera) @ self._links.pose(self._arm.tcp_frame))[:3, 3]
        if z <= 0:
            return None  # behind the camera
        k = np.asarray(self._info.k).reshape(3, 3)
        pixel = (k @ [x / z, y / z, 1.0])[:2]
        fractions: np.ndarray = pixel / (self._info.width - 1, self._info.height - 1)
        return fractions
