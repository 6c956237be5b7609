"""The expert's geometry: where it grasps, and how it gets there."""

from __future__ import annotations

from dataclasses import replace
from typing import Final, cast

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.sim.libero_cell import LiberoCell
from molmoact_ros.training.libero_expert import (
    CHUNK_STEPS,
    DEEP,
    MOST_STEPS,
    OPEN,
    RETREAT,
    WIDEST,
    LiberoExpert,
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


class Table:
    """A can at (0.1, -0.2) and a basket at (0.1, 0.2) on the ground, as the expert sees a LiberoCell."""

    goals: Final = [["in", "can", "basket_contain_region"]]
    tcp: Final = (np.array([-0.1, 0.0, 0.3]), np.diag([1.0, -1.0, -1.0]))
    twist, opening, commanded_opening = np.zeros(6), OPEN, OPEN

    def body_pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        return np.array([0.1, -0.2, 0.05]), np.eye(3)

    def points(self, name: str) -> np.ndarray:
        return box(0.05, 0.05, 0.1) if name == "can" else box(0.15, 0.15, 0.1) + [0, 0.4, 0]

    def top(self, x: float, y: float, ignored: object = ()) -> float:
        return 0.1 if max(abs(x - 0.1), abs(y - 0.2)) < 0.075 else 0.0

    def is_held(self, name: str) -> bool:
        return False


@pytest.fixture
def expert() -> LiberoExpert:
    return LiberoExpert(cast(LiberoCell, Table()))


def test_a_plan_goes_on_until_the_object_is_released_and_the_hand_is_above_it(expert: LiberoExpert) -> None:
    plan = expert.plan(expert.observe())
    place = expert.place()
    assert CHUNK_STEPS < len(plan.inputs) < MOST_STEPS
    assert plan.inputs[-1, 6] == -1 and (plan.inputs[:, 6] == 1).any()
    np.testing.assert_allclose(plan.positions[-1, :2], [place.x, place.y], atol=0.03)
    assert plan.positions[-1, 2] == pytest.approx(place.bottom + RETREAT, abs=0.01)


def test_a_plan_does_not_end_while_the_fingers_still_close(expert: LiberoExpert) -> None:
    """Their servos are closed already, and the fingers follow: neither the hand nor the command moves meanwhile."""
    start = expert.observe()
    for opening in (0.08, 0.07, 0.06):
        state = replace(start, tcp=start.object + expert.grasp.point, command=0.0, opening=opening)
        assert len(expert.plan(state).inputs) > 2 * CHUNK_STEPS
    thin = replace(expert.grasp, width=0.004)
    expert.grasp = thin  # the longest way of the fingers
    plan = expert.plan(replace(start, tcp=start.object + thin.point, command=0.0))
    assert plan.inputs[-1, 6] == -1 and plan.positions[-1, 1] > 0.1


def test_a_trace_goes_by_the_grasp_to_the_release(expert: LiberoExpert) -> None:
    start, place = expert.observe(), expert.place()
    trace, path = expert.trace(start), expert.plan(start).positions
    np.testing.assert_allclose(trace[0], start.tcp)
    assert [np.linalg.norm(path - corner, axis=1).min() < 0.03 for corner in trace[1:]] == [True, True]
    carried = replace(start, tcp=start.object + [0, 0, 0.02], held=True, opening=0.05, command=0.0)
    np.testing.assert_allclose(expert.trace(carried)[-1], [place.x, place.y, place.bottom + 0.07], atol=1e-9)
    put = np.array([place.x, place.y, place.bottom + 0.05])
    done = replace(start, tcp=put, object=put)
    np.testing.assert_allclose(expert.trace(done)[-1], [*put[:2], place.bottom + RETREAT])
    assert expert.is_delivered(done, place) and not expert.is_delivered(start, place)
