"""The plan in the image, for people, and in space."""

from __future__ import annotations

import cv2
import numpy as np
import pytest

from molmoact_ros.reasoning.trace import TRAINING_COLOUR
from molmoact_ros.visualization.deproject import lift
from molmoact_ros.visualization.overlay import HUMAN_COLOUR, OLD, beside, colour_depth, draw_for_people, draw_plan, jpeg

GREY = np.full((480, 640, 3), 90, np.uint8)
RIGHT = np.array([[40, 200], [220, 200]])
K = np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]])


def coloured(picture: np.ndarray, colour: tuple[int, ...]) -> int:
    return int((np.abs(picture.astype(int) - colour).max(axis=-1) < 10).sum())


def test_the_arrow_points_where_the_trace_goes() -> None:
    there, back = draw_for_people(GREY, RIGHT), draw_for_people(GREY, RIGHT[::-1])
    row, middle = round(200 / 255 * 479), 325
    band = slice(row - 12, row - 4)  # above the line: the wings of the arrow

    def wings(picture: np.ndarray) -> float:
        columns = np.flatnonzero((picture[band, middle - 20 : middle + 20] == TRAINING_COLOUR).all(axis=-1).any(axis=0))
        return float(columns.mean() - 20)

    assert wings(there) < 0 < wings(back)


def test_source_and_age_are_seen() -> None:
    model, human = draw_plan(GREY, RIGHT, "model", 0.1), draw_plan(GREY, RIGHT, "person", 0.1)
    assert coloured(model, TRAINING_COLOUR) > 500 > 10 > coloured(model, HUMAN_COLOUR)
    assert coloured(human, HUMAN_COLOUR) > 500 > 10 > coloured(human, TRAINING_COLOUR)
    old = draw_plan(GREY, RIGHT, "model", OLD + 1)
    assert coloured(old[100:], TRAINING_COLOUR) == 0, "old ones are dim"
    assert (draw_plan(GREY, RIGHT, "model", 0.2)[:40] != model[:40]).any(), "and the words say how old"
    assert (draw_plan(GREY, RIGHT, "model", 0.1, ("waits",))[:60] != model[:60]).any()
    assert (GREY == 90).all()


def test_depth_stands_beside_the_picture() -> None:
    depth = np.tile(np.linspace(0, 1, 32, dtype=np.float32), (32, 1))
    both = beside(GREY, depth)
    assert both.shape == (480, 640 + 480, 3)
    np.testing.assert_array_equal(both[:, :640], GREY)
    np.testing.assert_array_equal(both[:, 640:], colour_depth(depth, 480))
    assert beside(GREY, None).shape == both.shape


def test_jpeg_is_the_picture() -> None:
    picture = draw_plan(GREY, RIGHT, "person", 0.0)
    read = cv2.imdecode(np.frombuffer(jpeg(picture, 95), np.uint8), cv2.IMREAD_COLOR)
    assert read is not None and np.abs(read[..., ::-1].astype(int) - picture).mean() < 3


def test_a_trace_on_a_plane_is_lifted_onto_it() -> None:
    """A table that leans away: z = 1 + 0.2 y."""
    rays = np.stack(
        [(np.arange(640) - 320) / 600 + np.zeros((480, 1)), (np.arange(480)[:, None] - 240) / 600 + np.zeros(640)]
    )
    depth = 1.0 / (1 - 0.2 * rays[1])
    points = lift(np.array([[50, 60], [200, 60], [200, 220]]), depth, K)
    np.testing.assert_allclose(points[:, 2], 1 + 0.2 * points[:, 1], atol=2e-3)
    assert np.linalg.norm(np.diff(points, axis=0), axis=1).max() < 0.03
    pixel = points[0, :2] / points[0, 2] * 600 + (320, 240)
    np.testing.assert_allclose(pixel, [50 / 255 * 639, 60 / 255 * 479], atol=1.0)


def test_holes_in_the_depth_are_joined_and_nothing_is_made_of_nothing() -> None:
    depth = np.full((480, 640), 0.8)
    depth[:, 300:340] = 0.0
    depth[:, 340:360] = np.nan
    points = lift(RIGHT, depth, K)
    np.testing.assert_allclose(points[:, 2], 0.8)
    assert lift(RIGHT, np.zeros((480, 640)), K).shape == (0, 3)
    assert lift(RIGHT[:1], depth, K).shape == (1, 3)


@pytest.mark.parametrize("corner", [[0, 0], [255, 255]])
def test_the_edge_of_the_picture_has_depth_too(corner: list[int]) -> None:
    assert lift(np.array([corner, [128, 128]]), np.full((480, 640), 0.5), K)[0, 2] == pytest.approx(0.5)
