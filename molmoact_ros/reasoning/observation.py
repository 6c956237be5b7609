"""What the robot sees and is told at one moment."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Observation:
    """Frames and instruction of one reasoning step.

    images: one uint8 [H, W, 3] RGB array per camera, the front (third-person) camera first, then the wrist.
    instruction: the task in words.
    stamp: time of the front image in seconds (ROS time).
    trace: int [n, 2] points (x, y), 0..255 of the front image, drawn by a person; None lets the model plan its own.
    depth: float [H, W] m of the front camera, 0 where there is none; None without a depth camera.
    """

    images: tuple[np.ndarray, ...]
    instruction: str
    stamp: float
    trace: np.ndarray | None = None
    depth: np.ndarray | None = None
