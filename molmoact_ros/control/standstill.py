"""Since when an arm has stood still, by its commands and by its measurements alike."""

from __future__ import annotations

from typing import Final

import numpy as np

SETTLED: Final = 0.1
"""s of standing before the capture time of an image that shows the standing arm: delays of stamps and of the arm."""
COMMANDED: Final = 1e-6
"""rad and m by which commands of a standing arm may differ: the limiter approaches its target in ever smaller steps."""
STOOD_RAD: Final = 0.005
"""rad by which a standing arm's measured joints may differ from those at which it came to rest: sag, and noise."""
STOOD_M: Final = 0.002
"""m by which the measured opening of its gripper may."""
_TOLERANCE: Final = np.repeat([COMMANDED, STOOD_RAD, STOOD_M], [8, 7, 1])


class Standstill:
    """Watches one arm and its gripper; call `observe` once per cycle.

    since: time of the last cycle in which the arm or its gripper was commanded to move, or measured elsewhere, s.
    """

    def __init__(self) -> None:
        self.since = np.inf
        self._rest = np.full(16, np.inf)  # commanded joints and opening, measured joints and opening at that time

    def observe(
        self, now: float, q: np.ndarray, opening: float | None, measured: np.ndarray, measured_opening: float
    ) -> None:
        """Process a cycle at `now`, s: commanded joints `q` [7] rad and opening m, and the measured ones."""
        there = np.hstack([q, -1.0 if opening is None else opening, measured, measured_opening])
        if (np.abs(there - self._rest) > _TOLERANCE).any():
            self.since, self._rest = now, there

    def hand_over(self, now: float) -> None:
        """Somebody else moves the arm from `now` on, s: times of a clock that went back count no more."""
        self.since = min(self.since, now)

    def at(self, stamp: float) -> bool:
        """Whether the arm stands, and stood already when an image was captured at `stamp`, s."""
        return stamp >= self.since + SETTLED
