"""One arm's measured joints: rejects implausible samples, and accepts a jump only once it is confirmed."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from molmoact_ros.robots.franka import JOINTS, OPENING_MAX, Limits

OUTSIDE: Final = 0.05
"""rad by which a measured joint may be outside of the robot's range: calibration, and a robot pushed to its stop."""
JUMP: Final = 0.02
"""rad that a joint may move between two samples beyond what its velocity limit allows: noise, and stamp jitter."""
SLACK: Final = 1.2
"""Multiple of the robot's velocity limit that is still plausible: the FCI allows no more than the limit itself."""
LOOK_BACK: Final = 0.05
"""s over which the measured speed is averaged."""
FORGOTTEN: Final = 0.2
"""s after which a sample no longer counts for the measured speed."""
DOUBTED: Final = 0.5
"""s for which a rejection is reported: samples of another robot arrive between accepted ones."""


class Measurement:
    """The newest accepted sample.

    joints: float64 [7] rad, None before the first. opening: distance between the finger tips, m. stamp: time of the
    measurement, s. heard: time of its arrival on the steady clock, s. refused: why a sample of the last DOUBTED s was
    rejected, in one line; empty: none was.
    """

    def __init__(self, limits: Limits, agreeing: int) -> None:
        """agreeing: consecutive samples that must agree before the first one, or one that jumps, is accepted."""
        self.joints: np.ndarray | None = None
        self.opening, self.stamp, self.heard = OPENING_MAX, -np.inf, -np.inf
        self.refused, self._refused_at = "", -np.inf
        self._agreeing, self._fastest = agreeing, SLACK * limits.velocity_max
        self._low, self._high = limits.position_min - OUTSIDE, limits.position_max + OUTSIDE
        self._recent: deque[tuple[float, np.ndarray]] = deque()  # accepted samples: heard, joints
        self._candidate: np.ndarray | None = None
        self._candidate_at, self._count = -np.inf, 0

    def take_sample(self, q: np.ndarray, opening: float, stamp: float, heard: float) -> bool:
        """Process a sample: joints [7] rad and gripper opening in m. False if it is rejected."""
        q = np.asarray(q, np.float64)
        if heard - self._refused_at > DOUBTED:
            self.refused = ""
        if q.shape != (JOINTS,) or not (np.isfinite(q).all() and math.isfinite(opening + stamp + heard)):
            return self._refuse("joint states hold NaN or infinity, or not seven joints", heard)
        if (outside := (q < self._low) | (q > self._high)).any():
            joint = int(np.argmax(outside))
            return self._refuse(
                f"joint {joint + 1} is told to be at {q[joint]:.2f} rad, outside of the robot's range", heard
            )
        if not self._agrees(self.joints, self.heard, q, heard):
            again = self._agrees(self._candidate, self._candidate_at, q, heard)
            self._count = self._count + 1 if again else 1
            self._candidate, self._candidate_at = q, heard
            if self._count < self._agreeing:
                return self._refuse("joint states jump; waiting for samples that agree", heard)
            self._recent.clear()
            self.refused = ""  # the arm was moved, such as by a simulator's reset
        self._believe(q, opening, stamp, heard)
        return True

    def _agrees(self, before: np.ndarray | None, at: float, q: np.ndarray, heard: float) -> bool:
        """Whether a robot could have moved from `before` to `q` in that time."""
        if before is None:
            return False
        reach = self._fastest * max(heard - at, 0.0) + JUMP
        return bool((np.abs(q - before) <= reach).all())

    def _believe(self, q: np.ndarray, opening: float, stamp: float, heard: float) -> None:
        self.joints, self.opening = q, min(max(float(opening), 0.0), OPENING_MAX)
        self.stamp, self.heard = stamp, heard
        self._candidate, self._count = None, 0
        while self._recent and self._recent[0][0] < heard - FORGOTTEN:
            self._recent.popleft()
        self._recent.append((heard, q))
        while len(self._recent) > 2 and self._recent[1][0] <= heard - LOOK_BACK:
            self._recent.popleft()

    def _refuse(self, why: str, heard: float) -> bool:
        self.refused, self._refused_at = why, heard if math.isfinite(heard) else self.heard
        return False

    @property
    def speed(self) -> float:
        """Greatest joint speed over the last samples, rad/s; 0 with a single sample."""
        if len(self._recent) < 2:
            return 0.0
        (then, before), (now, q) = self._recent[0], self._recent[-1]
        return float(np.abs(q - before).max() / max(now - then, 1e-3))
