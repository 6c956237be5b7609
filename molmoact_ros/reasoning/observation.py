"""The model's input at one time step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class RobotState:
    """What a robot measured near the images, as the checkpoint's norm_tag has it.

    values: float [D], in the tag's own units, order and gripper polarity, not normalised.
    stamp: time of the oldest of them in seconds (ROS time).
    """

    values: np.ndarray
    stamp: float


@dataclass(frozen=True)
class Observation:
    """Images and instruction of one reasoning step.

    images: one uint8 [H, W, 3] RGB array per camera, the front (third-person) camera first, then the wrist.
    instruction: the task in natural language.
    stamp: time of the front image in seconds (ROS time).
    trace: the operator's trace, int [n, 2] points (x, y) in 0..255 of the front image; None: the model plans its own.
    depth: float [H, W] m of the front camera, 0 where invalid; None without a depth camera.
    state: of the robot; None for models that do not read it.
    seed: of the noise from which a model samples its actions; None: the engine draws one.
    """

    images: tuple[np.ndarray, ...]
    instruction: str
    stamp: float
    trace: np.ndarray | None = None
    depth: np.ndarray | None = None
    state: RobotState | None = None
    seed: int | None = None


def known_depth(depth: np.ndarray) -> np.ndarray:
    """Depth float [H, W] m with 0 wherever it is no measurement: NaN, below zero, and +-Inf (REP 118)."""
    return np.where((depth > 0) & (depth < np.inf), depth, depth.dtype.type(0))
