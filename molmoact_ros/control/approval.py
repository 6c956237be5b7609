"""The gate before motion: a plan is shown first, and its actions are released when somebody approves, or in time."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final, Generic, TypeVar

Plan = TypeVar("Plan")

TOO_SOON: Final = 0.5
"""s within which an approval that names no plan may still be meant for the plan that was there before."""
NOT_HEARD: Final = 0.5
"""s after a release in which the controller's status may still be about the chunk before."""
SETTLE: Final = 0.2
"""s for an arm at its chunk's end to stand, before an image is taken for the next plan."""


class ApprovalMode(Enum):
    """NEVER: actions follow their plan at once. TIMED: after a time, or on approval. REQUIRED: on approval alone."""

    NEVER = ""
    TIMED = "timed"
    REQUIRED = "required"


class RefusedApproval(ValueError):
    """An approval that is not of the plan that waits; its message says so in one line."""


class PlanGate(Generic[Plan]):
    """Holds one plan back. Not for several threads at once.

    A plan holds motions from where the arm was when its image was taken; it may wait only while the arm stands there.
    So its image is taken when the chunk before is over (`may_look`), and it is dropped when the arm is moved.

    `now` is of the steady clock, `stamp` of the images' clock, which may be set (`clock_set`); both s.
    """

    def __init__(self) -> None:
        self.how, self.seconds = ApprovalMode.NEVER, 3.0
        self.waiting: Plan | None = None
        self.plan_id = 0  # of the plan that waits; 0: none does
        self._shown, self._dropped, self._sent = -inf, -inf, -inf
        self._stands_since = -inf  # by the images' clock

    def show(self, plan: Plan, plan_id: int, now: float) -> None:
        """From now on this plan waits, in place of any other."""
        self.drop(now)
        self.waiting, self.plan_id, self._shown = plan, plan_id, now

    def approve(self, now: float, plan_id: int | None = None) -> None:
        """Somebody approves the plan of that number, or, without one, what waits now.

        Raises RefusedApproval when another plan waits, or none; and, of an approval that names no plan, when they
        cannot have seen what they approve.
        """
        if self.waiting is None:
            raise RefusedApproval("no plan waits for approval")
        if plan_id is not None and plan_id != self.plan_id:
            raise RefusedApproval(f"plan {plan_id} does not wait, plan {self.plan_id} does; look at it, and approve it")
        if plan_id is None and self._shown - self._dropped < TOO_SOON and now - self._shown < TOO_SOON:
            raise RefusedApproval("the plan has just changed; look at it, and approve again")

    def release(self, now: float) -> Plan:
        """The plan, which waits no more; the arm moves from now on."""
        assert self.waiting is not None
        plan = self.waiting
        self.waiting, self.plan_id = None, 0
        self.moves(now)
        return plan

    def drop(self, now: float) -> Plan | None:
        """Forget the plan that waits; what it was, or None."""
        plan = self.waiting
        if plan is not None:
            self.waiting, self.plan_id, self._dropped = None, 0, now
        return plan

    def due(self, now: float) -> bool:
        """The time of the plan that waits is over."""
        return self.waiting is not None and self.how is ApprovalMode.TIMED and now - self._shown >= self.seconds

    def left(self, now: float) -> float:
        """Until the plan that waits is released, s; -1: until somebody approves; 0 when none waits."""
        if self.waiting is None:
            return 0.0
        return max(0.0, self._shown + self.seconds - now) if self.how is ApprovalMode.TIMED else -1.0

    def moves(self, now: float) -> None:
        """A chunk was sent to the controller."""
        self._sent, self._stands_since = now, inf

    def arm(self, moving: bool, now: float, stamp: float) -> None:
        """What the controller's status says, which came at `now` and was made at `stamp`.

        moving: a chunk or an operator moves the arm.
        """
        if moving:
            self._stands_since = inf
        elif self._stands_since == inf and now - self._sent > NOT_HEARD:
            self._stands_since = stamp

    def may_look(self, stamp: float) -> bool:
        """An image of that time may be planned on: nothing waits, and the arm stood."""
        return self.how is ApprovalMode.NEVER or (self.waiting is None and stamp >= self._stands_since + SETTLE)

    def clock_set(self, now: float) -> None:
        """The images' clock was set: what waits is dropped, and the arm stands when the controller says so anew."""
        self.drop(now)
        self.moves(now)
