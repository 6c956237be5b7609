"""A leader arm that an operator holds: its joints by name, and when the robot is to follow them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from pydantic import BaseModel, Field, model_validator

from molmoact_ros.robots.franka import JOINTS, OPENING_MAX

STILL: Final = 0.004
"""rad within which every joint stays while a leader rests: an encoder of 4096 steps has noise of 0.0015."""
REST: Final = 0.5
"""s of rest that count as letting go."""
MOVED: Final = 0.02
"""rad by which a joint leaves its rest when an operator takes the leader up again."""
REACHED: Final = 0.05
"""rad between leader and robot within which the robot has arrived."""
UNANSWERED: Final = 0.5
"""s after which a leader that the controller does not follow has to rest before it is taken up again."""


class LeaderLayout(BaseModel):
    """Which joints of the leader are the arm's, and which one is the gripper's."""

    joints: list[str] = Field([""], min_length=1, description="the leader's joints, base first; one empty: joint1..7")
    signs: list[float] = Field([1.0] * JOINTS, description="1, or -1 where a joint turns the other way round")
    offsets: list[float] = Field([0.0] * JOINTS, description="added to each joint behind its sign, rad")
    gripper: str = Field("", description="the leader's joint for the gripper; empty: none")
    gripper_open: float = Field(0.0, description="its position where the gripper is open, rad or m")
    gripper_closed: float = Field(1.0, description="its position where the gripper is closed, rad or m")

    @model_validator(mode="after")
    def _fits(self) -> LeaderLayout:
        if self.joints != [""] and len(set(self.joints)) != JOINTS:
            raise ValueError(f"joints names {JOINTS} different joints of the leader, base first; or is left out")
        if len(self.signs) != JOINTS or len(self.offsets) != JOINTS or not {abs(sign) for sign in self.signs} <= {1.0}:
            raise ValueError(f"signs are {JOINTS} values, each 1 or -1, and offsets are {JOINTS} values in rad")
        if self.gripper and self.gripper_open == self.gripper_closed:
            raise ValueError("gripper_open and gripper_closed are two positions of the leader's gripper joint")
        return self

    def read(self, names: Sequence[str], positions: Sequence[float]) -> np.ndarray:
        """The robot's joints that a leader asks for, float64 [7] rad. Raises ValueError where one is missing."""
        wanted = self.joints if self.joints != [""] else [_ending(names, f"joint{n}") for n in range(1, JOINTS + 1)]
        values = dict(zip(names, positions, strict=False))
        if missing := [name for name in wanted if name not in values or not np.isfinite(values[name])]:
            raise ValueError(f"the leader has no position of {missing[0]}; it has {', '.join(names)}; set joints")
        result: np.ndarray = np.array([values[name] for name in wanted]) * self.signs + self.offsets
        return result

    def opening(self, names: Sequence[str], positions: Sequence[float]) -> float | None:
        """The opening that the leader's gripper asks for, m; None without one."""
        at = dict(zip(names, positions, strict=False)).get(self.gripper, np.nan)
        part = (at - self.gripper_closed) / (self.gripper_open - self.gripper_closed) if self.gripper else np.nan
        return float(np.clip(part, 0.0, 1.0)) * OPENING_MAX if np.isfinite(part) else None


def _ending(names: Sequence[str], ending: str) -> str:
    return next((name for name in names if name.endswith(ending)), ending)


class LeaderClutch:
    """Whether an operator has the leader in hand. Times are s on a steady clock.

    A leader that rests commands nothing. It is followed from when it is moved away from its rest until it rests again
    and the robot has arrived. Where the controller does not follow (a fault, a stop), it has to rest once, and be moved
    again: letting go.
    """

    def __init__(self) -> None:
        self._engaged = False
        self._still: np.ndarray | None = None  # where the leader has been since
        self._since = 0.0
        self._rest: np.ndarray | None = None  # where it rested; None: it has not since it was last let go
        self._answered = 0.0  # when it was engaged, or the controller last followed

    def is_engaged(self, leader: np.ndarray, robot: np.ndarray | None, now: float, followed: bool) -> bool:
        """Whether the robot is to follow now.

        leader, robot: joints, [7] rad; None: not known. followed: an operator moves the arm by the controller's state.
        """
        if self._still is None or float(np.abs(leader - self._still).max()) > STILL:
            self._still, self._since = leader.copy(), now
        rests = now - self._since >= REST
        if not self._engaged:
            self._wait_for_motion(leader, now, rests)
            return self._engaged
        self._answered = now if followed else self._answered
        arrived = robot is not None and float(np.abs(leader - robot).max()) <= REACHED
        if now - self._answered > UNANSWERED or (rests and arrived):
            self._engaged, self._rest = False, None
        return self._engaged

    def _wait_for_motion(self, leader: np.ndarray, now: float, rests: bool) -> None:
        if rests:
            self._rest = self._still
        elif self._rest is not None and float(np.abs(leader - self._rest).max()) > MOVED:
            self._engaged, self._rest, self._answered = True, None, now
