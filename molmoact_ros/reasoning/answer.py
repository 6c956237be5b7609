"""The parts of an answer, and the error for malformed inputs and answers."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class RefusedStep(ValueError):
    """A malformed input or answer. The message is one line that says what to do."""


class Segment(Enum):
    """The part of the answer that a token belongs to."""

    TEMPLATE = "template"
    DEPTH = "depth"
    TRACE = "trace"
    ACTION = "action"
    END = "end"

    __hash__ = object.__hash__  # Enum's own is a Python function, which decoding would call thousands of times a step


@dataclass(frozen=True)
class Reasoning:
    """The decoded parts of an answer so far. A part is None until it is complete, or if the answer's form lacks it.

    depth_codes: uint8 [10, 10], row-major over the front image, each 0..127.
    trace: int [n, 2], n 1..5, points (x, y) in 0..255 of the front image; the first is the gripper's current position.
    actions: float64 [N, D], un-normalised, in the meaning of the checkpoint's `ActionConvention`.
    complete: whether the answer has ended.
    second_trace: as `trace`, for the right arm's gripper, if the answer's form has one trace per arm.
    """

    depth_codes: np.ndarray | None
    trace: np.ndarray | None
    actions: np.ndarray | None
    complete: bool
    second_trace: np.ndarray | None = None
