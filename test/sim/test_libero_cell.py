"""A task of LIBERO as a workcell: its images' geometry, and layouts by seed. Needs LIBERO (`make libero`)."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from molmoact_ros.sim.libero_cell import CAMERAS, SIZE, LiberoCell
from molmoact_ros.sim.libero_suite import libero_environment, read_suite

pytestmark = pytest.mark.skipif(not libero_environment().exists(), reason="`make libero` sets up LIBERO")
GOAL = "alphabet_soup_1"


@pytest.fixture(scope="module")
def cell() -> Iterator[LiberoCell]:
    cell = LiberoCell(read_suite("libero_object")[0])
    yield cell
    cell.close()


def test_a_seed_draws_a_layout_that_is_no_official_one(cell: LiberoCell) -> None:
    def drawn(seed: int) -> np.ndarray:
        cell.draw(seed)
        return cell.body_pose(GOAL)[0]

    first, other = drawn(1_000_000), drawn(1_000_001)
    np.testing.assert_allclose(drawn(1_000_000), first, atol=1e-6)
    assert np.linalg.norm((other - first)[:2]) > 1e-3
    cell.reset(0)
    official = cell.body_pose(GOAL)[0]
    assert min(np.linalg.norm((official - mine)[:2]) for mine in (first, other)) > 1e-4
    cell.reset(0)
    np.testing.assert_allclose(cell.body_pose(GOAL)[0], official, atol=1e-6, err_msg="`draw` changed `reset`")


def test_a_thing_is_projected_to_where_depth_shows_it(cell: LiberoCell) -> None:
    cell.draw(1_000_000)
    _, depth = cell.render("front")
    camera = cell.model.camera(CAMERAS["front"]).id
    for name in (GOAL, "milk_1", "butter_1"):
        middle = cell.points(name).mean(axis=0)
        column, row = (cell.project(middle[None], "front")[0] * SIZE).astype(int)
        away = -(cell.data.cam_xmat[camera].reshape(3, 3).T @ (middle - cell.data.cam_xpos[camera]))[2]
        assert abs(depth[row, column] - away) < 0.06, name
    behind = cell.data.cam_xpos[camera] + cell.data.cam_xmat[camera].reshape(3, 3)[:, 2]
    assert np.isnan(cell.project(behind[None], "front")).all()
