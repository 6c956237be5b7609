"""Where an arm that follows its commands late will be, so that an operator's commands do not swing about their goal."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

import numpy as np

from molmoact_ros.training.expert import STEP, Expert, ExpertPhase

TRUST: Final = 0.3
"""Share of the difference between measured and expected pose that is believed at each measurement: the age of one
differs by a beat or two, in which a fast hand moves by centimetres."""
SURE: Final = 0.1
"""s for which the gripper's next command has to hold."""


class LateArm:
    """An arm that follows a twist `delay` s after it was commanded; a twist is commanded every `beat` s.

    arm = LateArm(delay=0.3, beat=0.05)
    twist, opens = arm.lead(expert, phase)
    arm.command(twist)
    """

    def __init__(self, delay: float, beat: float) -> None:
        self._beat, self._sure = beat, round(SURE / beat)
        self._opens: bool | None = None  # as it was decided last
        self._decided = 0  # beats for which the other holds now
        self._goals: deque[np.ndarray] = deque(maxlen=round(delay / beat) + 1)  # [4], m and rad: of the last commands

    def command(self, twist: np.ndarray) -> None:
        """A twist [6], m/s and rad/s in the base frame, was commanded just now."""
        if self._goals:
            self._goals.append(self._goals[-1] + self._beat * twist[[0, 1, 2, 5]])

    def rest(self) -> None:
        """Nothing is commanded any more."""
        self._goals.clear()
        self._opens, self._decided = None, 0

    def lead(self, expert: Expert, phase: ExpertPhase) -> tuple[np.ndarray, bool]:
        """The expert's next twist [6], m/s and rad/s, for the state in which the arm will get it, and whether the
        gripper is to be open.

        To close or to open is decided where what is measured says so, too, for `SURE`: a stack of cylinders forgives
        no centimetre. The arm stands meanwhile, as a person waits to see that it is there.
        """
        foreseen, measured = (expert.plan(state).chunk()[0] for state in (self.foreseen(phase), phase))
        opens = bool(foreseen[6] > 0.5)
        self._opens = opens if self._opens is None else self._opens
        agreed = opens != self._opens and bool(measured[6] > 0.5) == opens
        self._decided = self._decided + 1 if agreed else 0
        if self._decided > self._sure:
            self._opens, self._decided = opens, 0
        return foreseen[:6] / STEP if opens == self._opens else np.zeros(6), self._opens

    def foreseen(self, phase: ExpertPhase) -> ExpertPhase:
        """`phase`, as measured, after the commands that the arm has not followed yet. What is held moves along."""
        measured = np.array([*phase.tcp, phase.yaw])
        if not self._goals:
            self._goals.append(measured)
        correction = TRUST * (measured - self._goals[0])
        for goal in self._goals:
            goal += correction
        way = self._goals[-1] - measured
        thing = phase.object + way[:3] if phase.held else phase.object
        return replace(phase, tcp=phase.tcp + way[:3], object=thing, yaw=phase.yaw + float(way[3]))
