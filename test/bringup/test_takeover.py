"""When the scripted operator takes over from a policy, and when they let go."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count

import numpy as np
import pytest

from molmoact_ros.bringup.takeover import DRAWN_AT, ERRED_FOR, HOLDS_FOR, SHARE, STILL_FOR, TakeoverRule, TaskMoment

BEAT = 0.05


def at(x: float, held: bool = False, other_held: bool = False, done: bool = False) -> TaskMoment:
    return TaskMoment(np.array([x, 0.0, 0.2]), held, other_held, done)


def stretches(rule: TakeoverRule, seen: Callable[[float], TaskMoment], seconds: float = 20.0) -> list[list[float]]:
    """When the operator takes over and lets go, s."""
    out: list[list[float]] = []
    for now in np.arange(0, seconds, BEAT).tolist():
        corrects = rule.corrects(now, seen(now))
        if corrects != bool(out and len(out[-1]) == 1):
            out.append([now]) if corrects else out[-1].append(now)
    return out


def moving(now: float) -> TaskMoment:
    return at(0.1 * now)


def left_alone() -> TakeoverRule:
    """A rule of an episode in which nobody takes over from a policy that does not err."""
    return next(rule for rule in map(TakeoverRule, count()) if not stretches(rule, moving))


def interrupted() -> int:
    """A seed of the others."""
    return next(seed for seed in count() if stretches(TakeoverRule(seed), moving))


def test_a_share_of_the_episodes_is_interrupted_once_at_a_drawn_time_and_for_a_drawn_one() -> None:
    found = [stretches(TakeoverRule(seed), moving) for seed in range(200)]
    taken = [of[0] for of in found if of]
    assert abs(len(taken) / 200 - SHARE) < 0.1 and all(len(of) <= 1 for of in found)
    assert all(DRAWN_AT[0] <= begin <= DRAWN_AT[1] + BEAT for begin, _ in taken)
    assert all(HOLDS_FOR[0] - BEAT <= end - begin <= HOLDS_FOR[1] + BEAT for begin, end in taken)
    assert np.std([begin for begin, _ in taken]) > 1 and np.std([end - begin for begin, end in taken]) > 0.5
    assert stretches(TakeoverRule(interrupted()), moving) == stretches(TakeoverRule(interrupted()), moving)


@pytest.mark.parametrize(
    ("seen", "begin"),
    [
        (lambda now: at(0.3 + 0.1 * min(now, 2.0)), 2.0 + STILL_FOR),
        (lambda now: at(0.1 * now, other_held=now >= 3), 3 + ERRED_FOR),
        (lambda now: at(0.1 * now, held=2 <= now < 3), 3 + ERRED_FOR),
    ],
)
def test_they_take_over_where_the_policy_stands_carries_another_object_or_drops_its_own(
    seen: Callable[[float], TaskMoment], begin: float
) -> None:
    assert stretches(left_alone(), seen)[0][0] == pytest.approx(begin, abs=0.11)


def test_they_take_over_again_where_it_errs_again_and_not_for_the_error_before() -> None:
    (begin, end), (again, _), *_ = stretches(left_alone(), lambda now: at(0.3))
    assert begin == pytest.approx(STILL_FOR, abs=0.11) and again == pytest.approx(end + STILL_FOR, abs=0.11)
    dropped = stretches(left_alone(), lambda now: at(0.1 * now, held=2 <= now < 3))
    assert len(dropped) == 1, "while they moved the arm it was theirs to lift it again"


def test_they_let_go_when_the_task_is_done_and_leave_a_policy_alone_that_has_done_it() -> None:
    ((_, end),) = stretches(left_alone(), lambda now: at(0.3, done=now >= 4))
    assert end == pytest.approx(4, abs=BEAT)
    assert stretches(TakeoverRule(interrupted()), lambda now: at(0.3, done=True)) == []
