"""Conversion of messages to numpy arrays, for rclpy's messages and for those read from a bag."""

from __future__ import annotations

from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS

PIXEL: Final = {
    "rgb8": (np.uint8, 3), "bgr8": (np.uint8, 3), "rgba8": (np.uint8, 4), "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1), "16UC1": (np.uint16, 1), "mono16": (np.uint16, 1), "32FC1": (np.float32, 1),
}  # fmt: skip
"""dtype and channels of the supported encodings."""
SPACES: Final = (0, 1, 2)
"""DELTA_EE_POSE, EE_POSE and JOINT_POSITION of ActionChunk.msg."""
_TO_RGB: Final = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0], "mono8": [0, 0, 0]}


def seconds(stamp: Any) -> float:
    """Convert a builtin_interfaces/Time to seconds."""
    return float(stamp.sec + stamp.nanosec * 1e-9)


def image_pixels(message: Any) -> np.ndarray:
    """The pixels [H, W] or [H, W, C] in the image's encoding, a view of its data where possible.

    Raises RefusedStep for an unknown encoding and for data that is too short.
    """
    if message.encoding not in PIXEL:
        raise RefusedStep(f"image encoding {message.encoding!r} is not read; publish one of {', '.join(PIXEL)}")
    kind, channels = PIXEL[message.encoding]
    dtype = np.dtype(kind).newbyteorder(">" if message.is_bigendian else "<")
    row = message.width * channels * dtype.itemsize
    if not message.width or not message.height or message.step < row:
        raise RefusedStep(
            f"an image of {message.width}x{message.height} with rows of {message.step} bytes is malformed"
        )
    if len(message.data) < message.step * message.height:
        raise RefusedStep(
            f"an image holds {len(message.data)} bytes, not {message.step * message.height}; it is cut off"
        )
    rows = np.frombuffer(message.data, np.uint8, message.step * message.height).reshape(message.height, message.step)
    pixels = np.ascontiguousarray(rows[:, :row]).view(dtype)
    return pixels if channels == 1 else pixels.reshape(message.height, message.width, channels)


def rgb_pixels(message: Any) -> np.ndarray:
    """Colour, uint8 [H, W, 3] RGB. Raises RefusedStep if the image is not 8-bit colour or grey."""
    if message.encoding not in _TO_RGB:
        raise RefusedStep(f"a colour image is needed, not {message.encoding!r}; publish one of {', '.join(_TO_RGB)}")
    pixels = image_pixels(message)
    if message.encoding == "rgb8":
        return pixels
    return np.atleast_3d(pixels)[:, :, _TO_RGB[message.encoding]]


def metres(message: Any) -> np.ndarray:
    """Depth float32 [H, W] in m, 0 invalid, from 16UC1 (mm) or 32FC1 (m). Raises RefusedStep for other encodings."""
    if message.encoding not in ("16UC1", "32FC1"):
        raise RefusedStep(f"a depth image is needed, not {message.encoding!r}; publish 16UC1 (mm) or 32FC1 (m)")
    scale = 1e-3 if message.encoding == "16UC1" else 1.0
    depth: np.ndarray = image_pixels(message).astype(np.float32) * np.float32(scale)
    return depth


def unpacked(message: Any) -> tuple[np.ndarray, str]:
    """Pixels and encoding of a CompressedImage: uint8 [H, W, 3] rgb8, uint8 [H, W] mono8, uint16 [H, W] 16UC1.

    Depth has the 12-byte header of compressed_depth_image_transport before its PNG. Raises RefusedStep for data that
    cannot be decoded.
    """
    data = np.frombuffer(message.data, np.uint8)
    if "compressedDepth" in message.format:
        if "32FC1" in message.format:
            raise RefusedStep("32FC1 in compressedDepth is quantised, which is not read; record 16UC1, or raw")
        data = data[DEPTH_HEAD:]
    pixels = cv2.imdecode(data, cv2.IMREAD_UNCHANGED) if len(data) else None
    if pixels is None:
        raise RefusedStep(f"a picture of the form {message.format!r} cannot be decoded; publish JPEG or PNG")
    if pixels.ndim == 3:
        return np.ascontiguousarray(pixels[:, :, 2::-1]), "rgb8"
    return pixels, "mono8" if pixels.dtype == np.uint8 else "16UC1"


DEPTH_HEAD: Final = 12
"""Bytes of compressed_depth_image_transport before the PNG: an int32 and two float32, zeros for 16UC1."""


def depth_codes(message: Any) -> np.ndarray:
    """The codes of a DepthTokens message, uint8 [rows, columns]."""
    return np.frombuffer(message.codes, np.uint8).reshape(message.rows, message.columns)


def trace_points(message: Any) -> np.ndarray:
    """The trace in the model's coordinates, int64 [n, 2] in 0..255. Raises RefusedStep if it is malformed."""
    if len(message.x) != len(message.y) or not 1 <= len(message.x) <= MAX_POINTS:
        raise RefusedStep(
            f"a trace has 1..{MAX_POINTS} points, each with x and y; got {len(message.x)} and {len(message.y)}"
        )
    fractions = np.stack([message.x, message.y], axis=1).astype(np.float64)
    if not np.isfinite(fractions).all() or fractions.min() < 0.0 or fractions.max() > 1.0:
        raise RefusedStep("trace points are fractions of the image, 0..1; got one outside")
    return np.round(fractions * MAX_COORDINATE).astype(np.int64)


def chunk_actions(message: Any) -> np.ndarray:
    """The actions, float64 [N, D]. Raises RefusedStep if their count is not N * D or the action space is unknown."""
    if message.action_space not in SPACES:
        raise RefusedStep(f"action space {message.action_space} is unknown; send one that ActionChunk.msg names")
    if len(message.actions) != message.steps * message.dimensions or not len(message.actions):
        count, steps, dimensions = len(message.actions), message.steps, message.dimensions
        raise RefusedStep(f"an action chunk holds {count} values, not {steps} x {dimensions}; check who publishes it")
    return np.array(message.actions, dtype=np.float64).reshape(message.steps, message.dimensions)
