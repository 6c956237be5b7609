"""Trace points and pixels, and what is drawn."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import draw_training_overlay, pixels_from_trace, trace_from_pixels
from molmoact_ros.visualization.overlay import draw_for_people


def test_corners_are_corners() -> None:
    corners = np.array([[0, 0], [255, 0], [255, 255], [0, 255]])
    assert pixels_from_trace(corners, 640, 480).tolist() == [[0, 0], [639, 0], [639, 479], [0, 479]]


@given(arrays(np.int64, (5, 2), elements=st.integers(0, 255)), st.integers(256, 1920), st.integers(256, 1080))
def test_a_large_image_keeps_every_point(trace: np.ndarray, width: int, height: int) -> None:
    np.testing.assert_array_equal(trace_from_pixels(pixels_from_trace(trace, width, height), width, height), trace)


def test_points_off_the_image_go_to_its_edge_and_nan_nowhere() -> None:
    assert trace_from_pixels(np.array([[-50.0, 9999.0]]), 320, 240).tolist() == [[0, 255]]
    with pytest.raises(RefusedStep, match="NaN"):
        trace_from_pixels(np.array([[np.nan, 1.0]]), 320, 240)


def test_the_training_overlay_is_a_thin_cyan_line_on_a_copy() -> None:
    image = np.zeros((240, 320, 3), dtype=np.uint8)
    drawn = draw_training_overlay(image, np.array([[0, 128], [255, 128]]))
    assert not image.any()
    row = round(128 / 255 * 239)
    assert (drawn[row, 5:315] == (0, 255, 255)).all()
    assert not drawn[: row - 3].any() and not drawn[row + 4 :].any()


def test_a_single_point_is_no_line() -> None:
    image = np.zeros((240, 320, 3), dtype=np.uint8)
    assert not draw_training_overlay(image, np.array([[128, 128]])).any()
    assert draw_for_people(image, np.array([[128, 128]])).any()


def test_people_see_start_and_end() -> None:
    image = np.full((240, 320, 3), 90, dtype=np.uint8)
    drawn = draw_for_people(image, np.array([[64, 128], [192, 128]]))
    start, end = pixels_from_trace(np.array([[64, 128], [192, 128]]), 320, 240)
    assert drawn[start[1], start[0]].tolist() == [0, 255, 255]
    assert drawn[end[1] - 6, end[0]].tolist() == [0, 255, 255]
    assert (image == 90).all()
