"""ROS messages <-> numpy, without cv_bridge."""

from __future__ import annotations

import array
import sys
from typing import Final

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image
from std_msgs.msg import Header

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.msg import ActionChunk, DepthTokens, Trace
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS, checked_trace

_PIXEL: Final = {
    "rgb8": (np.uint8, 3), "bgr8": (np.uint8, 3), "rgba8": (np.uint8, 4), "bgra8": (np.uint8, 4),
    "mono8": (np.uint8, 1), "16UC1": (np.uint16, 1), "mono16": (np.uint16, 1), "32FC1": (np.float32, 1),
}  # fmt: skip
_SPACES: Final = (ActionChunk.DELTA_EE_POSE, ActionChunk.EE_POSE, ActionChunk.JOINT_POSITION)
_TO_RGB: Final = {"rgb8": [0, 1, 2], "bgr8": [2, 1, 0], "rgba8": [0, 1, 2], "bgra8": [2, 1, 0], "mono8": [0, 0, 0]}


def seconds(stamp: Time) -> float:
    """ROS time in seconds."""
    return float(stamp.sec + stamp.nanosec * 1e-9)


def time_message(stamp: float) -> Time:
    """ROS time from seconds."""
    whole, nanoseconds = divmod(round(stamp * 1e9), 10**9)
    return Time(sec=whole, nanosec=nanoseconds)


def header(stamp: float, frame: str) -> Header:
    """A header of `stamp` seconds in `frame`."""
    return Header(stamp=time_message(stamp), frame_id=frame)


def optical_frame(camera: str) -> str:
    """A camera's frame, z ahead and y down, as realsense-ros names it."""
    return f"{camera}_color_optical_frame"


def image_message(pixels: np.ndarray, encoding: str, head: Header) -> Image:
    """An image of [H, W] or [H, W, C] pixels whose dtype is that of `encoding` (rgb8, 16UC1, 32FC1, ...)."""
    dtype, channels = _PIXEL[encoding]
    height, width = pixels.shape[:2]
    if pixels.dtype != dtype or pixels.size != height * width * channels:
        raise ValueError(
            f"{encoding} wants {np.dtype(dtype)} of {channels} channels, not {pixels.dtype} {pixels.shape}"
        )
    # An array.array is taken over as it is; bytes or a list would be checked element by element.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).tobytes())
    step = width * channels * np.dtype(dtype).itemsize
    big_endian = sys.byteorder == "big"
    return Image(
        header=head, height=height, width=width, encoding=encoding, is_bigendian=big_endian, step=step, data=data
    )


def image_pixels(message: Image) -> np.ndarray:
    """The pixels [H, W] or [H, W, C] as the message's encoding has them; a view of its data.

    Raises RefusedStep for an unknown encoding and for data that is too short.
    """
    if message.encoding not in _PIXEL:
        raise RefusedStep(f"image encoding {message.encoding!r} is not read; publish one of {', '.join(_PIXEL)}")
    kind, channels = _PIXEL[message.encoding]
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


