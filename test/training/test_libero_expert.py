"""The expert's geometry: where it grasps, and how it gets there."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.training.libero_expert import (
    DEEP,
    WIDEST,
    approach,
    blocked,
    choose_grasp,
    closing_axis,
    pointing_down,
    yaw_between,
)  # fmt: skip

Y = np.array([0.0, 1.0, 0.0])
RNG = np.random.default_rng(11)


def box(x: float, y: float, z: float, yaw: float = 0.0) -> np.ndarray:
    """A box's corners on the ground at (0.1, -0.2)."""
    corners = (np.indices((2, 2, 2)).reshape(3, -1).T - [0.5, 0.5, 0.0]) * [x, y, z]
    return corners @ Rotation.from_euler("z", yaw).as_matrix().T + [0.1, -0.2, 0.0]


def bowl(radius: float = 0.053, height: float = 0.05) -> np.ndarray:
    angles = np.linspace(0, 2 * np.pi, 48, endpoint=False)
    ring = np.column_stack([np.cos(angles), np.sin(angles), np.zeros(48)])
    return np.concatenate([ring * radius + [0, 0, height], ring * radius * 0.5])


def ground(x: float, y: float) -> float:
    return 0.0


def test_a_box_is_grasped_across_its_narrow_side_near_its_top() -> None:
    grasp = choose_grasp(box(0.08, 0.04, 0.14, yaw=0.4), Y, ground)
    narrow = Rotation.from_euler("z", 0.4).apply(Y)
    assert abs(yaw_between(grasp.axis, narrow)) < 0.1
    np.testing.assert_allclose(grasp.point, [0.1, -0.2, 0.14 - DEEP], atol=1e-9)
    assert grasp.width < 0.05


def test_of_equal_sides_the_one_that_needs_no_turn_is_grasped() -> None:
    assert abs(yaw_between(choose_grasp(box(0.05, 0.05, 0.1), Y, ground).axis, Y)) < 0.1


def test_a_wide_bowl_is_grasped_at_its_rim_across_the_wall() -> None:
    grasp = choose_grasp(bowl(), Y, ground)
    assert WIDEST < 2 * 0.053 and grasp.shift == 0.0
    assert np.linalg.norm(grasp.point[:2]) == pytest.approx(0.049, abs=0.001)
    np.testing.assert_allclose(grasp.axis[:2], grasp.point[:2] / np.linalg.norm(grasp.point[:2]), atol=1e-6)


def test_a_rim_beside_a_wall_is_left_for_another_side_or_the_hand_is_shifted_inwards() -> None:
    def wall(x: float, y: float) -> float:
        return 0.1 if y > 0.07 else 0.0

    def drawer(x: float, y: float) -> float:
        return 0.058 if max(abs(x), abs(y)) > 0.092 else 0.0

    free = choose_grasp(bowl(), Y, wall)
    assert blocked(free, wall) == 0.0 and free.shift == 0.0
    narrow = choose_grasp(bowl(), Y, drawer)
    assert blocked(narrow, drawer) == 0.0 and narrow.shift > 0.0


def test_a_hand_points_down_by_the_smaller_turn() -> None:
    for _ in range(20):
        rotation, yaw = Rotation.random(random_state=RNG.integers(1000)).as_matrix(), RNG.uniform(-3, 3)
        axis = np.array([np.cos(yaw), np.sin(yaw), 0.0])
        down = pointing_down(rotation, axis)
        np.testing.assert_allclose(down @ down.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(down) > 0
        np.testing.assert_allclose(down[:, 2], [0, 0, -1])
        assert closing_axis(down) @ closing_axis(rotation) >= 0 and abs(closing_axis(down) @ axis) > 0.999


def test_what_is_too_low_rises_before_it_moves_on() -> None:
    low = approach(np.array([0.2, 0.0, -0.01]), 0.2, 0.15)
    assert low[0] == 0.0 and low[2] == pytest.approx(0.14)
    np.testing.assert_allclose(approach(np.array([0.2, 0.0, -0.15]), 0.2, 0.15), [0.2, 0.0, 0.0])
    np.testing.assert_allclose(approach(np.array([0.001, 0.0, -0.05]), 0.001, 0.15), [0.001, 0.0, -0.05])
