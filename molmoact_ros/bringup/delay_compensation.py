"""Delay compensation for an operator whose arm follows its commands late, so that it does not swing about its goal."""

from __future__ import annotations

from collections import deque
from dataclasses import replace
from typing import Final

import numpy as np

from molmoact_ros.training.expert import STEP, Expert, ExpertPhase

OBSERVER_GAIN: Final = 0.3
"""Share of the difference between measured and expected pose by which each measurement corrects the prediction: the
age of one differs by a beat or two, in which a fast hand moves by centimetres."""
DEBOUNCE: Final = 0.1
"""s for which the gripper's next command has to hold."""


class DelayCompensator:
    """A Smith predictor: predicts the pose of an arm that follows a twist `delay` s after it was commanded.

    compensator = DelayCompensator(delay=0.25, beat=0.05)  # a twist every 0.05 s
    twist, opens = compensator.next_command(expert, phase)
    compensator.command(twist)
    """

    def __init__(self, delay: float, beat: float) -> None:
        self._beat, self._debounce = beat, round(DEBOUNCE / beat)
        self._opens: bool | None = None  # as it was decided last
        self._decided = 0  # beats for which the other holds now
        self._goals: deque[np.ndarray] = deque(maxlen=round(delay / beat) + 1)  # [4], m and rad: of the last commands

    def command(self, twist: np.ndarray) -> None:
        """A twist [6], m/s and rad/s in the base frame, was commanded just now."""
        if self._goals:
            self._goals.append(self._goals[-1] + self._beat * twist[[0, 1, 2, 5]])

    def reset(self) -> None:
        """Forget all commands: nobody moves the arm any more, or somebody else does."""
        self._goals.clear()
        self._opens, self._decided = None, 0

    def next_command(self, expert: Expert, phase: ExpertPhase) -> tuple[np.ndarray, bool]:
        """The expert's next twist [6], m/s and rad/s, for the state in which the arm will get it, and whether the
        gripper is to be open.

        The gripper closes or opens where the measured state asks for it, too, for `DEBOUNCE`: a stack of cylinders
        forgives no centimetre. The arm stands until then.
        """
        (move, gripper), (_, measured) = expert.act(self.predict(phase)), expert.act(phase)
        opens = gripper > 0.5
        self._opens = opens if self._opens is None else self._opens
        agreed = opens != self._opens and (measured > 0.5) == opens
        self._decided = self._decided + 1 if agreed else 0
        if self._decided > self._debounce:
            self._opens, self._decided = opens, 0
        twist = np.array([*move[:3], 0.0, 0.0, move[3]]) / STEP
        return twist if opens == self._opens else np.zeros(6), self._opens

    def predict(self, phase: ExpertPhase) -> ExpertPhase:
        """`phase`, as measured, after the commands that the arm has not followed yet. What is held moves along."""
        measured = np.array([*phase.tcp, phase.yaw])
        if not self._goals:
            self._goals.append(measured)
        correction = OBSERVER_GAIN * (measured - self._goals[0])
        for goal in self._goals:
            goal += correction
        way = self._goals[-1] - measured
        thing = phase.object + way[:3] if phase.held else phase.object
        return replace(phase, tcp=phase.tcp + way[:3], object=thing, yaw=phase.yaw + float(way[3]))
