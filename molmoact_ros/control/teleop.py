"""A person's hand: twists, joint targets and the gripper, for as long as somebody is really there.

Times are seconds of a steady clock, at which a word was heard: silence is measured by a clock that nobody sets.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from pydantic import BaseModel, Field

from molmoact_ros.robots.franka import JOINTS, OPENING_MAX

FUTURE: Final = 0.05
"""s by which a word's stamp may be ahead of our clock: what clocks that are synchronised differ by."""


class TeleopConfig(BaseModel):
    """timeout: s after the last word at which nobody is there; speeds: what a twist is limited to."""

    timeout: float = Field(0.2, gt=0, le=2, allow_inf_nan=False)
    deadman: bool = False  # words count only while the dead-man's switch is held
    hand_back: bool = False  # the policy goes on by itself where a person took over from it, once they let go
    linear: float = Field(0.25, gt=0, le=2, allow_inf_nan=False)  # m/s of the hand, by whatever a person moves it
    angular: float = Field(1.0, gt=0, le=4, allow_inf_nan=False)  # rad/s


def wrong_age(age: float, timeout: float) -> str:
    """Why a word that was said `age` s ago may not move an arm, in one line; empty: it may."""
    if not age <= timeout:
        return f"it is {age:.2f} s old; words of a person count for {timeout:g} s"
    if age < -FUTURE:
        return f"it is stamped {-age:.2f} s in the future; synchronise the clocks"
    return ""


@dataclass(frozen=True)
class TeleopCommand:
    """What a person wants: `twist` [6] m/s and rad/s, or `joints` [7] rad; neither: stay. `opening` in m or None."""

    twist: np.ndarray | None = None
    joints: np.ndarray | None = None
    opening: float | None = None

    @property
    def moves(self) -> bool:
        """It asks for motion: a twist of zero does not."""
        return self.joints is not None or (self.twist is not None and bool(self.twist.any()))


class Teleop:
    """Remembers what one person said last. `in_tool`: the twist is given in the hand's frame, not the base's."""

    def __init__(self, config: TeleopConfig) -> None:
        self._config = config
        self._wish, self.in_tool = TeleopCommand(), False
        self._said = self._held = -np.inf

    def deadman(self, held: bool, heard: float) -> None:
        """The dead-man's switch is held, or let go; heard at that time, s."""
        self._held = heard if held else -np.inf

    def twist(self, twist: Sequence[float] | np.ndarray, heard: float, in_tool: bool = False) -> bool:
        """Move the hand with `twist` [6] m/s and rad/s. False, and nothing changes, where it is not finite."""
        values = np.asarray(twist, np.float64)
        if values.shape != (6,) or not np.isfinite(values).all():
            return False
        # One factor each, so that the direction stays.
        values = values.copy()
        for part, limit in ((slice(0, 3), self._config.linear), (slice(3, 6), self._config.angular)):
            values[part] *= min(1.0, limit / max(float(np.linalg.norm(values[part])), 1e-12))
        self._wish, self.in_tool, self._said = TeleopCommand(twist=values), in_tool, heard
        return True

    def joints(self, joints: Sequence[float] | np.ndarray, heard: float) -> bool:
        """Go to `joints` [7] rad. False, and nothing changes, where they are not finite."""
        values = np.asarray(joints, np.float64)
        if values.shape != (JOINTS,) or not np.isfinite(values).all():
            return False
        self._wish, self._said = TeleopCommand(joints=values.copy()), heard
        return True

    def gripper(self, opening: float, heard: float) -> bool:
        """Bring the fingers to `opening` m between them, 0..0.08. False where it is not finite."""
        if not np.isfinite(opening):
            return False
        before = self.wish(heard)  # an old twist or target is not revived
        self._wish = TeleopCommand(before.twist, before.joints, float(np.clip(opening, 0, OPENING_MAX)))
        if before.twist is None and before.joints is None:
            self._said = heard  # else the twist or the target lapses when its own time is over
        return True

    def active(self, now: float) -> bool:
        """Somebody is there: has spoken within the timeout, and holds the switch where there must be one."""
        fresh = 0 <= now - self._said <= self._config.timeout
        return fresh and (not self._config.deadman or 0 <= now - self._held <= self._config.timeout)

    def wish(self, now: float) -> TeleopCommand:
        """What is wanted at `now`, s."""
        return self._wish if self.active(now) else TeleopCommand()

    @property
    def source(self) -> str:
        """What the last word was: twist, joint or gripper."""
        if self._wish.twist is not None:
            return "twist"
        return "gripper" if self._wish.joints is None else "joint"

    def forget(self) -> None:
        """Nothing was said."""
        self._wish, self._said = TeleopCommand(), -np.inf
