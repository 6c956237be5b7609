"""ROS messages <-> numpy, without cv_bridge."""

from __future__ import annotations

import array
import math
import sys
from collections.abc import Sequence
from typing import Final

import numpy as np
from builtin_interfaces.msg import Time
from sensor_msgs.msg import CameraInfo, Image, JointState
from std_msgs.msg import Header

from molmoact_ros.bags.message_arrays import chunk_actions, depth_codes, seconds, trace_points
from molmoact_ros.cameras.image_encodings import PIXEL, image_pixels, image_size, metres, rgb_pixels
from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.msg import ActionChunk, AnswerTokens, DepthTokens, Trace
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation, known_depth
from molmoact_ros.reasoning.trace import MAX_COORDINATE, checked_trace
from molmoact_ros.reasoning.trace_steering import LONGEST
from molmoact_ros.ros.image_transport import CameraImage

__all__ = [
    "camera_info", "chunk_actions", "chunk_message", "depth_codes", "depth_tokens_message", "header", "image_message",
    "image_pixels", "joint_positions", "metres", "millimetres", "of_usual_size", "optical_frame", "rgb_pixels",
    "seconds", "stroke", "time_message", "tokens_message", "trace_message", "trace_points",
]  # fmt: skip
"""Conversions to messages are here. Conversions from messages also serve bags: they are in bags/message_arrays.py, and
those of images in cameras/image_encodings.py."""


def time_message(stamp: float) -> Time:
    """A ROS time message from seconds."""
    whole, nanoseconds = divmod(round(stamp * 1e9), 10**9)
    return Time(sec=whole, nanosec=nanoseconds)


def header(stamp: float, frame: str) -> Header:
    """A header with stamp `stamp`, s, and frame `frame`."""
    return Header(stamp=time_message(stamp), frame_id=frame)


def optical_frame(camera: str) -> str:
    """A camera's optical frame, z forward and y down, named as in realsense-ros."""
    return f"{camera}_color_optical_frame"


TRACE_SOURCES: Final = {Trace.MODEL: "model", Trace.HUMAN: "person", Trace.ACTIONS: "actions"}
"""Names of a trace's sources."""


def joint_positions(message: JointState) -> dict[str, float]:
    """Position of each joint by name, rad or m; joints whose position is not finite are dropped."""
    pairs = zip(message.name, message.position, strict=False)
    return {name: position for name, position in pairs if math.isfinite(position)}


HIGHEST: Final = 4096
"""Largest width or height of an image that is displayed, pixels."""


def of_usual_size(message: CameraImage) -> CameraImage:
    """The image. Raises RefusedStep for one whose rendering would take gigabytes, or that exceeds JPEG's size limit."""
    width, height = image_size(message)
    if max(width, height) > HIGHEST:
        raise RefusedStep(f"an image of {width}x{height} is larger than any camera's; it is not shown")
    return message


def image_message(pixels: np.ndarray, encoding: str, head: Header) -> Image:
    """An image message from [H, W] or [H, W, C] pixels whose dtype is that of `encoding` (rgb8, 16UC1, 32FC1, ...)."""
    dtype, channels = PIXEL[encoding]
    height, width = pixels.shape[:2]
    if pixels.dtype != dtype or pixels.size != height * width * channels:
        raise ValueError(
            f"{encoding} wants {np.dtype(dtype)} of {channels} channels, not {pixels.dtype} {pixels.shape}"
        )
    # The message adopts an array.array as it is; it would check bytes or a list element by element.
    data = array.array("B")
    data.frombytes(np.ascontiguousarray(pixels).tobytes())
    step = width * channels * np.dtype(dtype).itemsize
    big_endian = sys.byteorder == "big"
    return Image(
        header=head, height=height, width=width, encoding=encoding, is_bigendian=big_endian, step=step, data=data
    )


def millimetres(depth: np.ndarray) -> np.ndarray:
    """Depth float [H, W] in m in the format that RealSense publishes, uint16 mm (16UC1).

    0 where it is not known: not finite, not above zero, or beyond what 16 bits hold.
    """
    rounded = np.round(known_depth(depth) * 1000.0)
    return np.where(rounded < 2**16, rounded, 0).astype(np.uint16)


