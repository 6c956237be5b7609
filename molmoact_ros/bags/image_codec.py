"""Compression of images before they go into a bag, in image_transport's formats, so that its tools read them."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, Literal

import cv2
import numpy as np

from molmoact_ros.bags.bag import BagMessage
from molmoact_ros.bags.message_types import Types
from molmoact_ros.cameras.compressed_images import DEPTH_HEAD
from molmoact_ros.cameras.image_encodings import image_pixels, rgb_pixels
from molmoact_ros.reasoning.answer import RefusedStep

Form = Literal["raw", "png", "jpeg"]
"""raw: as published, lossless. png: colour and depth as PNG, lossless. jpeg: colour as JPEG, depth as PNG."""
IMAGE: Final = "sensor_msgs/msg/Image"
COMPRESSED: Final = "sensor_msgs/msg/CompressedImage"
PICTURES: Final = (IMAGE, COMPRESSED, "sensor_msgs/msg/PointCloud2")
"""Large messages that are soon superseded: dropped first if the disk is slow or full."""
_DEPTH = ("16UC1", "mono16")
_KEPT_BY_PNG: Final = ("rgb8", "bgr8", "rgba8", "bgra8", "mono8")
"""Colour that PNG holds without loss, and whose names image_transport's tools expect in the format."""
_FILTER, _SUB = 19, 16  # IMWRITE_PNG_FILTER and _SUB since OpenCV 4.12; older versions ignore them
_PNG = [cv2.IMWRITE_PNG_COMPRESSION, 1, _FILTER, _SUB]
"""One filter instead of the best of five per row: half the time, for 5 % larger depth and 17 % larger noisy colour."""


def pack(message: BagMessage, types: Types, form: Form, quality: int) -> BagMessage:
    """Convert a recorded Image to a CompressedImage on image_transport's topic; quality: of JPEG, 1..100.

    Any other message, an Image without such a form (32FC1; as PNG also yuv422 and bayer, which it would not hold
    without loss) and a malformed one are returned unchanged: a recorder stores everything.
    """
    if form == "raw" or message.type_name != IMAGE:
        return message
    image = types.decode(message.data, IMAGE)
    try:
        if image.encoding in _DEPTH:
            said, suffix, data = f"{image.encoding}; compressedDepth png", "compressedDepth", bytes(DEPTH_HEAD)
            data += _encoded(image_pixels(image), ".png", _PNG)
        elif form == "png" and image.encoding not in _KEPT_BY_PNG:
            return message
        else:
            options = [cv2.IMWRITE_JPEG_QUALITY, quality] if form == "jpeg" else _PNG
            encoding = image.encoding if image.encoding in _KEPT_BY_PNG else "rgb8"
            said, suffix = f"{encoding}; {form} compressed bgr8", "compressed"
            data = _encoded(rgb_pixels(image)[:, :, ::-1], ".jpg" if form == "jpeg" else ".png", options)
    except RefusedStep:
        return message
    packed = types[COMPRESSED](header=image.header, format=said, data=np.frombuffer(data, np.uint8))
    return replace(
        message, topic=f"{message.topic}/{suffix}", type_name=COMPRESSED, data=types.encode(packed)
    )  # fmt: skip


def _encoded(pixels: np.ndarray, ending: str, options: list[int]) -> bytes:
    done, data = cv2.imencode(ending, pixels, options)
    assert done
    return data.tobytes()
