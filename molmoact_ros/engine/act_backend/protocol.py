"""Requests and answers of MolmoAct2's server, POST /act: a robot's fields, what is written and what is read of them."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from molmoact_ros.engine.act_backend.json_numpy import (
    IMAGE,
    NUMBERS,
    WireError,
    decode_array,
    encode_array,
    parse_object,
    short,
)

LARGEST_REQUEST: Final = 64 << 20
"""Bytes of a request at most: three images of 2560x1440 in base64 are less."""
LARGEST_ANSWER: Final = 1 << 20
"""Bytes of an answer at most: 30 actions of 14 values have 2400."""
LONGEST_INSTRUCTION: Final = 2000
"""Characters of an instruction at most; the engine has limits of its own."""
MOST_FLOW_STEPS: Final = 100
"""Euler steps that a request may ask for; the reference takes 10."""


ImageFields = tuple[str, ...]
"""The field of each camera's image in a request, in the model's order."""
FIELDS: Final[dict[int, ImageFields]] = {
    2: ("external_cam", "wrist_cam"),  # DROID's server
    3: ("top_cam", "left_cam", "right_cam"),  # YAM's
}
"""By number of cameras, as the reference servers have them."""


@dataclass(frozen=True)
class ActRequest:
    """What /act is asked.

    images: uint8 [H, W, 3] RGB of each camera. state: float64 [D] in the units, order and gripper polarity of the
    checkpoint's tag. flow_steps: Euler steps; None: the server's own.
    """

    images: tuple[np.ndarray, ...]
    instruction: str
    state: np.ndarray
    flow_steps: int | None = None


def fields_of(cameras: int) -> ImageFields:
    """The fields for a number of cameras. Raises ValueError for a number that no known server has."""
    if cameras not in FIELDS:
        raise ValueError(
            f"/act has fields for {' or '.join(map(str, FIELDS))} cameras (DROID's and YAM's), not for {cameras}"
        )
    return FIELDS[cameras]


def request_body(request: ActRequest, fields: ImageFields) -> bytes:
    """The body of a request; the state travels as float32."""
    body: dict[str, Any] = {name: encode_array(image) for name, image in zip(fields, request.images, strict=True)}
    body |= {"instruction": request.instruction, "state": encode_array(request.state.astype(np.float32))}
    if request.flow_steps is not None:
        body["num_steps"] = request.flow_steps
    return json.dumps(body).encode()


def parse_request(body: bytes, fields: ImageFields, dimensions: int) -> ActRequest:
    """The request in `body`; what it holds besides is ignored, as by the reference.

    dimensions: values of the state. Raises WireError, in one line that names the field.
    """
    found = parse_object(body)
    if missing := [name for name in (*fields, "instruction", "state") if name not in found]:
        raise WireError(f"{missing[0]} is missing; send {', '.join(fields)}, instruction and state")
    instruction, steps = found["instruction"], found.get("num_steps")
    if not isinstance(instruction, str) or len(instruction) > LONGEST_INSTRUCTION:
        raise WireError(f"instruction has to be a text of at most {LONGEST_INSTRUCTION} characters")
    if steps is not None and not (type(steps) is int and 1 <= steps <= MOST_FLOW_STEPS):
        raise WireError(f"num_steps is {short(steps)}; give a whole number from 1 to {MOST_FLOW_STEPS}")
    images = tuple(decode_array(found[name], name, IMAGE, (None, None, 3)) for name in fields)
    state = decode_array(found["state"], "state", NUMBERS, (dimensions,)).astype(np.float64)
    return ActRequest(images, instruction, state, steps)


def answer_body(actions: np.ndarray, seconds: float) -> bytes:
    """The body of an answer: actions [N, D], which travel as float32, and how long they took."""
    return json.dumps({"actions": encode_array(actions.astype(np.float32)), "dt_ms": 1e3 * seconds}).encode()


def parse_answer(body: bytes, shape: Sequence[int]) -> np.ndarray:
    """The actions in an answer's body, float64 [N, D]; `shape` is [most N, D]. Raises WireError."""
    found = parse_object(body)
    if "actions" not in found:
        raise WireError(f"actions are missing; the answer holds {short(', '.join(found)) or 'nothing'}")
    most, dimensions = shape
    actions = decode_array(found["actions"], "actions", NUMBERS, (None, dimensions)).astype(np.float64)
    if len(actions) > most:
        raise WireError(f"actions are {len(actions)}; a chunk of this robot has at most {most}")
    return actions


def error_body(text: str) -> bytes:
    """The body of a refusal."""
    return json.dumps({"error": text}).encode()


def error_of(body: bytes) -> str:
    """The text of a refusal, or the beginning of whatever else came; one line of at most 200 characters."""
    try:
        text = str(parse_object(body).get("error", ""))
    except WireError:
        text = ""
    return " ".join((text or body.decode(errors="replace")).split())[:200]
