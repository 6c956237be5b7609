"""Encodes ROS images as JPEG for browsers. Runs in the encoder's process."""

from __future__ import annotations

import os
from typing import Final

import cv2
import numpy as np
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import CompressedImage, Image

from molmoact_ros.panel.image_stream import Picture
from molmoact_ros.ros.conversions import metres, of_usual_size, rgb_pixels
from molmoact_ros.ros.image_transport import CameraImage
from molmoact_ros.utils.child_process import die_with_parent

WIDEST: Final = 960
"""Pixels; wider images are scaled down."""
QUALITY: Final = 80


def begin() -> None:
    """Initialise the encoder's process: it ends with the panel, and computes in one thread."""
    die_with_parent(os.getppid())
    cv2.setNumThreads(1)


def encode(kind: str, data: bytes, compressed: bool = False) -> Picture:
    """A JPEG of a serialised Image or CompressedImage; kind as in View. Raises RefusedStep for no such image."""
    message = of_usual_size(deserialize_message(data, CompressedImage if compressed else Image))
    picture = {"color": rgb_pixels, "depth": _depth, "said": _model_depth}[kind](message)
    if picture.shape[1] > WIDEST:
        size = (WIDEST, max(1, round(picture.shape[0] * WIDEST / picture.shape[1])))
        picture = cv2.resize(picture, size, interpolation=cv2.INTER_AREA)
    made, jpeg = cv2.imencode(".jpg", picture[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, QUALITY])
    assert made, "OpenCV encodes 8-bit images of any size"
    stamp = message.header.stamp
    return Picture(jpeg.tobytes(), stamp.sec, stamp.nanosec)


def _depth(message: CameraImage) -> np.ndarray:
    """Measured depth from blue (far) to red (near), over the range that most of the image has; black where unknown."""
    depth = metres(message)
    known = depth > 0
    if not known.any():
        return np.zeros((*depth.shape, 3), np.uint8)
    near, far = np.percentile(depth[::4, ::4][known[::4, ::4]], [2, 98]) if known[::4, ::4].any() else (0.0, 1.0)
    picture = _coloured((far - depth) / max(far - near, 1e-3))
    picture[~known] = 0
    return picture


def _model_depth(message: CameraImage) -> np.ndarray:
    """The model's depth, 0..1, which is square for any camera: stretched to the most usual 4:3."""
    picture = _coloured(metres(message))
    height = picture.shape[0]
    return cv2.resize(picture, (max(1, height * 4 // 3), height))


def _coloured(nearness: np.ndarray) -> np.ndarray:
    levels = np.round(np.clip(nearness, 0, 1) * 255).astype(np.uint8)
    return cv2.applyColorMap(levels, cv2.COLORMAP_TURBO)[..., ::-1].copy()
