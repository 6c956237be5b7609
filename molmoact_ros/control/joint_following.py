"""Follows an operator's joint targets, as a leader arm gives them, and approaches one that is far away slowly."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.control.homing import LAG, RAMP
from molmoact_ros.control.limiter import Motion
from molmoact_ros.robots.franka import JOINTS

NEAR: Final = 0.1
"""rad between target and commanded joints within which the arm has caught up with its leader."""
JUMP: Final = 0.3
"""rad between two targets, one cycle after the other, from which on the second one is another first: no operator moves
so fast, and a leader that was started anew may be anywhere."""


class JointFollowing:
    """One arm's leader. Call `step` once per cycle of `dt` s while there is a target, and `reset` when there is none.

    The first target, and one that jumps, is approached in a straight line at `speed`; from the moment at which the arm
    is NEAR the target it follows as fast as the limiter lets it.

    Args:
        speed: of the joints on the approach, [7] rad/s at most.
        dt: period of the control loop, s.
    """

    def __init__(self, speed: np.ndarray, dt: float) -> None:
        self._speed, self._dt = np.asarray(speed, np.float64), dt
        self.reset()

    def reset(self) -> None:
        """Forget the leader: the next target is a first one."""
        self._before: np.ndarray | None = None
        self._way: np.ndarray | None = None  # where the approach is; None: the arm has caught up
        self._pace = 0.0  # fraction of its speed

    def step(self, target: np.ndarray, commanded: np.ndarray, rest: np.ndarray) -> Motion:
        """The desired motion of this cycle.

        target: the leader's joints, [7] rad. commanded: the arm's in the last cycle, [7] rad. rest: where it would come
        to rest, [7] rad; an approach begins there.
        """
        if self._before is None or float(np.abs(target - self._before).max()) > JUMP:
            self._way, self._pace = rest.copy(), 0.0
        self._before = target.copy()
        if self._way is None or float(np.abs(target - commanded).max()) <= NEAR:
            self._way = None
            return Motion.at_rest(target)
        if float(np.abs(self._way - commanded).max()) > LAG:
            self._pace = 0.0
            return Motion.at_rest(self._way)
        left, self._pace = target - self._way, min(self._pace + self._dt / RAMP, 1.0)
        velocity = self._pace * left / max(float(np.max(np.abs(left) / self._speed)), self._dt)
        self._way = self._way + velocity * self._dt
        return Motion(self._way, velocity, np.zeros(JOINTS))
