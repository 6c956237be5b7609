"""Publishes a colour camera with aligned depth on the topics that realsense-ros uses."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import CameraInfo, Image

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.ros import conversions, qos


class CameraPublisher:
    """The topics `<name>/color/image_raw`, `color/camera_info` and `aligned_depth_to_color/image_raw` of one camera.

    Args:
        node: publishes; a relative `name` is in its namespace.
        name: of the camera, such as `front`; its frame is `<name>_color_optical_frame`.
        depth_info: also publish `aligned_depth_to_color/camera_info`, which equals that of colour.
    """

    def __init__(self, node: Node, name: str, depth_info: bool = False) -> None:
        self._frame = conversions.optical_frame(name)
        self._color = node.create_publisher(Image, f"{name}/color/image_raw", qos.SENSOR)
        self._depth = node.create_publisher(Image, f"{name}/aligned_depth_to_color/image_raw", qos.SENSOR)
        infos = ["color", "aligned_depth_to_color"] if depth_info else ["color"]
        self._infos = [node.create_publisher(CameraInfo, f"{name}/{of}/camera_info", qos.RELIABLE) for of in infos]

    @property
    def wants_depth(self) -> bool:
        """Somebody subscribes to depth; otherwise nothing need be aligned."""
        return bool(self._depth.get_subscription_count())

    def publish_color(self, rgb: np.ndarray, intrinsics: CameraIntrinsics, stamp: float) -> None:
        """Publish colour uint8 [H, W, 3] of ROS time `stamp`, s, and the camera's intrinsics."""
        head = conversions.header(stamp, self._frame)
        self._color.publish(conversions.image_message(rgb, "rgb8", head))
        info = conversions.camera_info(intrinsics, head)
        for publisher in self._infos:
            publisher.publish(info)

    def publish_depth(self, millimetres: np.ndarray, stamp: float) -> None:
        """Publish depth uint16 [H, W] mm, aligned to colour, of ROS time `stamp`, s."""
        self._depth.publish(conversions.image_message(millimetres, "16UC1", conversions.header(stamp, self._frame)))
