"""What may be drawn, whose drawing counts, and how one ends."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace_steering import LONGEST, TOLERANCES, Steering, simplified

LINE = np.array([[0.2, 0.5], [0.8, 0.5]])
NOW = 1000.0


def distances(points: np.ndarray, line: np.ndarray) -> np.ndarray:
    """How far each point is from a polyline."""
    best = np.full(len(points), np.inf)
    for a, b in pairwise(line):
        along = b - a
        t = np.clip((points - a) @ along / max(float(along @ along), 1e-9), 0, 1)
        best = np.minimum(best, np.linalg.norm(points - a - t[:, None] * along, axis=1))
    return best


def test_up_to_five_points_stay_as_they_are() -> None:
    bent = np.array([[0.1, 0.1], [0.3, 0.12], [0.5, 0.1], [0.7, 0.12], [0.9, 0.1]])
    np.testing.assert_array_equal(simplified(bent), np.round(bent * 255).astype(int))


def test_a_stroke_of_a_mouse_becomes_its_corners() -> None:
    corners = np.array([[0.1, 0.1], [0.6, 0.1], [0.6, 0.8]])
    stroke = np.vstack([np.linspace(a, b, 80) for a, b in pairwise(corners)])
    stroke += np.random.default_rng(3).normal(0, 0.001, stroke.shape)
    found = simplified(stroke)
    assert len(found) == 3 and np.abs(found / 255 - corners).max() < 0.02


@given(arrays(np.float64, st.tuples(st.integers(2, 40), st.just(2)), elements=st.floats(0, 1)))
def test_what_is_taken_is_near_what_was_drawn(stroke: np.ndarray) -> None:
    try:
        found = simplified(stroke)
    except RefusedStep:
        return
    assert 2 <= len(found) <= 5 and found.min() >= 0 and found.max() <= 255
    assert (found[0] == np.round(stroke[0] * 255)).all() and (found[-1] == np.round(stroke[-1] * 255)).all()
    assert distances(stroke * 255, found.astype(float)).max() <= TOLERANCES[-1] + 1


@pytest.mark.parametrize(
    ("stroke", "reason"),
    [
        ([[0.5, 0.5]], "draw a line"),
        ([], "draw a line"),
        ([[0.5, 0.5], [0.505, 0.5]], "only a point"),
        ([[0.5, 0.5], [0.5, 0.5]], "only a point"),
        ([[0.5, 0.5], [1.2, 0.5]], "outside"),
        ([[0.5, -0.01], [0.9, 0.5]], "outside"),
        ([[0.5, np.nan], [0.9, 0.5]], "outside"),
        ([[0.1 + 0.1 * (i % 2), i / 20] for i in range(20)], "bends too often"),
        ([[0.5, 0.5]] * (LONGEST + 1), "draw a line"),
        ([[0.5 + 0.004 * (i % 2), 0.5 + 0.004 * (i % 3)] for i in range(50)], "only a point"),
        ([[0.5 * (1 + np.sin(i)), i / 999] for i in range(1000)], "bends too often"),
    ],
)
def test_what_is_no_line_is_refused(stroke: list[list[float]], reason: str) -> None:
    with pytest.raises(RefusedStep, match=reason) as refused:
        simplified(np.array(stroke).reshape(-1, 2))
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize(
    ("picture", "reason"),
    [(0.0, "on which image"), (NOW - 11, "11.0 s old"), (NOW + 2, "from the future")],
)
def test_a_drawing_needs_a_picture_of_now(picture: float, reason: str) -> None:
    with pytest.raises(RefusedStep, match=reason):
        Steering(10.0, 30.0).check(LINE, picture, NOW)


def test_the_picture_of_a_plan_that_waits_is_never_stale() -> None:
    steering = Steering(10.0, 30.0)
    assert len(steering.check(LINE, NOW - 60, NOW, shown=NOW - 60)) == 2
    with pytest.raises(RefusedStep, match="old"):
        steering.check(LINE, NOW - 61, NOW, shown=NOW - 60)


def test_of_two_drawings_the_one_on_the_newer_picture_counts() -> None:
    steering = Steering(10.0, 30.0)
    steering.take_trace(steering.check(LINE, NOW - 1, NOW), NOW - 1, NOW)
    with pytest.raises(RefusedStep, match="newer image"):
        steering.check(LINE, NOW - 2, NOW + 1)
    again = steering.check(LINE[::-1], NOW - 1, NOW + 1)  # the same picture: the later drawing
    steering.take_trace(again, NOW - 1, NOW + 1.5)
    np.testing.assert_array_equal(steering.trace, again)
    assert steering.message == "replaced by a newer drawing after 1.5 s, 2 points left"


def test_a_cleared_drawing_does_not_outlive_its_clearing() -> None:
    steering = Steering(10.0, 30.0)
    assert not steering.end("cleared", NOW), "there is none"
    steering.take_trace(steering.check(LINE, NOW, NOW), NOW, NOW)
    assert steering.end("cleared", NOW + 2) and steering.trace is None
    assert steering.message == "cleared after 2.0 s, 2 points left"
    steering.take_trace(steering.check(LINE, NOW - 1, NOW + 3), NOW - 1, NOW + 3)
    assert steering.message == "", "nothing was replaced"


def test_a_gripper_on_its_way_drops_points_and_ends_the_drawing() -> None:
    steering = Steering(10.0, 30.0)
    corner = np.array([[0.2, 0.2], [0.5, 0.2], [0.5, 0.8]])
    steering.take_trace(steering.check(corner, NOW, NOW), NOW, NOW)
    lefts = []
    way = np.vstack([np.linspace(a, b, 40) for a, b in pairwise(corner)])
    for k, place in enumerate(way):
        if steering.advance(place, NOW + 0.1 * k):
            break
        lefts.append(steering.left)
    assert lefts[0] == 3 and lefts[-1] == 2 and sorted(lefts, reverse=True) == lefts
    assert steering.trace is None and steering.message.startswith("done after ")


def test_where_nobody_knows_the_gripper_a_drawing_ends_by_its_time() -> None:
    steering = Steering(10.0, 30.0)
    steering.take_trace(steering.check(LINE, NOW, NOW), NOW, NOW)
    assert not steering.advance(None, NOW + 29)
    assert steering.left == 2 and steering.age(NOW + 29) == 29.0
    assert steering.advance(None, NOW + 30.5)
    assert steering.message == "timed out after 30.5 s, 2 points left"
    assert not steering.advance(None, NOW + 31)
