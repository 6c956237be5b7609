"""Strokes: how they are drawn, who follows them, what is learnt of them, and how following is measured."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmoact_ros.cli.main import main
from molmoact_ros.control.controller import Controller
from molmoact_ros.engine.base import EngineTimings, ReasoningMode
from molmoact_ros.engine.model.image_processor import ImageProcessor, resize
from molmoact_ros.evaluation.trace_rollout import report, run_stroke, steered_task
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.trace import draw_training_overlay, pixels_from_trace, trace_from_pixels
from molmoact_ros.sim.camera_renderer import D435_FRONT, lift, project
from molmoact_ros.sim.scene import GRASP_HEIGHT, Task, sample_scene
from molmoact_ros.sim.table_workcell import Workcell, front_pose
from molmoact_ros.training.data_loader import NOTHING_SAID, BatchMaker
from molmoact_ros.training.demonstrations import VIEW, Demonstrations, collect
from molmoact_ros.training.expert import MAX_STEP
from molmoact_ros.training.nano_model import PROCESSOR, nano_config, view_patches
from molmoact_ros.training.tokenizer import build_tokenizer
from molmoact_ros.training.trace_augmentation import (
    FRONT,
    HEIGHT,
    MAX_DROP,
    ON_TABLE,
    WIDTH,
    Stroke,
    chunk,
    draw_stroke,
    end_height,
    follow,
    overlay,
)
from molmoact_ros.utils.paths import robot_model
from molmoact_ros.utils.progress import Progress, ignore

HOME = np.array([0.42, 0.0, 0.25])


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    part = tmp_path_factory.mktemp("demonstrations") / "part000.npz"
    collect(robot_model(), 2_100_000, 8, part)
    return Demonstrations.load([part])


@pytest.fixture(scope="module")
def maker(data: Demonstrations) -> BatchMaker:
    tokenizer = build_tokenizer()
    return BatchMaker(data, nano_config(tokenizer, NormStats.from_actions(data.actions.reshape(-1, 7))), tokenizer)


@pytest.fixture(scope="module")
def cell() -> Workcell:
    cell = Workcell(robot_model())
    cell.reset(sample_scene(5))
    return cell


def test_the_front_camera_is_where_strokes_think_it_is(cell: Workcell) -> None:
    for known, there in zip(front_pose(), cell.camera_pose("front"), strict=True):
        np.testing.assert_allclose(known, there, atol=1e-12)


@given(arrays(float, (4, 2), elements=st.floats(0, 479)), st.floats(0, 0.4))
def test_lifting_undoes_projecting(pixels: np.ndarray, height: float) -> None:
    points = lift(pixels, np.full(4, height), *front_pose(), D435_FRONT)
    np.testing.assert_allclose(points[:, 2], height, atol=1e-9)
    np.testing.assert_allclose(project(points, *front_pose(), D435_FRONT), pixels, atol=1e-6)


@pytest.mark.parametrize("seed", range(12))
def test_the_overlay_is_what_the_engine_shows_the_model(cell: Workcell, seed: int) -> None:
    trace = np.random.default_rng(seed).integers(0, 256, (1 + seed % 5, 2))
    grey, picture = np.full((HEIGHT, WIDTH, 3), 90, np.uint8), cell.render("front")[0]
    shown = {name: resize(draw_training_overlay(full, trace), VIEW) for name, full in (("g", grey), ("p", picture))}
    even, drawn = overlay(resize(grey, VIEW), trace), overlay(resize(picture, VIEW), trace)
    np.testing.assert_allclose(even, shown["g"], atol=1.6)  # three roundings
    off = np.abs(drawn - shown["p"])  # only an edge that a line crosses within one small pixel differs
    assert off.mean() < 0.1 and off.max() < 25 and (off > 4).mean() < 0.002
    crops = ImageProcessor(PROCESSOR)([draw_training_overlay(grey, trace)]).crops
    np.testing.assert_allclose(view_patches(even[None]), crops, atol=2 * 1.6 / 255)


def random_stroke(seed: int, held: bool = False) -> tuple[Stroke, np.ndarray]:
    rng, scene = np.random.default_rng(seed), sample_scene(seed)
    hand = np.array([rng.uniform(0.38, 0.66), rng.uniform(-0.25, 0.25), rng.uniform(0.08, 0.3)])
    objects = {placed.name: FRONT.project(placed.point[None])[0] for placed in scene.objects}
    targets = [FRONT.project(placed.point[None])[0] for placed in scene.targets]
    return draw_stroke(FRONT.project(hand[None])[0], objects, targets, held, rng), hand


@pytest.mark.parametrize("seed", range(25))
def test_the_expert_stays_on_the_stroke_within_its_limits_and_comes_to_the_end(seed: int) -> None:
    stroke, hand = random_stroke(seed)
    path = follow(stroke, hand, 120)
    moves = np.diff(path, axis=0)
    assert (
        np.linalg.norm(moves[:, :2], axis=1).max() <= MAX_STEP + 1e-9 and np.abs(moves[:, 2]).max() <= MAX_DROP + 1e-9
    )
    assert path[:, 2].min() >= min(hand[2], 0.02) - 1e-9 and np.abs(moves[-1]).max() < 1e-3
    pixels = FRONT.project(path)
    assert np.linalg.norm(pixels[-1] - stroke.points[-1]) < 2.0
    dense = np.array([stroke.at(where) for where in np.linspace(0, stroke.length, 400)])
    off = np.linalg.norm(pixels[:, None] - dense, axis=2).min(axis=1)
    assert off[12:].max() < 4.0 and (np.diff(off[:8]) < 1.0).all(), "a hand beside the stroke comes back to it"


def test_a_stroke_ends_at_the_grasp_of_what_it_ends_on() -> None:
    scene = sample_scene(3)
    objects = {placed.name: FRONT.project(placed.point[None])[0] for placed in scene.objects}
    for placed in scene.objects:
        end = objects[placed.name]
        stroke = Stroke(np.stack([FRONT.project(HOME[None])[0], end]), end_height(end, objects, held=False))
        assert stroke.end_height == GRASP_HEIGHT[placed.name.split()[1]]
        assert np.linalg.norm(follow(stroke, HOME, 120)[-1] - placed.point) < 0.01
    assert end_height(np.array([5.0, 470.0]), objects, held=False) == ON_TABLE
    assert end_height(end, objects, held=True) > ON_TABLE, "what is held hangs below the hand"


def test_fingers_stay_as_they_are() -> None:
    stroke, hand = random_stroke(1)
    assert (chunk(stroke, hand, held=True)[:, 6] == 0).all() and (chunk(stroke, hand, held=False)[:, 6] == 1).all()
    assert not chunk(stroke, hand, held=False)[:, 3:6].any()


def test_a_steered_batch_shows_the_stroke_and_asks_for_actions_alone(data: Demonstrations, maker: BatchMaker) -> None:
    tokenizer, rows = build_tokenizer(), np.arange(8)
    batch = maker.steered_batch(rows, np.random.default_rng(0))
    plain = maker.batch(rows, 1, False, np.random.default_rng(0))
    said = set()
    for row in range(8):
        text = tokenizer.decode(batch.ids[row].tolist(), skip_special_tokens=False)
        asked = next(
            t
            for t in [NOTHING_SAID, *(data.texts[i] for i in data.instructions[row])]
            if text.startswith(prompt(t, 2, True))
        )
        said.add(asked)
        assert "depth map of" not in text.removeprefix(prompt(asked, 2, True))
        answer = np.isin(batch.targets[row], maker.action_ids)
        assert answer.sum() == 56 and (batch.targets[row, answer] == batch.ids[row, 1:][answer[:-1]]).all()
    assert NOTHING_SAID in said and len(said) > 3
    assert plain.moves.isnan().all() and not batch.moves.isnan().any()
    again = maker.steered_batch(rows, np.random.default_rng(0))
    torch.testing.assert_close(vars(batch), vars(again), equal_nan=True)


def test_half_of_the_batches_can_be_steered(maker: BatchMaker) -> None:
    batches = maker.batches(2, 2, 0.0, seed=0, steered=0.5)
    steered = [not next(batches).moves.isnan().any() for _ in range(24)]
    assert 6 <= sum(steered) <= 18


class Steady:
    """An engine that says what it is told to."""

    def __init__(self, actions: Callable[[Observation], np.ndarray]) -> None:
        self.timings, self.digest, self.actions = EngineTimings(), "", actions

    def reason(
        self,
        observation: Observation,
        mode: ReasoningMode = ReasoningMode.FULL,
        wanted: Callable[[], bool] = lambda: True,
    ) -> Iterator[Reasoning]:
        yield Reasoning(None, None, self.actions(observation), True)

    def warm_up(self, progress: Progress = ignore) -> None:
        pass


def test_the_expert_in_closed_loop_comes_to_the_strokes_end_along_it(cell: Workcell) -> None:
    def expert(observation: Observation) -> np.ndarray:
        assert observation.trace is not None and 2 <= len(observation.trace) <= 5
        points = pixels_from_trace(observation.trace, WIDTH, HEIGHT).astype(float)
        return chunk(Stroke(points, ON_TABLE), cell.arm.tcp_position, held=False)

    for seed in (1, 7):
        result = run_stroke(cell, Steady(expert), Controller(robot_model()), steered_task(cell, seed))
        assert result.success and result.path < 5 and not result.refusals and result.seconds < 10


def test_a_plan_that_leads_beyond_the_strokes_end_is_ended_there(cell: Workcell) -> None:
    task = steered_task(cell, 1)
    ends = cell.project(cell.arm.tcp_position + [[0, 0, 0], [0, 0.15, 0]])
    aside = Steady(lambda _: np.tile([0, 0.015, 0, 0, 0, 0, 1.0], (8, 1)))
    across = replace(task, trace=trace_from_pixels(ends, WIDTH, HEIGHT))
    result = run_stroke(cell, aside, Controller(robot_model()), across)
    assert result.success and result.path < 3


def test_an_arm_that_goes_elsewhere_does_not_succeed(cell: Workcell) -> None:
    straight_down = np.tile([0.0, 0.0, -0.01, 0, 0, 0, 1.0], (8, 1))
    result = run_stroke(
        cell, Steady(lambda _: straight_down), Controller(robot_model()), steered_task(cell, 1), timeout=4.0
    )
    assert not result.success and not result.finished and result.end > 15 and result.path > 15


def test_the_report_holds_every_stroke(cell: Workcell) -> None:
    still = Steady(lambda _: np.tile([0.0, 0, 0, 0, 0, 0, 1.0], (8, 1)))
    results = [
        run_stroke(cell, still, Controller(robot_model()), steered_task(cell, seed), timeout=0.5) for seed in (5, 6)
    ]
    figures = json.loads(json.dumps(report(results)))
    assert figures["summary"]["strokes"] == 2 and figures["summary"]["success"] == 0
    assert [episode["seed"] for episode in figures["episodes"]] == [5, 6]


def test_the_instruction_names_another_object_or_nothing(cell: Workcell) -> None:
    tasks = [steered_task(cell, seed) for seed in range(12)]
    for task in tasks:
        assert task.goal in [placed.name for placed in task.scene.objects]
        end = pixels_from_trace(task.trace, WIDTH, HEIGHT)[-1]
        assert np.linalg.norm(end - FRONT.project(task.scene.object(task.goal).point[None])[0]) < 3
        assert task.instruction == NOTHING_SAID or Task.parse(task.instruction).object != task.goal
    assert {task.instruction == NOTHING_SAID for task in tasks} == {True, False}


def test_windows_say_where_a_stroke_runs_and_which_way() -> None:
    stroke = Stroke(np.array([[40.0, 40.0], [200.0, 40.0], [200.0, 120.0]]), ON_TABLE)
    shown = stroke.windows(6, 8)
    assert np.flatnonzero(~np.isnan(shown).any(-1)).tolist() == [0, 1, 2, 10]
    np.testing.assert_allclose(shown[0], [0.75, 0.5, 1.0, 0.0, 0.2], atol=0.03)
    np.testing.assert_allclose(shown[10], [0.5, 0.25, 0.0, 1.0, 2.2], atol=0.03)
    dot = Stroke(np.array([[40.0, 40.0], [40.0, 40.0]]), ON_TABLE).windows(6, 8)
    assert np.isfinite(dot[0]).all() and np.isnan(dot[1:]).all()


def test_any_stroke_can_be_learnt_from(maker: BatchMaker) -> None:
    for seed in range(20):
        batch = maker.steered_batch(np.arange(8), np.random.default_rng(seed))
        assert (~batch.windows.isnan().any(-1)).any(1).all() and batch.moves.isfinite().all()


def test_swapping_and_steering_are_two_evaluations(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["eval", "--steer", "--swap"])
    assert "not allowed with" in capsys.readouterr().err
