"""When the scripted operator takes over from the policy that they correct, and when they let go of the arm again."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np

STILL_FOR: Final = 3.0
"""s for which the hand stands under the policy before the operator helps; closing the fingers takes half of that."""
STILL: Final = 0.01
"""m: a hand that stays this near to where it was stands still."""
ERRED_FOR: Final = 0.7
"""s for which an error is seen before the operator acts: a person's time to notice."""
SHARE: Final = 0.5
"""Fraction of the episodes in which the operator takes over at a drawn time, if the policy has not erred before."""
DRAWN_AT: Final = (2.0, 10.0)
"""s after the beginning of the episode between which that time is drawn."""
HOLDS_FOR: Final = (2.0, 5.0)
"""s between which the time is drawn for which the operator moves the arm."""


@dataclass(frozen=True)
class TaskMoment:
    """What the operator sees. hand: position [3] m. held: the task's object is between the fingers. other_held: an
    object is that the task does not move. done: the task is."""

    hand: np.ndarray
    held: bool
    other_held: bool
    done: bool


class TakeoverRule:
    """Decides for one episode; times are s since its beginning, and increase.

    The policy errs where it carries another object, or drops the task's one before the task is done.

        rule = TakeoverRule(seed=7)
        rule.corrects(0.5, TaskMoment(hand, held=False, other_held=False, done=False))  # False: the policy goes on
    """

    def __init__(self, seed: int) -> None:
        """seed: of the drawn times."""
        self._rng = np.random.default_rng((seed, 1))  # another stream than the scene's
        at = self._rng.uniform(*DRAWN_AT)
        self._drawn_at = at if self._rng.random() < SHARE else float("inf")
        self._until: float | None = None  # when the operator lets go; None: the policy moves the arm
        self._stood: np.ndarray | None = None  # where the hand stood still first
        self._forget(0.0)

    def _forget(self, now: float) -> None:
        """The policy moves the arm from now on."""
        self._until, self._stood, self._since = None, None, now
        self._carried, self._erred_since = False, float("inf")

    def corrects(self, now: float, seen: TaskMoment) -> bool:
        """Whether the operator moves the arm now."""
        if self._until is not None and (now >= self._until or seen.done):
            self._forget(now)
        if self._until is None and not seen.done and (self._errs(now, seen) or now >= self._drawn_at):
            self._until, self._drawn_at = now + self._rng.uniform(*HOLDS_FOR), float("inf")
        return self._until is not None

    def _errs(self, now: float, seen: TaskMoment) -> bool:
        if self._stood is None or float(np.linalg.norm(seen.hand - self._stood)) > STILL:
            self._stood, self._since = seen.hand, now
        self._carried |= seen.held
        wrong = seen.other_held or (self._carried and not seen.held)
        self._erred_since = min(self._erred_since, now) if wrong else float("inf")
        return now - self._since >= STILL_FOR or now - self._erred_since >= ERRED_FOR
