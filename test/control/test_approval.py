"""The gate before motion: nothing is released by itself that should not be, and no plan is made of a moving arm."""

from __future__ import annotations

from math import inf

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from molmoact_ros.control.approval import NOT_HEARD, SETTLE, TOO_SOON, ApprovalMode, PlanGate, RefusedApproval


def gate(how: ApprovalMode) -> PlanGate[str]:
    out: PlanGate[str] = PlanGate()
    out.how, out.seconds = how, 2.0
    return out


def test_a_required_approval_never_comes_by_itself() -> None:
    plans = gate(ApprovalMode.REQUIRED)
    plans.show("plan", 1, 10.0)
    assert not plans.due(1e6) and plans.left(1e6) == -1.0
    plans.approve(11.0)
    assert plans.release(11.0) == "plan" and plans.waiting is None and plans.left(11.0) == 0.0


def test_a_timed_plan_is_due_when_its_time_is_over_unless_it_was_dropped() -> None:
    plans = gate(ApprovalMode.TIMED)
    plans.show("plan", 1, 10.0)
    assert not plans.due(11.9) and plans.left(11.5) == 0.5 and plans.due(12.0)
    assert plans.drop(12.0) == "plan"
    assert not plans.due(13.0) and plans.drop(13.0) is None


def test_nothing_to_approve() -> None:
    with pytest.raises(RefusedApproval, match="no plan waits"):
        gate(ApprovalMode.REQUIRED).approve(10.0)


def test_an_approval_that_was_meant_for_another_plan_does_not_count() -> None:
    plans = gate(ApprovalMode.REQUIRED)
    plans.show("first", 1, 10.0)
    plans.drop(11.0)
    plans.show("second", 2, 11.2)
    with pytest.raises(RefusedApproval, match="just changed"):
        plans.approve(11.3)
    plans.approve(11.2 + TOO_SOON)


def test_a_plan_that_has_to_wait_is_made_of_an_arm_that_stands() -> None:
    plans = gate(ApprovalMode.REQUIRED)
    assert plans.may_look(10.0)
    plans.show("plan", 1, 10.0)
    assert not plans.may_look(10.1), "one plan at a time"
    plans.release(11.0)
    assert not plans.may_look(11.1)
    plans.arm(False, 11.1, 11.1)  # what it says of the chunk before
    assert not plans.may_look(11.2 + SETTLE)
    plans.arm(True, 11.3, 11.3)
    plans.arm(False, 11.0 + NOT_HEARD + 1, 11.0 + NOT_HEARD + 1)
    assert not plans.may_look(11.0 + NOT_HEARD + 1) and plans.may_look(11.0 + NOT_HEARD + 1 + SETTLE)
    plans.arm(True, 13.0, 13.0)  # a person's hand
    assert not plans.may_look(14.0)


def test_without_a_gate_every_picture_may_be_planned_on() -> None:
    plans = gate(ApprovalMode.NEVER)
    plans.moves(10.0)
    assert plans.may_look(10.0)
    plans.how = ApprovalMode.TIMED
    assert not plans.may_look(10.1), "the arm moves by what was sent before"


def test_m4_an_approval_names_its_plan() -> None:
    plans = gate(ApprovalMode.REQUIRED)
    plans.show("first", 1, 10.0)
    plans.show("second", 2, 11.0)
    with pytest.raises(RefusedApproval, match="plan 1 does not wait, plan 2 does"):
        plans.approve(11.1, 1)
    plans.approve(11.1, 2)  # by its number there is no doubt which one was looked at
    assert plans.release(11.1) == "second"
    with pytest.raises(RefusedApproval, match="no plan waits"):
        plans.approve(11.2, 2)


class Approvals(RuleBasedStateMachine):
    """People and plans in any order: what is released was shown, is released once, and was approved or due."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: PlanGate[int] = PlanGate()
        self.now, self.stamp, self.number = 100.0, 1000.0, 0
        self.shown: int | None = None  # what waits, by this model
        self.since, self.dropped = -inf, -inf
        self.sent, self.moving = -inf, False
        self.released: list[int] = []

    @rule(seconds=st.floats(0.01, 3.0))
    def time_passes(self, seconds: float) -> None:
        self.now, self.stamp = self.now + seconds, self.stamp + seconds

    @rule(how=st.sampled_from(ApprovalMode))
    def choose(self, how: ApprovalMode) -> None:
        self.gate.how = how
        self.drop()

    @rule()
    def plan(self) -> None:
        self.number += 1
        if self.gate.how is ApprovalMode.NEVER:
            self.gate.moves(self.now)
            self.sent = self.now
        elif self.gate.may_look(self.stamp):
            assert self.shown is None and not self.moving, "one plan at a time, of an arm that stands"
            self.gate.show(self.number, self.number, self.now)
            self.shown, self.since = self.number, self.now

    @rule()
    def drop(self) -> None:
        assert self.gate.drop(self.now) == self.shown
        if self.shown is not None:
            self.dropped = self.now
        self.shown = None

    @rule(back=st.integers(0, 3))
    def approve_plan(self, back: int) -> None:
        wanted = self.number - back
        self.approve(wanted, self.shown == wanted and self.shown is not None)

    @rule()
    def approve_what_waits(self) -> None:
        fresh = self.since - self.dropped < TOO_SOON and self.now - self.since < TOO_SOON
        self.approve(None, self.shown is not None and not fresh)

    def approve(self, wanted: int | None, may: bool) -> None:
        if not may:
            with pytest.raises(RefusedApproval) as refused:
                self.gate.approve(self.now, wanted)
            assert "\n" not in str(refused.value)
            return
        self.gate.approve(self.now, wanted)
        self.release()

    @rule()
    def look_after(self) -> None:
        due = (
            self.shown is not None
            and self.gate.how is ApprovalMode.TIMED
            and self.now - self.since >= self.gate.seconds
        )
        assert self.gate.due(self.now) == due
        if due:
            self.release()

    def release(self) -> None:
        plan = self.gate.release(self.now)
        assert plan == self.shown and plan not in self.released
        self.released.append(plan)
        self.shown, self.sent = None, self.now

    @rule(moving=st.booleans())
    def controller_says(self, moving: bool) -> None:
        self.gate.arm(moving, self.now, self.stamp)
        self.moving = moving

    @rule(by=st.floats(-500.0, 500.0))
    def clock_is_set(self, by: float) -> None:
        self.stamp += by
        self.gate.clock_set(self.now)
        self.shown, self.dropped, self.sent = None, self.now, self.now

    @invariant()
    def what_waits_is_what_was_shown(self) -> None:
        assert self.gate.waiting == self.shown and self.gate.plan_id == (self.shown or 0)
        assert (self.gate.left(self.now) == 0.0) if self.shown is None else True
        if self.gate.how is not ApprovalMode.NEVER and self.now - self.sent <= NOT_HEARD:
            assert not self.gate.may_look(self.stamp), "the controller has not been heard of the last chunk"


Approvals.TestCase.settings = settings(max_examples=200, stateful_step_count=40, deadline=None)
TestApprovals = Approvals.TestCase
