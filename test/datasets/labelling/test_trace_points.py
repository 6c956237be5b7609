"""Traces through the gripper's grasp and release are those that the small model of the workcell has learnt."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import pytest

from molmoact_ros.cameras.image_path import ImagePath
from molmoact_ros.datasets.episode import TWO_ARMS, Demonstration
from molmoact_ros.datasets.labelling.trace_labels import PathTraces, TracePoints
from molmoact_ros.reasoning.trace import trace_from_pixels
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.expert import Expert, ExpertPhase, ExpertPlan
from molmoact_ros.utils.paths import robot_model

WIDTH, HEIGHT = 640, 480
HOME = np.array([0.42, 0.0, 0.25])


@pytest.fixture(scope="module")
def cell() -> Iterator[Workcell]:
    cell = Workcell(robot_model())
    yield cell
    cell.close()


def demonstration(gripper: np.ndarray, arms: tuple[str, ...] = ("",)) -> Demonstration:
    """An episode with these commands of the gripper, [n]."""
    n = len(gripper)
    actions = np.zeros((n, 7 * len(arms)), np.float32)
    actions[:, 6] = gripper
    return Demonstration(["lift"] * n, 10.0, {}, np.zeros_like(actions), actions, None, arms=arms)


def path_of(cell: Workcell, plan: ExpertPlan) -> ImagePath:
    points = cell.project(plan.positions[:-1])
    return ImagePath(points, [""] * len(points), WIDTH, HEIGHT)


@pytest.mark.parametrize("seed", range(8))
def test_they_are_the_experts_whose_plan_is_the_episode(cell: Workcell, seed: int) -> None:
    scene = sample_scene(seed)
    expert, thing = Expert(scene), scene.object(scene.task.object).point
    plan = expert.plan(ExpertPhase(HOME, 0.08, thing, held=False))
    path = path_of(cell, plan)
    traces = PathTraces(TracePoints.GRIPPER, demonstration(plan.gripper)).labels(path).traces
    grasp = int(np.flatnonzero(plan.gripper < 0.5)[0])
    for frame, tolerance in ((0, 2), (grasp // 2, 2), (grasp + 12, 8)):
        rest = ExpertPlan(plan.positions[frame:], plan.gripper[frame:], plan.yaws[frame:])
        wanted, found = trace_from_pixels(cell.project(rest.trace()), WIDTH, HEIGHT), traces[frame]
        assert found is not None and found.shape == (3, 2)
        assert np.abs(found - wanted).max() <= tolerance, (frame, found, wanted)


def test_what_is_not_in_the_image_is_left_out_and_the_last_frame_stays() -> None:
    gripper = np.array([1, 1, 1, 0, 0, 0, 1, 1.0])
    points = np.column_stack([np.arange(8.0) * 50, np.arange(8.0) * 30])
    points[3] = np.nan
    labels = PathTraces(TracePoints.GRIPPER, demonstration(gripper)).labels(ImagePath(points, [""] * 8, WIDTH, HEIGHT))
    first, closed, last = (labels.traces[k] for k in (0, 4, 7))
    assert first is not None and closed is not None and last is not None
    np.testing.assert_array_equal(first, trace_from_pixels(points[[0, 6]], WIDTH, HEIGHT))
    np.testing.assert_array_equal(closed, trace_from_pixels(points[[4, 5, 6]], WIDTH, HEIGHT))
    np.testing.assert_array_equal(last, trace_from_pixels(points[[7, 7, 7]], WIDTH, HEIGHT))


def test_a_gripper_that_stays_closed_ends_at_the_end() -> None:
    points = np.column_stack([np.arange(5.0) * 50, np.zeros(5)])
    traces = PathTraces(TracePoints.GRIPPER, demonstration(np.zeros(5))).labels(
        ImagePath(points, [""] * 5, WIDTH, HEIGHT)
    )
    np.testing.assert_array_equal(traces.traces[0], trace_from_pixels(points[[0, 2, 4]], WIDTH, HEIGHT))


def test_two_arms_have_no_such_trace() -> None:
    with pytest.raises(ValueError, match="--trace-points gripper is for one arm"):
        PathTraces(TracePoints.GRIPPER, demonstration(np.ones(3), TWO_ARMS))
    PathTraces(TracePoints.EVEN, demonstration(np.ones(3), TWO_ARMS))
