"""What the controller tells one arm in one cycle."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class ArmCommand:
    """One arm's command: `position`, `velocity`, `acceleration` float64 [7] in rad, rad/s, rad/s^2, in the order of the
    arm's joints; `opening`: m between the finger tips, 0..0.08; `period`: s until the next command follows.
    """

    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    opening: float
    period: float
