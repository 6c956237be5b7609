"""The expert turns the hand to long objects; demonstrations label it, and in lock-step it does the tasks."""

from __future__ import annotations

import hashlib

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer

from molmoact_ros.control.controller import Controller
from molmoact_ros.evaluation.rollout import run_episode
from molmoact_ros.evaluation.workcell_expert import WorkcellExpert
from molmoact_ros.sim.scene import LONG_SHAPES, SHAPES, Task, sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.demonstrations import HandPoser, Sampler
from molmoact_ros.training.expert import MAX_TURN, Expert, nearest_turn, see
from molmoact_ros.training.tokenizer import build_tokenizer, known_shapes
from molmoact_ros.utils.paths import default_checkpoint, robot_model


@pytest.fixture(scope="module")
def cell() -> Workcell:
    return Workcell(robot_model(), shapes=SHAPES + LONG_SHAPES)


def test_scenes_of_the_shipped_weights_are_what_they_were() -> None:
    scenes = "\n".join(repr(sample_scene(seed)) for seed in range(200))
    assert (
        hashlib.sha256(scenes.encode()).hexdigest()
        == "1bc568b79ca2ad061e1e1a2ef1384b2cd65ec839cec9b8ab8be60eed1131b908"
    )


def test_a_checkpoint_gets_the_shapes_that_it_has_words_for() -> None:
    shipped = Tokenizer.from_file(str(default_checkpoint() / "tokenizer.json"))
    assert known_shapes(shipped) == SHAPES
    assert known_shapes(build_tokenizer()) == SHAPES + LONG_SHAPES


def test_long_objects_lie_at_any_angle_and_are_asked_for_only_where_there_are_any() -> None:
    scenes = [sample_scene(seed, shapes=LONG_SHAPES) for seed in range(60)]
    yaws = np.array([placed.yaw for scene in scenes for placed in scene.objects])
    assert yaws.min() < -1.3 and yaws.max() > 1.3
    assert Task.parse("put the red bar in the box").object == "red bar"
    with pytest.raises(ValueError, match="cube, ball, cylinder"):
        sample_scene(1, instruction="pick up the blue rod")


@given(st.floats(-10, 10))
def test_the_nearest_turn_is_at_most_a_quarter(yaw: float) -> None:
    turn = nearest_turn(yaw)
    assert abs(turn) <= np.pi / 2 + 1e-9
    assert abs(np.sin(turn - yaw)) < 1e-6, "it differs from the yaw by half turns only"


@pytest.mark.parametrize("seed", range(12))
def test_the_hand_is_turned_before_it_is_low(seed: int) -> None:
    scene = sample_scene(seed, shapes=LONG_SHAPES)
    placed = scene.object(scene.task.object)
    plan = Expert.from_start(scene, np.array([0.42, 0.0, 0.25]))
    off = np.abs([nearest_turn(placed.yaw - yaw) for yaw in plan.yaws[:-1]])
    low = plan.positions[:-1, 2] < placed.point[2] + 0.02
    assert off[low].max() < 0.2 and off[plan.gripper < 0.5].max() < 0.07
    assert np.abs(np.diff(plan.yaws)).max() <= MAX_TURN + 1e-9
    assert np.abs(plan.yaws).max() <= np.pi / 2 + 1e-9, "the nearest way"
    np.testing.assert_allclose(plan.chunk()[:, 5], np.diff(plan.yaws[:9]))


def test_the_hand_stands_as_it_is_asked_to(cell: Workcell) -> None:
    poser = HandPoser(cell.model)
    cell.reset(sample_scene(0, shapes=LONG_SHAPES))
    for yaw in np.linspace(-1.5, 1.5, 7):
        q = poser.solve(np.array([0.5, 0.1, 0.15]), np.zeros(3), yaw)
        assert q is not None
        cell.pose_kinematically(q, 0.08)
        across, down = cell.arm.tcp_rotation[:, 0], cell.arm.tcp_rotation[:, 2]
        np.testing.assert_allclose(across, [np.cos(yaw), np.sin(yaw), 0], atol=2e-3)
        np.testing.assert_allclose(down, [0, 0, -1], atol=2e-3)


def test_demonstrations_label_turns_where_there_are_long_objects() -> None:
    plain, turning = Sampler(robot_model()), Sampler(robot_model(), shapes=LONG_SHAPES)
    turns = []
    for seed in range(12):
        scene, state, q, rng = turning.moment(seed)
        turning.pose(scene, state, q)
        seen = see(turning.cell)
        assert abs(nearest_turn(seen.yaw - state.yaw)) < 0.1, "as the hand is rendered, but for its tilt"
        assert abs(nearest_turn(seen.grasp_yaw - state.grasp_yaw)) < 0.01
        turns.append(turning.labels(scene, state, rng)[1][:, :, 3:6])
        scene, state, _, rng = plain.moment(seed)
        assert not plain.labels(scene, state, rng)[1][:, :, 3:6].any()
    assert not np.array(turns)[..., :2].any() and np.abs(turns).max() > 0.1


@pytest.mark.parametrize("instruction", ["put the red bar in the bowl", "pick up the blue rod"])
def test_it_does_the_task_in_lockstep(cell: Workcell, instruction: str) -> None:
    scene = sample_scene(17, instruction=instruction, shapes=SHAPES + LONG_SHAPES)
    assert abs(scene.object(scene.task.object).yaw) > 0.3
    result = run_episode(cell, WorkcellExpert(cell), Controller(robot_model()), scene)
    assert result.success and result.right_object_first
