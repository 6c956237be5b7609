"""One arm's measured joints: rejects implausible samples, and accepts a jump only once it is confirmed."""

from __future__ import annotations

import math
from collections import deque
from typing import Final

import numpy as np

from molmoact_ros.control.clock_monitor import OTHER_CLOCK
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
BACKWARD: Final = 1e-3
"""s by which a joint's stamps may go back: rounding."""

EVERY: Final = np.ones(JOINTS, bool)
NONE: Final = np.zeros(JOINTS, bool)


class Measurement:
    """The newest accepted sample.

    joints: float64 [7] rad, None before the first. opening: distance between the finger tips, m. stamps: [7] times of
    the measurement, s. arrivals: [7] times of their arrival on the steady clock, s; joints may be published in several
    messages. refused: why a sample was rejected, in one line; empty: none was in the DOUBTED s before the newest one.
    backward: by how much a stamp was before the one before it, s; 0: none was in that time. Where samples have stopped,
    `is_refusing` and `is_going_back` say whether these two still count.
    """

    def __init__(self, limits: Limits, agreeing: int, stroke: float = OPENING_MAX) -> None:
        """agreeing: consecutive samples that must agree before the first one, or one that jumps, is accepted.

        stroke: greatest opening of the hand, m.
        """
        self.joints: np.ndarray | None = None
        self.opening = self._stroke = stroke
        self.stamps, self.arrivals = np.full(JOINTS, -np.inf), np.full(JOINTS, -np.inf)
        self.refused, self._refused_at = "", -np.inf
        self.backward, self._backward_at = 0.0, -np.inf
        self._repeated = NONE  # joints whose last message had the stamp of the one before
        self._agreeing, self._fastest = agreeing, SLACK * limits.velocity_max
        self._low, self._high = limits.position_min - OUTSIDE, limits.position_max + OUTSIDE
        self._recent: deque[tuple[float, np.ndarray, np.ndarray]] = deque()  # latest arrival, arrivals, joints
        self._candidate: np.ndarray | None = None
        self._candidate_at, self._count = np.full(JOINTS, -np.inf), 0
        self._counted = NONE  # joints that came anew since the last count

    @property
    def stamp(self) -> float:
        """Stamp of the oldest joint, s: a state is as old as its oldest part."""
        return float(self.stamps.min())

    @property
    def heard(self) -> float:
        """Arrival of the joint that came least recently, s on the steady clock."""
        return float(self.arrivals.min())

    def take_sample(
        self,
        q: np.ndarray,
        opening: float,
        stamp: float | np.ndarray,
        heard: float | np.ndarray,
        updated: np.ndarray | None = None,
    ) -> bool:
        """Process a sample: joints [7] rad and gripper opening in m. False if it is rejected.

        stamp, heard: of the sample, or [7] of each joint. updated: joints that came anew, bool [7]; None: all.
        """
        q = np.asarray(q, np.float64)
        stamps = stamp if isinstance(stamp, np.ndarray) else np.full(JOINTS, stamp, np.float64)
        arrivals = heard if isinstance(heard, np.ndarray) else np.full(JOINTS, heard, np.float64)
        updated, latest = EVERY if updated is None else updated, float(arrivals.max())
        if latest - self._refused_at > DOUBTED:
            self.refused = ""
        if q.shape != (JOINTS,) or not math.isfinite(q.sum() + stamps.sum() + arrivals.sum() + opening):
            return self._refuse("joint states hold NaN or infinity, or not seven joints", latest)
        if (outside := (q < self._low) | (q > self._high)).any():
            joint = int(np.argmax(outside))
            return self._refuse(
                f"joint {joint + 1} is told to be at {q[joint]:.2f} rad, outside of the robot's range", latest
            )
        if not self._agrees(self.joints, self.arrivals, q, arrivals):
            self._count_candidate(q, arrivals, updated)
            if self._count < self._agreeing:
                return self._refuse("joint states jump; waiting for samples that agree", latest)
            self._recent.clear()
            self.refused = ""  # the arm was moved, such as by a simulator's reset
        self._note_stamps(stamps, updated, latest)
        self._believe(q, opening, stamps, arrivals, latest)
        return True

    def _count_candidate(self, q: np.ndarray, arrivals: np.ndarray, updated: np.ndarray) -> None:
        """Count samples in a row that agree with each other; each joint has to come anew for one to count."""
        if not self._agrees(self._candidate, self._candidate_at, q, arrivals):
            self._count, self._counted = 0, NONE
        self._candidate, self._candidate_at = q, arrivals
        self._counted = self._counted | updated
        if self._counted.all():
            self._count, self._counted = self._count + 1, NONE

    def _agrees(self, before: np.ndarray | None, at: np.ndarray, q: np.ndarray, arrivals: np.ndarray) -> bool:
        """Whether a robot could have moved from `before` to `q` in that time."""
        if before is None:
            return False
        reach = self._fastest * np.maximum(arrivals - at, 0.0) + JUMP
        return bool((np.abs(q - before) <= reach).all())

    def _note_stamps(self, stamps: np.ndarray, updated: np.ndarray, latest: float) -> None:
        """Note the joints whose stamps repeat or go back."""
        if latest - self._backward_at > DOUBTED:
            self.backward = 0.0
        steps = stamps - self.stamps
        if steps.min() > 0.0:  # all rise, as they should
            self._repeated = NONE
            return
        self._repeated = np.where(updated, steps == 0.0, self._repeated)
        if (back := -float(steps[updated].min(initial=0.0))) > BACKWARD:
            self.backward, self._backward_at = max(back, self.backward), latest

    def _believe(self, q: np.ndarray, opening: float, stamps: np.ndarray, arrivals: np.ndarray, latest: float) -> None:
        self.joints, self.opening = q, min(max(float(opening), 0.0), self._stroke)
        self.stamps, self.arrivals = stamps, arrivals
        self._candidate, self._count, self._counted = None, 0, NONE
        while self._recent and self._recent[0][0] < latest - FORGOTTEN:
            self._recent.popleft()
        self._recent.append((latest, arrivals, q))
        while len(self._recent) > 2 and self._recent[1][0] <= latest - LOOK_BACK:
            self._recent.popleft()

    def doubt(self, why: str, heard: float) -> None:
        """Report, for DOUBTED s from `heard` on, why a part of a sample was left out, in one line."""
        self._refuse(why, heard)

    def _refuse(self, why: str, heard: float) -> bool:
        self.refused, self._refused_at = why, heard if math.isfinite(heard) else self.heard
        return False

    def is_refusing(self, steady: float) -> bool:
        """Whether a sample was rejected within the last DOUBTED s. steady: time on the steady clock, s."""
        return bool(self.refused) and steady - self._refused_at <= DOUBTED

    def is_going_back(self, steady: float) -> bool:
        """Whether a stamp went back within the last DOUBTED s. steady: time on the steady clock, s."""
        return self.backward > 0.0 and steady - self._backward_at <= DOUBTED

    def wrong_time(self, now: float, steady: float, deadline: float) -> str:
        """Why these joints are no state of now, as the end of a sentence about them; empty: they are.

        now: ROS time, s; steady: time on the steady clock, s; deadline: greatest age, s.
        """
        oldest, newest = now - self.stamps.min(), now - self.stamps.max()
        if steady - self.arrivals.min() <= deadline and -deadline <= newest and oldest <= deadline:
            return ""
        silent = steady - self.arrivals
        if not (silent <= deadline).all():
            which = "" if (silent > deadline).all() else _numbers(silent > deadline)
            return f"have stopped{which}: none came for {float(silent.max()):.1f} s"
        ages = now - self.stamps
        worst = int(np.argmax(np.abs(ages)))
        if self.stamps[worst] <= 0.0:
            return "are stamped 0; their driver has to stamp them with the time of the measurement"
        which = "" if (np.abs(ages) > deadline).all() else _numbers(np.abs(ages) > deadline)
        if abs(ages[worst]) > OTHER_CLOCK:
            return f"are stamped by another clock{which}: set use_sim_time alike for every node"
        side = "old" if ages[worst] > 0 else "in the future"
        if self._repeated[worst] and ages[worst] > 0:
            return f"repeat{which} a stamp that is {ages[worst]:.1f} s old: their driver or its clock stands still"
        return f"are {abs(ages[worst]):.1f} s {side}{which}: check the clocks of the computers"

    @property
    def speed(self) -> float:
        """Greatest joint speed over the last samples, rad/s; 0 with a single sample."""
        if len(self._recent) < 2:
            return 0.0
        (_, then, before), (_, now, q) = self._recent[0], self._recent[-1]
        return float((np.abs(q - before) / np.maximum(now - then, 1e-3)).max())


def _numbers(joints: np.ndarray) -> str:
    """Which joints, bool [7], as a part of a sentence."""
    return f" (joint {', '.join(str(place + 1) for place in np.flatnonzero(joints))})"
