"""Views are taken where the arm stands, once at each pose."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.cameras.view_collector import AGAIN, NEW_POSE, STILL, ViewCollector

JOINTS = tuple(f"fr3_joint{k}" for k in range(1, 8))
RATE = 0.02


def stand(collector: ViewCollector, now: float, q: np.ndarray, seconds: float) -> float:
    for _ in range(round(seconds / RATE)):
        now += RATE
        collector.add_joints(now, dict(zip(JOINTS, q, strict=True)))
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
            collector.add_joints(now, dict(zip(JOINTS, q, strict=True)))
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
        collector.add_joints(now, {name: 0.1 for name in JOINTS[:3]})
        assert k or len(collector.lacking) == 4
        collector.add_joints(now, {"gripper": 0.04} | {name: 0.2 for name in JOINTS[3:]})
        collector.add_joints(now, {JOINTS[0]: float("nan")})
    assert collector.is_due(now) and not collector.lacking and collector.positions[JOINTS[0]] == 0.1
