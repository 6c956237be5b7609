"""Views are taken where the arm stands, once at each pose."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.robots.view_collector import AGAIN, NEW_POSE, STILL, ViewCollector

JOINTS = tuple(f"fr3_joint{k}" for k in range(1, 8))
RATE = 0.02


def stand(collector: ViewCollector, now: float, q: np.ndarray, seconds: float) -> float:
    for _ in range(round(seconds / RATE)):
        now += RATE
        collector.add_joints(now, JOINTS, q.tolist())
    return now


@settings(max_examples=40, deadline=None)
@given(st.lists(st.tuples(st.booleans(), st.floats(0.05, 2.0), st.floats(-1, 1)), min_size=1, max_size=12))
def test_a_view_is_due_only_after_standing_at_a_new_pose(script: list[tuple[bool, float, float]]) -> None:
    collector, now, q, stood = ViewCollector(JOINTS), 0.0, np.zeros(7), 0.0
    taken: list[np.ndarray] = []
    for moves, seconds, speed in script:
        for _ in range(round(seconds / RATE)):
            now += RATE
            moved = moves and abs(speed) > 0.02
            q = q + (speed * RATE if moved else 0.0)
            stood = 0.0 if moved else stood + RATE
            collector.add_joints(now, JOINTS, q.tolist())
            if collector.is_due(now):
                assert stood > 0.5 * STILL, "the arm moved less than half that time ago, and slower than a crawl"
                assert all(np.abs(q - other).max() >= NEW_POSE for other in taken)
                collector.note_view(now, collector.positions)
                taken.append(q)


def test_a_pose_without_a_board_is_looked_at_again_and_one_with_it_is_not() -> None:
    collector = ViewCollector(JOINTS)
    now = stand(collector, 0.0, np.zeros(7), 1.0)
    assert collector.is_due(now)
    collector.note_view(now, None)
    assert not collector.is_due(now)
    now = stand(collector, now, np.zeros(7), AGAIN + 0.1)
    assert collector.is_due(now)
    collector.note_view(now, collector.positions)
    now = stand(collector, now, np.zeros(7), 2.0)
    assert not collector.is_due(now)
    assert collector.is_due(stand(collector, now, np.full(7, 0.2), 1.2))


def test_joints_in_several_messages_are_put_together_and_nan_is_no_position() -> None:
    collector = ViewCollector(JOINTS)
    for k in range(100):
        now = k * RATE
        collector.add_joints(now, JOINTS[:3], [0.1] * 3)
        assert k or len(collector.lacking) == 4
        collector.add_joints(now, ("gripper", *JOINTS[3:]), [0.04] + [0.2] * 4)
        collector.add_joints(now, JOINTS[:1], [float("nan")])
    assert collector.is_due(now) and not collector.lacking and collector.positions[JOINTS[0]] == 0.1


@pytest.mark.parametrize("last", [[], [float("nan")]], ids=["silent", "NaN"])
def test_an_arm_of_which_a_joint_is_not_known_any_more_does_not_stand(last: list[float]) -> None:
    collector = ViewCollector(JOINTS)
    now = stand(collector, 0.0, np.zeros(7), 1.0)
    assert collector.stands(now)
    for _ in range(round(1.5 * STILL / RATE)):
        now += RATE
        collector.add_joints(now, JOINTS, [0.0] * 6 + last)
    assert not collector.stands(now)
