"""Teleoperation: twists, joint targets and gripper commands, valid while the operator's stream is alive.

Times are seconds on a steady clock, at which a command arrived: timeouts need a clock that is never set.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
from pydantic import BaseModel, Field

from molmoact_ros.control.clock_monitor import OTHER_CLOCK
from molmoact_ros.robots.franka import JOINTS, OPENING_MAX

FUTURE: Final = 0.05
"""s by which a command's stamp may be ahead of our clock: the difference between synchronised clocks."""


class TeleopConfig(BaseModel):
    """timeout: s after the last command at which teleoperation ends. linear, angular: limits of a twist."""

    timeout: float = Field(0.2, gt=0, le=2, allow_inf_nan=False)
    deadman: bool = False  # commands count only while the dead-man's switch is held
    hand_back: bool = False  # a policy that the operator interrupted continues by itself when they let go
    linear: float = Field(0.25, gt=0, le=2, allow_inf_nan=False)  # m/s of the hand, whatever the kind of command
    angular: float = Field(1.0, gt=0, le=4, allow_inf_nan=False)  # rad/s


def wrong_age(age: float, timeout: float) -> str:
    """Why a command that was sent `age` s ago must not move an arm, in one line; empty: it may."""
    if abs(age) > OTHER_CLOCK:
        return "it is stamped 0 or by another clock; stamp it with ROS time, and set use_sim_time alike for every node"
    if not age <= timeout:
        return f"it is {age:.2f} s old; an operator's messages count for {timeout:g} s"
    if age < -FUTURE:
        return f"it is stamped {-age:.2f} s in the future; synchronise the clocks"
    return ""


@dataclass(frozen=True)
class TeleopCommand:
    """An operator's command: `twist` [6] m/s and rad/s, `joints` [7] rad, or `home`; none of them: hold.

    opening: m between the fingers, or None.
    """

    twist: np.ndarray | None = None
    joints: np.ndarray | None = None
    opening: float | None = None
    home: bool = False

    @property
    def moves(self) -> bool:
        """Whether it commands motion of the arm: a zero twist does not."""
        return self.home or self.joints is not None or (self.twist is not None and bool(self.twist.any()))


class Teleop:
    """The operator's last command for one arm. `in_tool`: its twist is in the hand's frame, not in the base's."""

    def __init__(self, config: TeleopConfig) -> None:
        self._config = config
        self._command, self.in_tool = TeleopCommand(), False
        self._received_at = self._deadman_at = -np.inf

    def deadman(self, held: bool, heard: float) -> None:
        """The dead-man's switch is held or released; received at `heard`, s."""
        self._deadman_at = heard if held else -np.inf

    def twist(self, twist: Sequence[float] | np.ndarray, heard: float, in_tool: bool = False) -> bool:
        """Move the hand with `twist` [6] m/s and rad/s. False, and nothing changes, if it is not finite."""
        values = np.asarray(twist, np.float64)
        if values.shape != (6,) or not np.isfinite(values).all():
            return False
        # One factor for translation and one for rotation, so that the directions stay.
        values = values.copy()
        for part, limit in ((slice(0, 3), self._config.linear), (slice(3, 6), self._config.angular)):
            values[part] *= min(1.0, limit / max(float(np.linalg.norm(values[part])), 1e-12))
        self._command, self.in_tool, self._received_at = TeleopCommand(twist=values), in_tool, heard
        return True

    def joints(self, joints: Sequence[float] | np.ndarray, heard: float) -> bool:
        """Move to `joints` [7] rad. False, and nothing changes, if they are not finite."""
        values = np.asarray(joints, np.float64)
        if values.shape != (JOINTS,) or not np.isfinite(values).all():
            return False
        self._command, self._received_at = TeleopCommand(joints=values.copy()), heard
        return True

    def home(self, heard: float) -> None:
        """Move to the arm's home position, slowly (control/homing.py)."""
        self._command, self._received_at = TeleopCommand(home=True), heard

    def gripper(self, opening: float, heard: float) -> bool:
        """Move the fingers to `opening` m between them, 0..0.08. False if it is not finite."""
        if not np.isfinite(opening):
            return False
        before = self.wish(heard)  # does not revive an old twist or target
        self._command = replace(before, opening=float(np.clip(opening, 0, OPENING_MAX)))
        if before.twist is None and before.joints is None and not before.home:
            self._received_at = heard  # otherwise the twist or target expires by its own time
        return True

    def active(self, now: float) -> bool:
        """Whether teleoperation is active: a command came within the timeout, and a required switch is held."""
        fresh = 0 <= now - self._received_at <= self._config.timeout
        return fresh and (not self._config.deadman or 0 <= now - self._deadman_at <= self._config.timeout)

    def wish(self, now: float) -> TeleopCommand:
        """The command that is valid at `now`, s."""
        return self._command if self.active(now) else TeleopCommand()

    @property
    def source(self) -> str:
        """Kind of the last command: twist, joint, home or gripper."""
        if self._command.home:
            return "home"
        if self._command.twist is not None:
            return "twist"
        return "gripper" if self._command.joints is None else "joint"

    def forget(self) -> None:
        """Forget the last command."""
        self._command, self._received_at = TeleopCommand(), -np.inf
