"""Which recorded plan is due to a harness."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.benchmarks.plan_replay import ReplayCursor


def plan(value: float) -> np.ndarray:
    return np.full((8, 7), value)


def test_episodes_come_one_after_the_other_by_task() -> None:
    cursor = ReplayCursor({("a", 0): [plan(1), plan(2)], ("a", 1): [plan(3)], ("b", 0): [plan(4)]})
    found = [cursor.next_plan("a")[0, 0], cursor.next_plan("a")[0, 0]]
    for words in ("a", "b"):
        cursor.end_episode()
        cursor.end_episode()  # at its end, and at the beginning of the next
        found.append(cursor.next_plan(words)[0, 0])
    assert found == [1, 2, 3, 4]


def test_an_episode_that_goes_on_for_longer_moves_nothing_and_keeps_its_gripper() -> None:
    cursor = ReplayCursor({("a", 0): [plan(0.5)]})
    cursor.next_plan("a")
    np.testing.assert_array_equal(cursor.next_plan("a"), [[0, 0, 0, 0, 0, 0, 0.5]])


def test_an_episode_that_was_not_recorded_is_said() -> None:
    cursor = ReplayCursor({("a", 0): [plan(1)]})
    cursor.next_plan("a")
    cursor.end_episode()
    with pytest.raises(ValueError, match="no recorded episode 1 of 'a'"):
        cursor.next_plan("a")
