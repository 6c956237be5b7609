"""The gate before motion: a plan is shown first, and its actions are released when somebody approves, or in time."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final, Generic, TypeVar

Plan = TypeVar("Plan")

TOO_SOON: Final = 0.5
"""s within which an approval may still be meant for the plan that was there before."""
NOT_HEARD: Final = 0.5
"""s after a release in which the controller's word may still be about the chunk before."""
SETTLE: Final = 0.2
"""s for an arm at its chunk's end to stand, before a picture is taken for the next plan."""


class Approve(Enum):
    """NEVER: actions follow their plan at once. TIMED: after a time, or on approval. REQUIRED: on approval alone."""

    NEVER = ""
    TIMED = "timed"
    REQUIRED = "required"


class TooSoon(ValueError):
    """An approval that cannot be meant for the plan that waits; its message says so in one line."""


class Gate(Generic[Plan]):
    """Holds one plan back. Times are seconds of one clock. Not for several threads at once.

    A plan holds motions from where the arm was when its picture was taken; it may wait only while the arm stands there.
    So its picture is taken when the chunk before is over (`may_look`), and it is dropped when the arm is moved.
    """

    def __init__(self) -> None:
        self.how, self.seconds = Approve.NEVER, 3.0
        self.waiting: Plan | None = None
        self._shown, self._dropped = -inf, -inf
        self._moves_since, self._stands_since = -inf, -inf

    def show(self, plan: Plan, now: float) -> None:
        """From now on this plan waits."""
        self.waiting, self._shown = plan, now

    def approve(self, now: float) -> None:
        """Somebody says yes. Raises TooSoon when they cannot have seen what they approve."""
        if self.waiting is None:
            raise TooSoon("no plan waits for approval")
        if self._shown - self._dropped < TOO_SOON and now - self._shown < TOO_SOON:
            raise TooSoon("the plan has just changed; look at it, and approve again")

    def release(self, now: float) -> Plan:
        """The plan, which waits no more; the arm moves from now on."""
        assert self.waiting is not None
        plan, self.waiting = self.waiting, None
        self.moves(now)
        return plan

    def drop(self, now: float) -> Plan | None:
        """Forget the plan that waits; what it was, or None."""
        plan, self.waiting = self.waiting, None
        if plan is not None:
            self._dropped = now
        return plan

    def due(self, now: float) -> bool:
        """The time of the plan that waits is over."""
        return self.waiting is not None and self.how is Approve.TIMED and now - self._shown >= self.seconds

    def left(self, now: float) -> float:
        """Until the plan that waits is released, s; -1: until somebody approves; 0 when none waits."""
        if self.waiting is None:
            return 0.0
        return max(0.0, self._shown + self.seconds - now) if self.how is Approve.TIMED else -1.0

    def moves(self, now: float) -> None:
        """A chunk was sent to the controller."""
        self._moves_since, self._stands_since = now, inf

    def arm(self, moving: bool, now: float) -> None:
        """What the controller says at `now`: the arm is moving, by a chunk or by a person's hand."""
        if moving:
            self._stands_since = inf
        elif self._stands_since == inf and now - self._moves_since > NOT_HEARD:
            self._stands_since = now

    def may_look(self, stamp: float) -> bool:
        """A picture of that time may be planned on: nothing waits, and the arm stood."""
        return self.how is Approve.NEVER or (self.waiting is None and stamp >= self._stands_since + SETTLE)
