"""The table's plane is found in any image of relative depth that shows enough of it."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.training.table_relief import SIDE, draw_planes, fit_planes


def a_scene(rng: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """A plane, its image with things, an arm and a far wall, and where the plane is seen."""
    plane = np.array([[rng.uniform(-0.05, 0.05), rng.uniform(0.2, 0.35), rng.uniform(0.4, 0.5)]], np.float32)
    table = draw_planes(plane, SIDE)[0]
    image, seen = table.copy(), np.ones((SIDE, SIDE), bool)
    for _ in range(8):
        row, column = rng.integers(20, 70, 2)
        image[row : row + 6, column : column + 4] += 0.05
        seen[row : row + 6, column : column + 4] = False
    left = rng.integers(10, 50)
    image[:40, left : left + 16], seen[:40, left : left + 16] = 0.95, False
    image[:10], seen[:10] = 0.0, False
    return plane, image, seen


@pytest.mark.parametrize("seed", range(20))
def test_the_table_is_found_beside_things_an_arm_and_a_wall(seed: int) -> None:
    plane, image, seen = a_scene(np.random.default_rng(seed))
    found = fit_planes(image[None])
    np.testing.assert_allclose(found, plane, atol=2e-3)
    relief = image - draw_planes(found, SIDE)[0]
    assert np.abs(relief[seen]).max() < 4e-3
    things = ~seen & (image < 0.9) & (image > 0)
    assert relief[things].min() > 0.04


def test_planes_are_drawn_alike_at_every_size() -> None:
    plane = np.array([[0.1, 0.3, 0.5], [0.0, 0.2, 0.4]], np.float32)
    large = draw_planes(plane, 4 * SIDE).reshape(2, SIDE, 4, SIDE, 4).mean((2, 4))
    np.testing.assert_allclose(large, draw_planes(plane, SIDE), atol=1e-6)


def test_an_image_that_shows_no_table_has_a_plane_all_the_same() -> None:
    assert np.isfinite(fit_planes(np.zeros((1, SIDE, SIDE), np.float32))).all()
