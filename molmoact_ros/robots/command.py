"""The command that the controller sends to one arm in one cycle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArmCommand:
    """One arm's command for one cycle.

    Args:
        position: float64 [7] rad, in the order of the arm's joints, as the others.
        velocity: float64 [7] rad/s.
        acceleration: float64 [7] rad/s^2.
        opening: distance between the finger tips, 0..0.08 m.
        period: time until the next command, s.
    """

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    opening: float
    period: float
