"""Pixels of sensor_msgs/Image and sensor_msgs/CompressedImage as numpy arrays, by cv_bridge's rules and without it.

Messages are those of rclpy or those read from a bag. Where cv_bridge converts an encoding to rgb8, so does this module,
with the same OpenCV conversion. Two rules are ours: 16 bits a channel are no colour image here (cv_bridge scales them
down), and OpenCV's bare types, about which cv_bridge knows nothing, are read in OpenCV's order (8UC3 is BGR).
"""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.cameras.compressed_images import declared_size, decoded
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import known_depth

_BAYER: Final = {
    "bayer_rggb8": cv2.COLOR_BayerRGGB2RGB, "bayer_bggr8": cv2.COLOR_BayerBGGR2RGB,
    "bayer_gbrg8": cv2.COLOR_BayerGBRG2RGB, "bayer_grbg8": cv2.COLOR_BayerGRBG2RGB,
}  # fmt: skip
_YUV: Final = {
    "yuv422": cv2.COLOR_YUV2RGB_UYVY, "uyvy": cv2.COLOR_YUV2RGB_UYVY,
    "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2, "yuyv": cv2.COLOR_YUV2RGB_YUY2,
}  # fmt: skip
_CHANNELS: Final = {
    "rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "8UC3": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0], "8UC4": [2, 1, 0],
    "mono8": [0, 0, 0], "8UC1": [0, 0, 0],
}  # fmt: skip
COLOUR: Final = (*_CHANNELS, *_YUV, *_BAYER)
"""Encodings that are read as colour; grey counts as colour with three equal channels."""
DEPTH: Final = {"16UC1": 1e-3, "mono16": 1e-3, "32FC1": 1.0}
"""Encodings that are read as depth, and the m of their unit."""
PIXEL: Final = {
    **{name: (np.uint8, 4 if "a8" in name or name == "8UC4" else len(set(order))) for name, order in _CHANNELS.items()},
    **dict.fromkeys(_YUV, (np.uint8, 2)),
    **dict.fromkeys(_BAYER, (np.uint8, 1)),
    "16UC1": (np.uint16, 1), "mono16": (np.uint16, 1), "32FC1": (np.float32, 1),
}  # fmt: skip
"""dtype and channels of the supported encodings."""


def is_compressed(message: Any) -> bool:
    """Whether an image message is a CompressedImage, from rclpy or a bag."""
    return hasattr(message, "format")


def image_size(message: Any) -> tuple[int, int]:
    """Width and height, pixels, as the message claims them, without decoding it. Raises RefusedStep."""
    return declared_size(message) if is_compressed(message) else (message.width, message.height)


def image_pixels(message: Any) -> np.ndarray:
    """The pixels [H, W] or [H, W, C] of an Image in its encoding and this machine's byte order, a view where possible.

    Raises RefusedStep for an unknown encoding and for data that is too short.
    """
    if message.encoding not in PIXEL:
        raise RefusedStep(f"image encoding {message.encoding!r} is not read; publish one of {', '.join(PIXEL)}")
    kind, channels = PIXEL[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = message.width * channels * dtype.itemsize
    if why := _layout_fault(message, row):
        raise RefusedStep(why)
    rows = np.frombuffer(message.data, np.uint8, message.step * message.height).reshape(message.height, message.step)
    pixels = np.ascontiguousarray(rows[:, :row]).view(dtype).astype(kind, copy=False)
    return pixels if channels == 1 else pixels.reshape(message.height, message.width, channels)


def layout_fault(message: Any) -> str:
    """Why an image has no pixels, whatever they mean, in one line; empty: it has. They are not read."""
    if is_compressed(message):
        try:
            declared_size(message)
        except RefusedStep as refusal:
            return str(refusal)
        return ""
    kind, channels = PIXEL.get(message.encoding, (np.uint8, 1))
    return _layout_fault(message, message.width * channels * np.dtype(kind).itemsize)


def _layout_fault(message: Any, row: int) -> str:
    """The same of an Image. row: bytes of the pixels in a row."""
    if not message.width or not message.height or message.step < row:
        return f"an image of {message.width}x{message.height} with rows of {message.step} bytes is malformed"
    if len(message.data) < message.step * message.height:
        return f"an image holds {len(message.data)} bytes, not {message.step * message.height}; it is cut off"
    return ""


def rgb_pixels(message: Any) -> np.ndarray:
    """Colour of an Image or a CompressedImage, uint8 [H, W, 3] RGB.

    Raises RefusedStep if it is not 8-bit colour or grey, or is damaged.
    """
    pixels, encoding = decoded(message) if is_compressed(message) else (None, message.encoding)
    if encoding not in COLOUR:
        raise RefusedStep(_no_colour(encoding))
    pixels = image_pixels(message) if pixels is None else pixels
    if encoding == "rgb8":
        return pixels
    if encoding in _CHANNELS:
        return np.atleast_3d(pixels)[:, :, _CHANNELS[encoding]]
    if encoding in _YUV and pixels.shape[1] % 2:
        raise RefusedStep(f"{encoding} has two pixels in four bytes, so its width is even; got {pixels.shape[1]}")
    if encoding in _BAYER and min(pixels.shape) < 3:
        raise RefusedStep(f"an image of {pixels.shape[1]}x{pixels.shape[0]} in {encoding} is too small for its colours")
    return cv2.cvtColor(pixels, (_YUV | _BAYER)[encoding])


def _no_colour(encoding: str) -> str:
    if encoding.endswith("16") or encoding.startswith(("16UC", "16SC")):
        return f"16 bits a channel ({encoding!r}) are not read as colour; publish 8, such as rgb8"
    return f"a colour image is needed, not {encoding!r}; publish one of {', '.join(COLOUR)}"


def metres(message: Any) -> np.ndarray:
    """Depth of an Image or a CompressedImage, float32 [H, W] m; 0 where it is not known (REP 118: NaN, +-Inf).

    16UC1 and mono16 are in mm, 32FC1 in m. Raises RefusedStep for other encodings, and for damaged data.
    """
    pixels, encoding = decoded(message) if is_compressed(message) else (None, message.encoding)
    if encoding not in DEPTH:
        raise RefusedStep(f"a depth image is needed, not {encoding!r}; publish 16UC1 (mm) or 32FC1 (m)")
    pixels = image_pixels(message) if pixels is None else pixels
    depth: np.ndarray = pixels.astype(np.float32) * np.float32(DEPTH[encoding])
    return known_depth(depth) if encoding == "32FC1" else depth
