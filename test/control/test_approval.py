"""The gate before motion: nothing is released by itself that should not be, and no plan is made of a moving arm."""

from __future__ import annotations

import pytest

from molmoact_ros.control.approval import NOT_HEARD, SETTLE, TOO_SOON, Approve, Gate, RefusedApproval


def gate(how: Approve) -> Gate[str]:
    out: Gate[str] = Gate()
    out.how, out.seconds = how, 2.0
    return out


def test_a_required_approval_never_comes_by_itself() -> None:
    plans = gate(Approve.REQUIRED)
    plans.show("plan", 1, 10.0)
    assert not plans.due(1e6) and plans.left(1e6) == -1.0
    plans.approve(11.0)
    assert plans.release(11.0) == "plan" and plans.waiting is None and plans.left(11.0) == 0.0


def test_a_timed_plan_is_due_when_its_time_is_over_unless_it_was_dropped() -> None:
    plans = gate(Approve.TIMED)
    plans.show("plan", 1, 10.0)
    assert not plans.due(11.9) and plans.left(11.5) == 0.5 and plans.due(12.0)
    assert plans.drop(12.0) == "plan"
    assert not plans.due(13.0) and plans.drop(13.0) is None


def test_nothing_to_approve() -> None:
    with pytest.raises(RefusedApproval, match="no plan waits"):
        gate(Approve.REQUIRED).approve(10.0)


def test_an_approval_that_was_meant_for_another_plan_does_not_count() -> None:
    plans = gate(Approve.REQUIRED)
    plans.show("first", 1, 10.0)
    plans.drop(11.0)
    plans.show("second", 2, 11.2)
    with pytest.raises(RefusedApproval, match="just changed"):
        plans.approve(11.3)
    plans.approve(11.2 + TOO_SOON)


def test_a_plan_that_has_to_wait_is_made_of_an_arm_that_stands() -> None:
    plans = gate(Approve.REQUIRED)
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
    plans = gate(Approve.NEVER)
    plans.moves(10.0)
    assert plans.may_look(10.0)
    plans.how = Approve.TIMED
    assert not plans.may_look(10.1), "the arm moves by what was sent before"
