"""Messages of vla-eval's protocol, version 1: msgpack maps over a websocket, between a harness and a model's server.

The harness sends hello, episode_start, observation and episode_end; the server answers hello with hello, and an
observation with an action, or with an error. Fields as in vla-eval 0.8.0.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import msgpack
import numpy as np

from molmoact_ros.cameras.compressed_images import MOST_PIXELS

VERSION: Final = 1
LARGEST: Final = 1 << 26
"""Bytes of a message that are read: two images of any camera, uncompressed."""
HELLO, START, OBSERVATION, ACTION, END, ERROR = (
    "hello", "episode_start", "observation", "action", "episode_end", "error"
)  # fmt: skip
SPECS: Final = {
    "action_spec": {
        "position": {"name": "position", "dims": 3, "format": "delta_xyz", "range": [-1, 1]},
        "rotation": {"name": "rotation", "dims": 3, "format": "axis_angle", "range": [-3.15, 3.15]},
        "gripper": {"name": "gripper", "dims": 1, "format": "binary_close_positive", "range": [-1, 1]},
    },
    "observation_spec": {
        "agentview": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
        "wrist": {"name": "image", "dims": 0, "format": "rgb_hwc_uint8"},
        "language": {"name": "language", "dims": 0, "format": "language"},
    },
    "observation_params": {"send_wrist_image": True},
}
"""What our hello says of our actions, which are inputs of OSC_POSE, and of the observations that we need."""


@dataclass(frozen=True)
class HarnessMessage:
    """One message. kind: such as OBSERVATION. seq: its number, which an answer repeats."""

    kind: str
    payload: dict[str, Any]
    seq: int


@dataclass(frozen=True)
class HarnessObservation:
    """What a harness shows: images uint8 [H, W, 3] RGB, front first, and the task in words."""

    images: tuple[np.ndarray, ...]
    instruction: str


def pack(message: HarnessMessage) -> bytes:
    """The bytes of a message."""
    fields = {"type": message.kind, "payload": message.payload, "seq": message.seq, "timestamp": time.time()}
    return bytes(msgpack.packb(fields, use_bin_type=True))


def unpack(data: bytes) -> HarnessMessage:
    """Read a message. Raises ValueError, in one line, for anything that is none."""
    try:
        fields = msgpack.unpackb(data, object_hook=_decode, raw=False)
        message = HarnessMessage(fields["type"], fields["payload"], fields["seq"])
    except (ValueError, KeyError, TypeError, msgpack.UnpackException, cv2.error) as error:
        raise ValueError(f"{len(data)} bytes are no message of vla-eval's protocol: {error!r}") from None
    if not isinstance(message.kind, str) or not isinstance(message.payload, dict) or not isinstance(message.seq, int):
        raise ValueError("a message of vla-eval's protocol has a type, a payload with fields, and a whole number seq")
    return message


def _decode(fields: dict[str, Any]) -> Any:
    if fields.get("__image__") and fields["format"] != "raw":
        pixels = cv2.imdecode(np.frombuffer(fields["data"], np.uint8), cv2.IMREAD_COLOR)
        if pixels is None:
            raise ValueError("an image cannot be read")
        return np.ascontiguousarray(pixels[:, :, ::-1])
    if fields.get("__image__") or fields.get("__ndarray__"):
        kind = np.dtype(fields["dtype"])
        if kind.kind not in "biuf":
            raise ValueError(f"an array of {kind} is no number's")
        return np.frombuffer(fields["data"], kind).reshape(fields["shape"])
    return fields


def observation(payload: dict[str, Any], cameras: Sequence[str]) -> HarnessObservation:
    """The observation in a payload. cameras: the harness' names of the images, front first.

    Raises ValueError, in one line that says what to do, for one that lacks an image or the task's words.
    """
    images, instruction = payload.get("images"), payload.get("task_description")
    if not isinstance(images, dict) or (lacking := [name for name in cameras if name not in images]):
        there = ", ".join(images) if isinstance(images, dict) and images else "none"
        missing = lacking[0] if isinstance(images, dict) else cameras[0]
        raise ValueError(f"the observation has no image {missing!r}; there are: {there} (set the parameter images)")
    if not isinstance(instruction, str):
        raise ValueError("the observation has no task_description")
    for name in cameras:
        image = images[name]
        is_image = isinstance(image, np.ndarray) and image.dtype == np.uint8 and image.ndim == 3
        if not is_image or image.shape[2] != 3 or not 0 < image.shape[0] * image.shape[1] <= MOST_PIXELS:
            raise ValueError(f"the image {name!r} is no RGB image of usual size")
    return HarnessObservation(tuple(images[name] for name in cameras), instruction)


def hello(seq: int) -> HarnessMessage:
    """Our answer to a harness' hello of number `seq`."""
    about = {"harness_version": "molmoact_ros", "protocol_version": VERSION, "model_server": "molmoact_ros"}
    return HarnessMessage(HELLO, about | {"capabilities": {}} | SPECS, seq)
