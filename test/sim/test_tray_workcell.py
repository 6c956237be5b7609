"""The workcell with two arms: seeded scenes, three cameras, and a tray that needs both hands."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller
from molmoact_ros.robots.franka import HOME_Q, PAIR
from molmoact_ros.sim.tray_workcell import LIFTED, TrayCell, sample_tray
from molmoact_ros.training.expert import STEP
from molmoact_ros.training.tray_expert import TrayPhase, act, chunk, see
from molmoact_ros.utils.paths import robot_model


@pytest.fixture(scope="module")
def cell() -> TrayCell:
    return TrayCell(robot_model())


def known(cell: TrayCell) -> TrayPhase:
    tray = cell.data.body("tray").xmat.reshape(3, 3)
    return see(
        np.array([arm.tcp_position for arm in cell.arms]),
        Rotation.from_matrix([arm.tcp_rotation for arm in cell.arms]),
        np.array([arm.opening for arm in cell.arms]), cell.object_position("tray"), np.arctan2(tray[1, 0], tray[0, 0]),
    )  # fmt: skip


def play(cell: TrayCell, seconds: float) -> Controller:
    """The expert through the real controller, in lock-step, until it is done."""
    controller = Controller(robot_model(), arms=PAIR)
    for cycle in range(round(seconds * 100)):
        now = cycle * 0.01
        for number, arm in enumerate(cell.arms):
            controller.update_joints(arm.positions[:7], arm.opening, now, number)
        controller.on_engine(now)
        if cycle == 0:
            assert controller.start(now)
        if cycle % 30 == 0:
            assert controller.on_chunk(ActionChunk(chunk(known(cell)), STEP, now, cycle), now), controller.last_refusal
        commands = controller.step(now)
        assert commands is not None
        for arm, command in zip(cell.arms, commands, strict=True):
            arm.command(command.position)
            arm.grip(command.opening)
        cell.step(0.01)
        if cell.progress().success:
            break
    return controller


def test_a_seed_gives_one_scene_and_another_seed_another() -> None:
    assert sample_tray(5) == sample_tray(5) != sample_tray(6)
    assert {len(sample_tray(seed).cubes) for seed in range(20)} == {1, 2, 3}
    assert len(sample_tray(5, distractors=0).cubes) == 1


@pytest.mark.parametrize(("distractors", "instruction", "why"), [(3, None, "do not fit"), (None, "juggle", "lift the")])
def test_what_it_cannot_do_is_said(distractors: int | None, instruction: str | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        sample_tray(1, distractors, instruction)


def test_both_arms_have_the_names_and_places_of_the_controllers_arms(cell: TrayCell) -> None:
    cell.begin(1)
    controller = Controller(robot_model(), arms=PAIR)
    for mine, theirs in zip(cell.arms, controller.arms, strict=True):
        np.testing.assert_allclose(mine.positions[:7], HOME_Q)
        pose = theirs.kinematics.forward(HOME_Q)
        np.testing.assert_allclose(pose.position + mine.arm.base[:3], mine.tcp_position, atol=1e-9)
        np.testing.assert_allclose(pose.rotation.as_matrix(), mine.tcp_rotation, atol=1e-9)


def test_three_cameras_see_the_tray(cell: TrayCell) -> None:
    cell.begin(2)
    pictures = {name: cell.render(name) for name in ("front", "left_wrist", "right_wrist")}
    assert pictures["front"][0].shape == (480, 640, 3)
    assert pictures["left_wrist"][0].shape == pictures["right_wrist"][0].shape == (240, 424, 3)
    assert (pictures["left_wrist"][0] != pictures["right_wrist"][0]).any()
    column, row = np.round(cell.project(cell.object_position("tray")[None])[0]).astype(int)
    position, rotation = cell.camera_pose("front")
    along = -((cell.object_position("tray") - position) @ rotation)[2]
    assert pictures["front"][1][row, column] == pytest.approx(along, abs=0.06)


def test_the_tray_and_its_cubes_stay_where_they_are_put(cell: TrayCell) -> None:
    cell.begin(3)
    before = {name: cell.object_position(name) for name in cell.names}
    cell.step(0.5)
    for name, place in before.items():
        np.testing.assert_allclose(cell.object_position(name), place, atol=2e-3)
    assert cell.tilt() < 0.01 and not cell.progress().success and cell.progress().first_touched is None


def test_the_expert_lifts_the_tray_with_both_arms_through_the_real_controller(cell: TrayCell) -> None:
    cell.begin(4)
    controller = play(cell, 12.0)
    assert cell.progress().success and cell.progress().first_touched == "tray"
    assert cell.object_position("tray")[2] > LIFTED
    assert not controller.refused and not controller.counts["arm_distance"]


@pytest.mark.parametrize("hand", [0, 1])
def test_one_arm_alone_cannot_keep_it_level(cell: TrayCell, hand: int) -> None:
    cell.begin(4)
    play(cell, 12.0)
    assert cell.progress().success
    cell.arms[hand].grip(0.08)
    cell.step(1.5)
    assert cell.tilt() > np.radians(15.0) and not cell.progress().success


def test_the_expert_waits_with_closing_until_both_hands_are_there() -> None:
    grasp = np.array([[0.5, 0.165, 0.046], [0.5, -0.165, 0.046]])
    away = np.array([[0.0, 0.0, 0.0], [0.0, -0.05, 0.1]])
    there = TrayPhase(grasp, np.zeros((2, 3)), np.full(2, 0.08), grasp)
    one = TrayPhase(grasp + away, np.zeros((2, 3)), np.full(2, 0.08), grasp)
    assert not act(there)[1].any() and act(one)[1].all()
    assert not act(there)[0].any()
