"""The front camera's calibration as the graph has it: camera_info, and the camera's pose on /tf_static."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

from rclpy.node import Node
from sensor_msgs.msg import CameraInfo
from tf2_msgs.msg import TFMessage

from molmoact_ros.cameras.camera_view import CameraView, camera_view
from molmoact_ros.cameras.static_frames import StaticFrames
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.polling import LazyPollingSubscription

LARGEST: Final = 1 << 20
"""Largest message, bytes: thousands of frames on /tf_static."""


class FrontCamera:
    """Subscribes to a calibration while it is wanted; what was received stays known."""

    def __init__(self, node: Node, camera: str) -> None:
        """camera: name of the front one."""
        self._optical, self._topic = conversions.optical_frame(camera), f"{camera}/color/camera_info"
        self._frames = StaticFrames()
        self._info: CameraInfo | None = None
        self._transforms = LazyPollingSubscription(node, TFMessage, "/tf_static", qos.TF_STATIC, LARGEST)
        self._infos = LazyPollingSubscription(node, CameraInfo, self._topic, qos.SENSOR, LARGEST)

    def want(self, wanted: bool) -> None:
        """Subscribe, or unsubscribe."""
        for polled in self._transforms, self._infos:
            polled.want(wanted)

    def view(self, bases: Sequence[str]) -> CameraView | str:
        """The camera's view from the arms with these base frames, or why it is not known, in one line."""
        for transforms in self._transforms.messages():
            self._frames.add_transforms(transforms)
        self._info = self._infos.newest() or self._info
        return camera_view(self._info, self._frames, bases, self._topic, self._optical)
