"""The gate before motion: a plan is shown first, and released when an operator approves it or a timeout expires."""

from __future__ import annotations

from enum import Enum
from math import inf
from typing import Final, Generic, TypeVar

Plan = TypeVar("Plan")

TOO_SOON: Final = 0.5
"""s after a plan changed in which an approval without a plan id may still be meant for the previous plan."""
NOT_HEARD: Final = 0.5
"""s after a release in which the controller's status may still describe the previous chunk."""
SETTLE: Final = 0.2
"""s that an arm at the end of its chunk takes to settle before an image is captured for the next plan."""


class ApprovalMode(Enum):
    """When a plan is released. NEVER: no gate, at once. TIMED: on approval or timeout. REQUIRED: on approval only."""

    NEVER = ""
    TIMED = "timed"
    REQUIRED = "required"


class RefusedApproval(ValueError):
    """An approval that does not match the pending plan. The message gives the reason in one line."""


class PlanGate(Generic[Plan]):
    """Holds one plan until it is released. Not thread-safe.

    A plan starts from the arm's pose at the capture time of its image, so it may wait only while the arm stands there.
    Its image is therefore captured after the previous chunk has ended (`may_look`), and the plan is dropped when the
    arm moves.

    `now` is on the steady clock, `stamp` on the image clock, which may be set (`clock_set`); both in s.
    """

    def __init__(self) -> None:
        self.how, self.seconds = ApprovalMode.NEVER, 3.0
        self.waiting: Plan | None = None
        self.plan_id = 0  # of the pending plan; 0: none
        self._shown, self._dropped, self._sent = -inf, -inf, -inf
        self._stands_since = -inf  # on the image clock

    def show(self, plan: Plan, plan_id: int, now: float) -> None:
        """Make this plan the pending one, in place of any other."""
        self.drop(now)
        self.waiting, self.plan_id, self._shown = plan, plan_id, now

    def approve(self, now: float, plan_id: int | None = None) -> None:
        """Check an approval of plan `plan_id`, or of the pending plan if it is None.

        Raises RefusedApproval when another plan is pending, or none; and, for an approval without a plan id, when the
        plan changed too recently for the operator to have seen it.
        """
        if self.waiting is None:
            raise RefusedApproval("no plan waits for approval")
        if plan_id is not None and plan_id != self.plan_id:
            raise RefusedApproval(f"plan {plan_id} does not wait, plan {self.plan_id} does; look at it, and approve it")
        if plan_id is None and self._shown - self._dropped < TOO_SOON and now - self._shown < TOO_SOON:
            raise RefusedApproval("the plan has just changed; look at it, and approve again")

    def release(self, now: float) -> Plan:
        """Return the pending plan, which is now released; the arm moves from now on."""
        assert self.waiting is not None
        plan = self.waiting
        self.waiting, self.plan_id = None, 0
        self.moves(now)
        return plan

    def drop(self, now: float) -> Plan | None:
        """Drop the pending plan and return it, or None."""
        plan = self.waiting
        if plan is not None:
            self.waiting, self.plan_id, self._dropped = None, 0, now
        return plan

    def due(self, now: float) -> bool:
        """Whether the timeout of the pending plan has expired."""
        return self.waiting is not None and self.how is ApprovalMode.TIMED and now - self._shown >= self.seconds

    def left(self, now: float) -> float:
        """Time until the pending plan is released, s; -1: it needs an approval; 0: no plan is pending."""
        if self.waiting is None:
            return 0.0
        return max(0.0, self._shown + self.seconds - now) if self.how is ApprovalMode.TIMED else -1.0

    def moves(self, now: float) -> None:
        """A chunk was sent to the controller: the arm counts as moving until a status says otherwise."""
        self._sent, self._stands_since = now, inf

    def arm(self, moving: bool, now: float, stamp: float) -> None:
        """Process a controller status that was received at `now` and stamped `stamp`.

        moving: a chunk or an operator moves the arm.
        """
        if moving:
            self._stands_since = inf
        elif self._stands_since == inf and now - self._sent > NOT_HEARD:
            self._stands_since = stamp

    def may_look(self, stamp: float) -> bool:
        """Whether an image captured at `stamp` may be planned on: no plan is pending, and the arm stood still."""
        return self.how is ApprovalMode.NEVER or (self.waiting is None and stamp >= self._stands_since + SETTLE)

    def clock_set(self, now: float) -> None:
        """The image clock was set: drop the pending plan, and wait for a new status to learn that the arm stands."""
        self.drop(now)
        self.moves(now)