def rgb_pixels(message: Image) -> np.ndarray:
    """Colour, uint8 [H, W, 3] RGB. Raises RefusedStep when the image is not 8-bit colour or grey."""
    if message.encoding not in _TO_RGB:
        raise RefusedStep(f"a colour image is needed, not {message.encoding!r}; publish one of {', '.join(_TO_RGB)}")
    pixels = image_pixels(message)
    if message.encoding == "rgb8":
        return pixels
    return np.atleast_3d(pixels)[:, :, _TO_RGB[message.encoding]]


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth float [H, W] in m, 0 invalid, as RealSense publishes it: uint16 mm (16UC1)."""
    return np.round(depth * 1000.0).astype(np.uint16)


def metres(message: Image) -> np.ndarray:
    """Depth float32 [H, W] in m, 0 invalid, of millimetres (16UC1) or metres (32FC1). Raises RefusedStep for others."""
    if message.encoding not in ("16UC1", "32FC1"):
        raise RefusedStep(f"a depth image is needed, not {message.encoding!r}; publish 16UC1 (mm) or 32FC1 (m)")
    scale = 1e-3 if message.encoding == "16UC1" else 1.0
    depth: np.ndarray = image_pixels(message).astype(np.float32) * np.float32(scale)
    return depth


def camera_info(intrinsics: CameraIntrinsics, head: Header) -> CameraInfo:
    """The intrinsics, with the distortion that the picture has."""
    k = intrinsics
    return CameraInfo(
        header=head, width=k.width, height=k.height, distortion_model=k.model, d=list(k.distortion),
        k=[k.fx, 0.0, k.cx, 0.0, k.fy, k.cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[k.fx, 0.0, k.cx, 0.0, 0.0, k.fy, k.cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )  # fmt: skip


def depth_tokens_message(codes: np.ndarray, codebook: str, plan_id: int, head: Header) -> DepthTokens:
    """Depth codes, integers [rows, columns] in 0..127."""
    rows, columns = codes.shape
    data = array.array("B", codes.astype(np.uint8).tobytes())
    return DepthTokens(header=head, plan_id=plan_id, rows=rows, columns=columns, codes=data, codebook=codebook)


def depth_codes(message: DepthTokens) -> np.ndarray:
    """The codes, uint8 [rows, columns]."""
    return np.frombuffer(message.codes, np.uint8).reshape(message.rows, message.columns)


def trace_message(trace: np.ndarray, source: int, plan_id: int, head: Header) -> Trace:
    """Trace points, integers [n, 2] in 0..255."""
    x, y = (checked_trace(trace) / MAX_COORDINATE).T.tolist()
    return Trace(header=head, plan_id=plan_id, source=source, x=x, y=y)


def trace_points(message: Trace) -> np.ndarray:
    """The trace as the model has it, int64 [n, 2] in 0..255. Raises RefusedStep when it is not well formed."""
    if len(message.x) != len(message.y) or not 1 <= len(message.x) <= MAX_POINTS:
        raise RefusedStep(
            f"a trace has 1..{MAX_POINTS} points, each with x and y; got {len(message.x)} and {len(message.y)}"
        )
    fractions = np.stack([message.x, message.y], axis=1).astype(np.float64)
    if not np.isfinite(fractions).all() or fractions.min() < 0.0 or fractions.max() > 1.0:
        raise RefusedStep("trace points are fractions of the image, 0..1; got one outside")
    return np.round(fractions * MAX_COORDINATE).astype(np.int64)


def stroke(message: Trace) -> np.ndarray:
    """A drawing as it came, float64 [n, 2] in fractions of the picture. Raises RefusedStep when x and y do not pair."""
    if len(message.x) != len(message.y):
        raise RefusedStep(f"each point of a drawing has x and y; got {len(message.x)} and {len(message.y)}")
    return np.stack([message.x, message.y], axis=1).astype(np.float64)


def chunk_message(
    actions: np.ndarray, dt: float, unnorm_key: str, plan_id: int, head: Header, mode: str = ""
) -> ActionChunk:
    """Actions, float [N, D], one each `dt` seconds from the header's stamp on; mode: the engine's."""
    steps, dimensions = actions.shape
    return ActionChunk(
        header=head, plan_id=plan_id, action_space=ActionChunk.DELTA_EE_POSE, unnorm_key=unnorm_key, dt=dt,
        mode=mode, steps=steps, dimensions=dimensions, actions=array.array("d", actions.astype(np.float64).tobytes()),
    )  # fmt: skip


def chunk_actions(message: ActionChunk) -> np.ndarray:
    """The actions, float64 [N, D]. Raises RefusedStep when their count is not N * D or their kind is unknown."""
    if message.action_space not in _SPACES:
        raise RefusedStep(f"action space {message.action_space} is unknown; send one that ActionChunk.msg names")
    if len(message.actions) != message.steps * message.dimensions or not message.actions:
        count, steps, dimensions = len(message.actions), message.steps, message.dimensions
        raise RefusedStep(f"an action chunk holds {count} values, not {steps} x {dimensions}; check who publishes it")
    return np.array(message.actions, dtype=np.float64).reshape(message.steps, message.dimensions)
