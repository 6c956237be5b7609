"""The parts of an answer, and the one error for everything that is not well formed."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum

import numpy as np


class RefusedStep(ValueError):
    """An input or an answer that is not well formed. Its message is one line that says what to do."""


class Segment(Enum):
    """The part of the answer that a token belongs to."""

    TEMPLATE = "template"
    DEPTH = "depth"
    TRACE = "trace"
    ACTION = "action"
    END = "end"


@dataclass(frozen=True)
class Reasoning:
    """What the model has said so far; a part is None until it is complete, or where the form of the answer lacks it.

    depth_codes: uint8 [10, 10], row-major over the front image, each 0..127.
    trace: int [n, 2], n 1..5, points (x, y) in 0..255 of the front image; the first is the gripper now.
    actions: float64 [N, D], un-normalised: dx, dy, dz (m), droll, dpitch, dyaw (rad) in the base frame, gripper
        (1 open .. 0 closed).
    complete: the answer has ended.
    second_trace: as `trace`, of the right arm's gripper, where the form of the answer has one for each arm.
    """

    depth_codes: np.ndarray | None
    trace: np.ndarray | None
    actions: np.ndarray | None
    complete: bool
    second_trace: np.ndarray | None = None