def camera_info(intrinsics: CameraIntrinsics, head: Header) -> CameraInfo:
    """A CameraInfo message from intrinsics, with the image's distortion model."""
    k = intrinsics
    return CameraInfo(
        header=head, width=k.width, height=k.height, distortion_model=k.model, d=list(k.distortion),
        k=[k.fx, 0.0, k.cx, 0.0, k.fy, k.cy, 0.0, 0.0, 1.0],
        r=[1.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0, 0.0, 1.0],
        p=[k.fx, 0.0, k.cx, 0.0, 0.0, k.fy, k.cy, 0.0, 0.0, 0.0, 1.0, 0.0],
    )  # fmt: skip


def depth_tokens_message(codes: np.ndarray, codebook: str, plan_id: int, head: Header) -> DepthTokens:
    """A message of depth tokens, integers [rows, columns] in 0..127."""
    rows, columns = codes.shape
    data = array.array("B", codes.astype(np.uint8).tobytes())
    return DepthTokens(header=head, plan_id=plan_id, rows=rows, columns=columns, codes=data, codebook=codebook)


def tokens_message(
    tokens: Sequence[int], digest: str, mode: str, observation: Observation, frames: Sequence[Time], plan_id: int,
    head: Header, unnorm_key: str = "", seed: int | None = None, flow_steps: int = 0,
) -> AnswerTokens:  # fmt: skip
    """The tokens that a checkpoint generated for an observation; frames: the stamps of its images.

    unnorm_key: of its statistics. seed: of the noise; None: there was none. flow_steps: from noise to actions.
    """
    state = [] if observation.state is None else np.asarray(observation.state.values, np.float64).tolist()
    x, y = ([], []) if observation.trace is None else (observation.trace / MAX_COORDINATE).T.tolist()
    return AnswerTokens(
        header=head, plan_id=plan_id, checkpoint=digest, mode=mode, instruction=observation.instruction,
        frames=list(frames), x=x, y=y, tokens=array.array("I", tokens), unnorm_key=unnorm_key,
        state=array.array("d", state), seeded=seed is not None, seed=seed or 0, flow_steps=flow_steps,
    )  # fmt: skip


def trace_message(trace: np.ndarray, source: int, plan_id: int, head: Header) -> Trace:
    """A message of trace points, integers [n, 2] in 0..255."""
    x, y = (checked_trace(trace) / MAX_COORDINATE).T.tolist()
    return Trace(header=head, plan_id=plan_id, source=source, x=x, y=y)


def stroke(message: Trace) -> np.ndarray:
    """An operator's drawing, unprocessed, float64 [n, 2] in fractions of the image, n up to steering.LONGEST.

    Raises RefusedStep when x and y differ in length, and for more points.
    """
    if max(len(message.x), len(message.y)) > LONGEST:
        raise RefusedStep(f"the drawing has {max(len(message.x), len(message.y))} points; send at most {LONGEST}")
    if len(message.x) != len(message.y):
        raise RefusedStep(f"each point of a drawing has x and y; got {len(message.x)} and {len(message.y)}")
    return np.stack([message.x, message.y], axis=1).astype(np.float64)


def chunk_message(
    actions: np.ndarray, dt: float, unnorm_key: str, plan_id: int, head: Header, mode: str = "",
    space: int = ActionChunk.DELTA_EE_POSE, stated: bool = False,
) -> ActionChunk:  # fmt: skip
    """A message of actions, float [N, D], one every `dt` seconds from the header's stamp on; mode: the engine's.

    space, stated: see ActionChunk.msg.
    """
    steps, dimensions = actions.shape
    return ActionChunk(
        header=head, plan_id=plan_id, action_space=int(space), unnorm_key=unnorm_key, stated=stated, dt=dt,
        mode=mode, steps=steps, dimensions=dimensions, actions=array.array("d", actions.astype(np.float64).tobytes()),
    )  # fmt: skip
