"""Labels for states that a policy has met."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from molmoact_ros.sim.scene import GRASP_HEIGHT, GRASP_WIDTH, Scene, Task, sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.demonstrations import ASKED, THINGS, Sampler
from molmoact_ros.training.expert import OPEN
from molmoact_ros.training.met_states import label_here, phase_of, scene_now
from molmoact_ros.utils.paths import robot_model


@pytest.fixture(scope="module")
def sampler() -> Sampler:
    return Sampler(robot_model())


@pytest.fixture
def cell(sampler: Sampler) -> Workcell:
    return sampler.cell


def shown(sampler: Sampler, seed: int) -> Scene:
    """The scene of a seed whose task is to carry something."""
    scene = sample_scene(seed)
    scene = replace(scene, task=Task(scene.objects[0].name, "bowl"))
    sampler.cell.reset(scene)
    return scene


def rest(cell: Workcell, name: str, x: float, y: float, lift: float = 0.0) -> None:
    """Put an object onto the table, and the kinematics up to date."""
    cell.place(name, np.array([x, y, cell.rest_height(name) + lift]))
    cell.pose_kinematically(cell.arm.positions[:7], cell.arm.opening)


def grasp(sampler: Sampler, name: str) -> None:
    """Put an object between the fingers, where the hand is."""
    cell, shape = sampler.cell, name.split()[1]
    x, y, _ = cell.arm.tcp_position
    lift = cell.arm.tcp_position[2] - GRASP_HEIGHT[shape]
    cell.pose_kinematically(cell.arm.positions[:7], GRASP_WIDTH[shape])
    rest(cell, name, x, y, lift)


def test_moments_that_are_demonstrated_are_labelled_as_demonstrations(sampler: Sampler) -> None:
    alike, seeds = 0, range(3_000_000, 3_000_040)
    for seed in seeds:
        scene, state, q, rng = sampler.moment(seed)
        sampler.pose(scene, state, q)
        wanted, actions, texts = sampler.labels(scene, state, rng)
        found = label_here(sampler, np.random.default_rng(seed))
        assert found is not None
        row, asked = found
        assert asked[0] == texts[0] and len(set(asked)) == ASKED
        same = np.abs(row["actions"][0] - actions[0]).max() < 0.004
        alike += bool(same and np.abs(row["trace"][0].astype(int) - wanted[0]).max() < 6)
        placed = ~np.isnan(row["things"]).any(-1)
        assert {THINGS[i] for i in np.flatnonzero(placed)} == {o.name for o in scene.objects + scene.targets}
    assert alike >= 0.85 * len(seeds), "the others lie at a border of the expert's decisions"


def test_an_object_is_labelled_where_it_is_now(sampler: Sampler, cell: Workcell) -> None:
    scene = shown(sampler, 1)
    name = scene.task.object
    rest(cell, name, 0.5, 0.0)
    now = scene_now(cell).object(name)
    assert (now.x, now.y) == pytest.approx((0.5, 0.0), abs=1e-6)
    row = label_here(sampler, np.random.default_rng(0))
    assert row is not None
    np.testing.assert_allclose(row[0]["things"][THINGS.index(name)][:2], [0.5, 0.0], atol=1e-6)


@pytest.mark.parametrize(
    "where", [(0.5, 0.0, -0.3), (0.4, 2.0, 0.0), (300.0, 0.0, 0.0)], ids=["fallen off", "far", "lost"]
)
def test_a_moment_with_an_object_that_has_left_the_table_is_left_out(
    where: tuple[float, float, float], sampler: Sampler, cell: Workcell
) -> None:
    scene = shown(sampler, 2)
    assert label_here(sampler, np.random.default_rng(0)) is not None
    rest(cell, scene.objects[-1].name, *where)
    assert label_here(sampler, np.random.default_rng(0)) is None


def lay(cell: Workcell, name: str) -> None:
    """Turn an object onto its side where it is."""
    address = cell.model.jnt_qposadr[cell.model.body(name).jntadr[0]]
    cell.data.qpos[address + 3 : address + 7] = [np.sqrt(0.5), np.sqrt(0.5), 0, 0]
    cell.pose_kinematically(cell.arm.positions[:7], cell.arm.opening)


def test_nobody_is_asked_for_a_cylinder_that_has_fallen_over(sampler: Sampler, cell: Workcell) -> None:
    seed = next(s for s in range(100) if any(o.name.endswith("cylinder") for o in sample_scene(s).objects[1:]))
    scene = shown(sampler, seed)
    name = next(o.name for o in scene.objects[1:] if o.name.endswith("cylinder"))
    lay(cell, name)
    for draw in range(20):
        row = label_here(sampler, np.random.default_rng(draw))
        assert row is not None and not any(name in text for text in row[1])
    cell.reset(replace(scene, task=Task(name, "bowl")))
    assert label_here(sampler, np.random.default_rng(0)) is not None
    lay(cell, name)
    assert label_here(sampler, np.random.default_rng(0)) is None


def test_what_lies_in_its_target_is_delivered_also_while_the_fingers_open(sampler: Sampler, cell: Workcell) -> None:
    scene = shown(sampler, 4)
    name, bowl = scene.task.object, scene.object("bowl")
    cell.pose_kinematically(cell.arm.positions[:7], 0.058)
    rest(cell, name, bowl.x, bowl.y, 0.006)
    assert phase_of(cell, scene.task).delivered and not phase_of(cell, Task(name, "plate")).delivered
    row = label_here(sampler, np.random.default_rng(0))
    assert row is not None and (row[0]["actions"][0, :, 6] == 1.0).all(), "the fingers go on opening"


def test_a_wrong_object_in_the_hand_is_let_go_and_is_what_the_others_ask_for(sampler: Sampler, cell: Workcell) -> None:
    scene = shown(sampler, 5)
    wrong = scene.objects[1].name
    grasp(sampler, wrong)
    assert cell.held(wrong)
    row = label_here(sampler, np.random.default_rng(0))
    assert row is not None
    arrays, texts = row
    assert texts[0] == scene.task.instruction and all(wrong in text for text in texts[1:])
    assert arrays["held"] == THINGS.index(wrong) and (arrays["actions"][0, 0, 6], arrays["actions"][1, 0, 6]) == (1, 0)
    cell.pose_kinematically(cell.arm.positions[:7], OPEN)
    assert not cell.held(wrong)


def test_fingers_that_still_close_do_not_lift_yet(sampler: Sampler, cell: Workcell) -> None:
    scene = sample_scene(6)
    name = scene.task.object
    width = GRASP_WIDTH[name.split()[1]]
    q = sampler.poser.solve(scene.object(name).point, np.zeros(3), 0.0)
    assert q is not None
    for opening, held in ((width + 0.008, False), (width, True)):
        cell.reset(scene, q, opening)
        row = label_here(sampler, np.random.default_rng(0))
        assert row is not None and cell.held(name) and phase_of(cell, scene.task).held == held
        chunk = row[0]["actions"][0]
        assert (chunk[:, 6] == 0).all() and bool(np.abs(chunk[0, :3]).max() > 0.005) == held
