"""What is left of a drawn trace as the gripper follows it."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import MAX_POINTS, pixels_from_trace, trace_from_pixels
from molmoact_ros.reasoning.trace_progress import AHEAD, DONE, point_at, remaining

CORNER = trace_from_pixels(np.array([[100, 100], [300, 100], [300, 300]]), 640, 480)


def rest_of(trace: np.ndarray, column: float, row: float) -> np.ndarray:
    rest = remaining(trace, np.array([column, row]))
    assert rest is not None, "there is something left"
    return rest


def walk(trace: np.ndarray, step: float) -> list[np.ndarray]:
    """Every rest of a trace while a gripper goes exactly along it, `step` pixels at a time, for at most 1000 steps."""
    rests: list[np.ndarray] = []
    for _ in range(1000):
        last = rests[-1] if rests else trace
        rest = remaining(last, point_at(pixels_from_trace(last, 640, 480).astype(float), step))
        if rest is None:
            return rests
        rests.append(rest)
    raise AssertionError("never done")


def test_points_that_are_passed_are_dropped() -> None:
    assert len(rest_of(CORNER, 100, 100)) == 3
    rest = pixels_from_trace(rest_of(CORNER, 130, 104), 640, 480)
    np.testing.assert_allclose(rest, [[130, 100], [300, 100], [300, 300]], atol=2)
    late = trace_from_pixels(np.array([[290, 100], [300, 100], [300, 300]]), 640, 480)
    np.testing.assert_allclose(pixels_from_trace(rest_of(late, 304, 120), 640, 480), [[300, 120], [300, 300]], atol=2)


def test_it_is_done_at_its_end_and_not_beside_it() -> None:
    end = trace_from_pixels(np.array([[290, 300], [300, 300]]), 640, 480)
    assert remaining(end, np.array([301.0, 299.0])) is None
    led_back = pixels_from_trace(rest_of(end, 300, 340), 640, 480)
    np.testing.assert_allclose(led_back, [[300, 340], [300, 300]], atol=2)
    assert remaining(CORNER[:1], np.array([100.0, 100.0])) is None, "one point is an end alone"
    assert rest_of(CORNER[:1], 200, 100).shape == (2, 2)


def test_a_trace_that_comes_back_is_not_cut_short() -> None:
    there_and_back = trace_from_pixels(np.array([[100, 100], [400, 100], [100, 104]]), 640, 480)
    rest = rest_of(there_and_back, 100, 103)
    assert len(rest) == 3 and rest[0, 0] == there_and_back[0, 0]


@given(arrays(np.int64, st.tuples(st.integers(1, MAX_POINTS), st.just(2)), elements=st.integers(0, 255)),
       st.floats(DONE, AHEAD))  # fmt: skip
def test_a_gripper_on_the_trace_comes_to_its_end(trace: np.ndarray, step: float) -> None:
    rests = walk(trace, step)
    assert all(2 <= len(rest) <= MAX_POINTS and (rest[-1] == trace[-1]).all() for rest in rests)
    counts = [len(trace), *map(len, rests)]
    assert all(len(trace) == 1 or after <= before for before, after in pairwise(counts))


@given(arrays(np.int64, st.tuples(st.integers(1, MAX_POINTS), st.just(2)), elements=st.integers(0, 255)),
       arrays(float, 2, elements=st.floats(-1e4, 1e4)))  # fmt: skip
def test_wherever_the_gripper_is_the_rest_is_a_trace_to_the_same_end(trace: np.ndarray, gripper: np.ndarray) -> None:
    rest = remaining(trace, gripper)
    if rest is None:
        assert np.linalg.norm(pixels_from_trace(trace, 640, 480)[-1] - gripper) <= DONE + 2
    else:
        assert 2 <= len(rest) <= MAX_POINTS and (rest[-1] == trace[-1]).all()
        assert rest.min() >= 0 and rest.max() <= 255


def test_another_image_size_gives_the_same_rest() -> None:
    small = rest_of(CORNER, 200, 104)
    large = remaining(CORNER, np.array([200 * 1279 / 639, 104 * 959 / 479]), 1280, 960)
    assert large is not None
    np.testing.assert_array_equal(small, large)


def test_no_trace_is_refused() -> None:
    with pytest.raises(RefusedStep, match=r"1\.\.5 integer points"):
        remaining(np.zeros((0, 2), int), np.zeros(2))
