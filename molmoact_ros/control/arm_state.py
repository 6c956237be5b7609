"""One arm's state: its joints put together by name, what is believed of them, and what is wrong with them, in words."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np

from molmoact_ros.control.measurement import Measurement
from molmoact_ros.robots.franka import JOINTS, Arm
from molmoact_ros.robots.hands import FIRST
from molmoact_ros.robots.joint_state import JointStateMonitor

HAND_OLD: Final = 1.0
"""s after which the fingers' positions are reported as old: franka_gripper publishes them 15 to 30 times a second."""
ARM: Final = slice(0, JOINTS)
FINGERS: Final = slice(JOINTS, None)
NAMED: Final = 3
"""Joints that a message names before it counts the rest."""


class ArmState:
    """Puts an arm's and its hand's joint states together, from any split of them into messages.

    The state is as old as its oldest arm joint; the fingers may be older, since a hand's driver is slower.

    Args:
        arm: names and limits, and its hand.
        agreeing: samples that must agree, as in Measurement.
        topic: of the joint states, for messages to the operator; empty: not told.
    """

    def __init__(self, arm: Arm, agreeing: int, topic: str = "") -> None:
        self.measurement = Measurement(arm.limits, agreeing, arm.stroke)
        self._arm, self._where = arm, f" on {topic}" if topic else ""
        self._subject = f"{arm.prefix}joint states{self._where}"
        self._joints = JointStateMonitor((*arm.joints, *arm.hand_joints))
        self._any_received = False  # any joint state
        self._foreign_names: Sequence[str] = ()  # of another arm, in the last message before all joints came
        self._new = np.zeros(JOINTS, bool)  # joints that came since the last sample of all of them
        self._hand_known = arm.hand is None
        self._hand_heard: float | None = None  # arrival of the finger that came least recently, s

    def take_sample(self, q: np.ndarray, opening: float, stamp: float, heard: float) -> bool:
        """Take all joints at once: [7] rad, and the opening in m. False if they are rejected."""
        self._any_received = self._hand_known = True
        return self.measurement.take_sample(q, opening, stamp, heard)

    def take_message(self, names: Sequence[str], positions: Sequence[float], stamp: float, heard: float) -> bool:
        """Take the positions that a message has of this arm; whether they give a new state that is believed.

        positions: rad, or as the hand's driver has them. stamp: s. heard: arrival on the steady clock, s.
        """
        self._any_received |= len(names) > 0
        updated = self._joints.take_message(names, positions, stamp, heard)
        if self.measurement.joints is None:
            self._foreign_names = [name for name in names if name not in self._joints.joints]
        if bad := self._joints.not_finite_of(names):
            self.measurement.doubt(f"NaN or infinity for {_listed(bad)}", heard)
        if updated[FINGERS].any():
            self._take_hand()
        self._new |= updated[ARM]
        sample = self._joints.sample(ARM) if updated[ARM].any() else None
        if sample is None:
            return False
        new, self._new = self._new, np.zeros(JOINTS, bool)
        return self.measurement.take_sample(
            sample.positions, self.measurement.opening, sample.stamps, sample.heard, new
        )

    def take_hand_message(self, names: Sequence[str], positions: Sequence[float], stamp: float, heard: float) -> bool:
        """Take a message of the hand's own topic, as by take_message. A hand of FIRST has its first position."""
        return self.take_message((FIRST,) if FIRST in self._arm.hand_joints else names, positions, stamp, heard)

    def _take_hand(self) -> None:
        fingers = self._joints.sample(FINGERS)
        if fingers is not None and self._arm.hand is not None:
            self.measurement.opening = self._arm.hand.opening(fingers.positions.tolist())
            self._hand_known, self._hand_heard = True, float(fingers.heard.min())

    def wrong(self, now: float, steady: float, deadline: float) -> str:
        """Why this is no state that an arm may be moved by, in one line; empty: it is one.

        now: ROS time, s; steady: time on the steady clock, s; deadline: greatest age of the arm's joints, s.
        """
        subject, measurement = self._subject, self.measurement
        if not self._any_received:
            return f"no joint states came{self._where}; start the robot or the simulator first"
        if measurement.joints is None:
            if measurement.refused:
                return f"{subject} are not believed: {measurement.refused}"
            return f"{subject} have no position of {_listed(self._joints.missing)}{self._named()}; is it this robot's?"
        if wrong := measurement.wrong_time(now, steady, deadline):
            if bad := self._joints.not_finite_of(self._arm.joints):
                return f"{subject} hold NaN or infinity for {_listed(bad)}"
            if measurement.is_refusing(steady):
                return f"{subject} are not believed: {measurement.refused}"
            return f"{subject} {wrong}"
        return "" if self._hand_known else self._no_hand()

    def _named(self) -> str:
        return f" (they name {_listed(self._foreign_names)})" if len(self._foreign_names) else ""

    def _no_hand(self) -> str:
        hand = self._arm.hand
        assert hand is not None
        fingers = [joint for joint in self._joints.missing if joint not in self._arm.joints]
        where = f" on {hand.topic}" if hand.topic else self._where
        what = _listed([joint or "the hand's first joint" for joint in fingers])
        return f"no position of {what} came{where}; set gripper: none where there is no hand, or hand: to the one it is"

    def warnings(self, steady: float) -> list[str]:
        """What somebody should look at though the arm may be moved, one line each. steady: s."""
        arm, measurement, lines = self._arm.prefix, self.measurement, []
        if measurement.is_refusing(steady):
            lines.append(f"{arm}joint states: {measurement.refused}")
        if measurement.is_going_back(steady):
            lines.append(
                f"{self._subject} go back in time by {measurement.backward:.3f} s: two publishers of a "
                "joint, or a clock that was set"
            )
        if self._hand_heard is not None and (age := steady - self._hand_heard) > HAND_OLD:
            lines.append(f"{arm}joint states of the fingers are {age:.0f} s old; does the gripper's driver run?")
        return lines


def _listed(names: Sequence[str]) -> str:
    more = len(names) - NAMED
    return ", ".join(names[:NAMED]) + (f" and {more} more" if more > 0 else "")
