"""When a person took over from the policy."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.datasets.interventions import POLICY, TELEOP, Interventions

HOLD = 2


def intervals(*states: int, end: float | None = None) -> list[tuple[float, float]]:
    """Of states that follow each other every second, from 0 s."""
    interventions = Interventions()
    for stamp, state in enumerate(states):
        interventions.observe_state(float(stamp), state)
    return interventions.until(float(len(states)) if end is None else end)


def test_a_demonstration_has_no_interventions() -> None:
    assert intervals(HOLD, TELEOP, HOLD, TELEOP) == []
    assert intervals(TELEOP, POLICY, POLICY) == [], "nor what came before the policy"


def test_each_stretch_after_the_policy_has_moved_the_arm_is_one() -> None:
    assert intervals(POLICY, TELEOP, TELEOP, POLICY, TELEOP) == [(1.0, 3.0), (4.0, 5.0)]
    assert intervals(POLICY, TELEOP, HOLD, TELEOP, HOLD) == [(1.0, 2.0), (3.0, 4.0)], "also after a pause"


@given(states=st.lists(st.sampled_from([0, POLICY, HOLD, 3, TELEOP]), max_size=30))
def test_the_stretches_are_exactly_those_of_teleoperation_after_the_policy(states: list[int]) -> None:
    found = intervals(*states)
    first = states.index(POLICY) if POLICY in states else len(states)
    inside = {k for begin, end in found for k in range(int(begin), int(end))}
    assert inside == {k for k, state in enumerate(states) if state == TELEOP and k > first}
    assert found == sorted(found) and all(begin < end for begin, end in found)
