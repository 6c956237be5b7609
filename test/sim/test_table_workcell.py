"""The workcell: seeded scenes, cameras as their datasheets say, and physics in which the expert can do the work."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller
from molmoact_ros.sim.camera_renderer import D435_FRONT
from molmoact_ros.sim.scene import GRASP_HEIGHT, GRASP_WIDTH, OBJECTS, REST_HEIGHT, TARGETS, Task, sample_scene
from molmoact_ros.sim.table_workcell import HOME_Q, Workcell
from molmoact_ros.training.expert import STEP, Expert
from molmoact_ros.training.expert import ExpertPhase as Known
from molmoact_ros.utils.paths import robot_model


@pytest.fixture(scope="module")
def cell() -> Workcell:
    return Workcell(robot_model())


def test_a_seed_gives_one_scene_and_another_seed_another() -> None:
    assert sample_scene(5) == sample_scene(5)
    assert sample_scene(5) != sample_scene(6)


@pytest.mark.parametrize("seed", range(20))
def test_scenes_have_distractors_and_nothing_overlaps(seed: int) -> None:
    scene = sample_scene(seed)
    assert len(scene.objects) >= 4 and len({o.name for o in scene.objects}) == len(scene.objects)
    assert [t.name for t in scene.targets] == list(TARGETS)
    places = np.array([(p.x, p.y) for p in scene.objects + scene.targets])
    gaps = np.linalg.norm(places[:, None] - places[None], axis=2) + np.eye(len(places))
    assert gaps.min() > 0.09


def test_an_instruction_changes_the_task_and_not_the_table() -> None:
    scene = sample_scene(11)
    other = Task(scene.objects[2].name, "box").instruction
    asked = sample_scene(11, instruction=other)
    assert asked.task.instruction == other
    assert (asked.objects, asked.targets) == (scene.objects, scene.targets)


def test_a_scene_has_all_objects_that_its_task_needs() -> None:
    for seed in range(40):
        scene = sample_scene(seed, distractors=0, instruction="put the red cylinder on the blue cylinder")
        assert [o.name for o in scene.objects] in (["red cylinder", "blue cylinder"], ["blue cylinder", "red cylinder"])
    with pytest.raises(ValueError, match="COLOUR cube.cylinder on the"):
        Task.parse("put the red cylinder on the blue ball")


def test_what_lies_beside_or_is_still_held_is_not_stacked(cell: Workcell) -> None:
    scene = sample_scene(2, instruction="put the red cylinder on the blue cylinder")
    cell.reset(scene)
    assert not cell.progress().success
    below = cell.object_position("blue cylinder")
    for offset, height, stacked in ((0.0, 0.070, True), (0.03, 0.070, False), (0.0, 0.085, False)):
        cell.place("red cylinder", below + [offset, 0.0, height])
        cell.pose_kinematically(HOME_Q, 0.08)
        assert cell.progress().success == stacked
    cell.place("red cylinder", below + [0.0, 0.0, 0.070])
    cell.pose_kinematically(HOME_Q, 0.042)
    assert not cell.progress().success


def test_an_instruction_that_cannot_be_judged_says_what_can() -> None:
    with pytest.raises(ValueError, match="COLOUR SHAPE"):
        sample_scene(1, instruction="juggle")


def test_every_object_can_be_asked_for() -> None:
    assert len(OBJECTS) == 12
    for name in OBJECTS:
        assert Task.parse(f"put the {name} in the bowl").object == name


def test_depth_is_metric_and_projection_agrees_with_it(cell: Workcell) -> None:
    cell.reset(sample_scene(3))
    _, depth = cell.render("front")
    position, rotation = cell.camera_pose("front")
    point = np.array([[0.30, 0.33, 0.0]])  # bare table
    column, row = np.round(cell.project(point)[0]).astype(int)
    along = -((point[0] - position) @ rotation)[2]
    assert depth[row, column] == pytest.approx(along, abs=0.01)


def test_the_cameras_have_the_resolution_and_focal_length_of_real_ones(cell: Workcell) -> None:
    cell.reset(sample_scene(3))
    rgb, depth = cell.render("front")
    assert rgb.shape == (480, 640, 3) and rgb.dtype == np.uint8 and depth.shape == (480, 640)
    assert cell.render("wrist")[0].shape == (240, 424, 3)
    assert D435_FRONT.fovy_deg == pytest.approx(42.6, abs=0.5)


def test_a_reset_is_exact(cell: Workcell) -> None:
    cell.reset(sample_scene(4))
    first = cell.render("front")[0]
    cell.arm.command(HOME_Q + 0.2)
    cell.step(0.3)
    assert (cell.render("front")[0] != first).any()
    cell.reset(sample_scene(4))
    np.testing.assert_array_equal(cell.render("front")[0], first)


@pytest.mark.parametrize(
    "asked", [None, "put the red cylinder on the blue cylinder", "move the red cube on the green cube"]
)
def test_the_expert_carries_the_object_to_the_target_through_the_real_controller(
    cell: Workcell, asked: str | None
) -> None:
    scene = sample_scene(503, instruction=asked)
    cell.reset(scene)
    expert, controller, name = Expert(scene), Controller(robot_model()), scene.task.object
    shape = name.split()[1]
    for cycle in range(100 * 12):
        now = cycle * 0.01
        controller.update_joints(cell.arm.positions[:7], cell.arm.opening, now)
        controller.on_engine(now)
        if cycle == 0:
            assert controller.start(now)
        if cycle % 24 == 0:
            place = cell.object_position(name) + [0, 0, GRASP_HEIGHT[shape] - REST_HEIGHT[shape]]
            near = np.linalg.norm(cell.object_position(name) - cell.arm.tcp_position) < 0.045
            held = bool(near and cell.arm.opening < GRASP_WIDTH[shape] + 0.004)
            known = Known(cell.arm.tcp_position, cell.arm.opening, place, held, cell.progress().success)
            controller.on_chunk(ActionChunk(expert.plan(known).chunk(), STEP, now), now)
        commands = controller.step(now)
        assert commands is not None
        cell.arm.command(commands[0].position)
        cell.arm.grip(commands[0].opening)
        cell.step(0.01)
    assert cell.progress().success and cell.progress().first_touched == name
