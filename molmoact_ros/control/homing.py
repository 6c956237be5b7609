"""The way home: a slow straight line in joint space from where the arm stands to its start position.

It is teleoperation like a twist: it goes on only while an operator asks for it, and every limit stays in force.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, field_validator

from molmoact_ros.control.limiter import Motion
from molmoact_ros.control.supervisor import Event
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS

RAMP: Final = 0.5
"""s in which the way reaches its speed, and in which it slows down to rest."""
LAG: Final = 0.05
"""rad between the way and the commanded joints at which the way waits: a limit keeps the arm from following."""
REACHED: Final = 1e-3
"""rad within which every joint is home."""
BLOCKED: Final = 2.0
"""s without progress after which the way counts as blocked."""
PROGRESS: Final = 0.005
"""rad by which the farthest joint comes nearer within that time on a way that is free."""


class HomeConfig(BaseModel):
    """position: [7] rad, inside the FR3's ranges less 0.02 rad. speed: fraction of the joints' velocity limits."""

    model_config = ConfigDict(allow_inf_nan=False)

    position: tuple[float, ...] = tuple(HOME_Q.tolist())
    speed: float = Field(0.1, ge=0.01, le=0.5)

    @field_validator("position")
    @classmethod
    def _is_reachable(cls, position: tuple[float, ...]) -> tuple[float, ...]:
        return tuple(checked_home(position).tolist())


def checked_home(position: Sequence[float]) -> np.ndarray:
    """`position` as float64 [7] rad. Raises ValueError, in one line, for none inside the FR3's ranges."""
    q = np.asarray(position, np.float64)
    if q.shape != (JOINTS,) or not np.isfinite(q).all():
        raise ValueError(f"the home position has {JOINTS} joints, rad; got {list(position)}")
    low, high = FR3.position_min + 0.02, FR3.position_max - 0.02
    if (outside := (q < low) | (q > high)).any():
        joint = int(np.argmax(outside))
        raise ValueError(
            f"the home position has joint {joint + 1} at {q[joint]:.3f} rad, outside of {low[joint]:.3f} to "
            f"{high[joint]:.3f}"
        )
    return q


def home_outcome(arms: Sequence[Homing]) -> Event | None:
    """How the way home of these arms ends in this cycle; None: it goes on, or nobody asks for one."""
    going = [arm for arm in arms if arm.active]
    if any(arm.blocked for arm in going):
        return Event.HOME_BLOCKED
    return Event.HOMED if going and all(arm.reached for arm in going) else None


class Homing:
    """One arm's way home. Call `step` once per cycle of `dt` s while it is asked for, and `reset` when it is not.

    Args:
        home: where the way leads, [7] rad.
        speed: of the joints, [7] rad/s at most.
        dt: period of the control loop, s.
    """

    def __init__(self, home: Sequence[float] | np.ndarray, speed: np.ndarray, dt: float) -> None:
        self.home, self._speed, self._dt = np.asarray(home, np.float64), np.asarray(speed, np.float64), dt
        self.reset()

    def reset(self) -> None:
        """Forget the way: the next `step` begins another one."""
        self._start: np.ndarray | None = None
        self._goal = self.home  # or where the arm stands, if that is home already: then nothing moves
        self._done = self._pace = self._idle = 0.0  # s along the way at full speed, fraction of it, s without progress
        self._nearest = np.inf  # rad of the farthest joint, the least so far
        self.reached = False

    @property
    def active(self) -> bool:
        """Whether the arm is on its way, or has arrived and is still asked to."""
        return self._start is not None

    @property
    def blocked(self) -> bool:
        """Whether a limit has kept the arm from coming nearer for BLOCKED s."""
        return self._idle > BLOCKED

    def step(self, commanded: np.ndarray, rest: np.ndarray) -> Motion:
        """The desired motion of this cycle.

        commanded: the arm's joints [7] rad in the last cycle. rest: where it would come to rest, [7] rad; a way begins
        there.
        """
        if self._start is None:
            self._start = rest.copy()
            self._goal = rest.copy() if np.abs(self.home - rest).max() <= REACHED else self.home
        way = self._goal - self._start
        whole = float(np.max(np.abs(way) / self._speed))  # s at full speed
        place = self._start + way * (self._done / whole if whole else 1.0)
        self._note_progress(float(np.abs(self.home - commanded).max()))
        if self._done >= whole or float(np.abs(place - commanded).max()) > LAG:
            self._pace = 0.0
            return Motion.at_rest(self._goal if self._done >= whole else place)
        slowing = np.sqrt(2 * (whole - self._done) / RAMP)
        self._pace = max(min(self._pace + self._dt / RAMP, 1.0, slowing), self._dt / RAMP)
        self._done = min(self._done + self._pace * self._dt, whole)
        velocity = way / whole * self._pace
        return Motion(self._start + way * (self._done / whole), velocity, np.zeros(JOINTS))

    def _note_progress(self, away: float) -> None:
        self.reached = away <= REACHED
        if self.reached or away < self._nearest - PROGRESS:
            self._nearest, self._idle = away, 0.0
        else:
            self._idle += self._dt
