"""Recorded joint states reach the replayed controller as they reached the recorded one."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import ArrayLike

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.nodes.control.hand_config import with_recorded_hand
from molmoact_ros.replay.recorded_joints import first_known, measured_joints, read_joints
from molmoact_ros.robots.franka import HOME_Q, PAIR, SINGLE, Arm
from molmoact_ros.utils.paths import robot_model

FINGERS = ("fr3_finger_joint1", "fr3_finger_joint2")
Rows = Callable[[int], Sequence[tuple[str, Sequence[str], ArrayLike]]]
"""Topic, names and positions of the messages of a cycle."""


class Replayed:
    """A bag of 30 cycles at 100 Hz, passed to a controller."""

    def __init__(self, folder: Path, arms: Sequence[Arm], rows: Rows, agreeing: int = 3) -> None:
        with BagWriter(folder / "bag") as bag:
            out = EpisodeWriter(bag)
            for k in range(30):
                for number, (topic, names, positions) in enumerate(rows(k)):
                    now = 50.0 + 0.01 * k + 0.001 * number
                    out.joints(names, np.asarray(positions, np.float64), np.zeros(0), now, topic)
        with Recording(folder / "bag", checked="joints") as recording:
            self.joints, self.arms = read_joints(recording, arms)
            self.notes = recording.notes
        self.controller = Controller(robot_model(), ControllerConfig(agreeing=agreeing), self.arms)
        for message in self.joints:
            message.pass_to(self.controller)
        self.end = self.joints[-1].received
        self.known = first_known(self.joints, self.arms, agreeing) - 50.0

    @property
    def opening(self) -> float:
        return self.controller.arms[0].measurement.opening


def whole(k: int) -> list[tuple[str, Sequence[str], ArrayLike]]:
    return [("/joint_states", (*SINGLE.joints, *FINGERS), [*HOME_Q, 0.01, 0.01])]


def test_a_position_that_is_no_number_costs_that_joint_alone(tmp_path: Path) -> None:
    def rows(k: int) -> list[tuple[str, Sequence[str], ArrayLike]]:
        q = HOME_Q + 0.001 * k
        q[2] = np.nan if k >= 25 else q[2]
        return [("/joint_states", (*SINGLE.joints, *FINGERS), [*q, 0.01, 0.01])]

    replayed = Replayed(tmp_path, (SINGLE,), rows)
    measured = replayed.controller.arms[0].measured
    assert measured is not None
    np.testing.assert_allclose(measured - HOME_Q, [0.029, 0.029, 0.024, 0.029, 0.029, 0.029, 0.029])
    times, joints = measured_joints(replayed.joints, SINGLE)
    assert len(times) == 30 and times[-1] == pytest.approx(50.24), "a state is as old as its oldest joint"
    np.testing.assert_allclose(joints[-1], measured)
    assert [note for note in replayed.notes if "finite" in note] == [
        "5 joint states have positions that are not finite numbers: those alone are left out"
    ]


def test_arm_and_hand_come_in_two_messages_and_the_start_waits_for_both(tmp_path: Path) -> None:
    def rows(k: int) -> list[tuple[str, Sequence[str], ArrayLike]]:
        hand = [("/joint_states", FINGERS, [0.015, 0.015])] if k >= 10 else []
        return [*hand, ("/joint_states", SINGLE.joints, HOME_Q)]

    replayed = Replayed(tmp_path, (SINGLE,), rows)
    assert replayed.opening == pytest.approx(0.03) and replayed.arms == [SINGLE]
    assert replayed.known == pytest.approx(0.1) and replayed.controller.start(replayed.end)
    assert Replayed(tmp_path / "other", (SINGLE,), whole, agreeing=5).known == pytest.approx(0.04)


def test_the_hand_is_the_recorded_controllers(tmp_path: Path) -> None:
    robotiq = with_recorded_hand(SINGLE, "robotiq_2f85", "joint_trajectory", {})
    knuckle = "robotiq_85_left_knuckle_joint"
    replayed = Replayed(tmp_path, (robotiq,), lambda k: [("/joint_states", (*SINGLE.joints, knuckle), [*HOME_Q, 0.4])])
    assert replayed.opening == pytest.approx(0.0425) and replayed.controller.start(replayed.end)
    own = with_recorded_hand(SINGLE, "robotiq_2f85", "joint_trajectory", {"finger_offset": 0.09, "finger_stroke": 0.09})
    assert own.hand is not None and own.hand.opening([0.0]) == 0.09 and own.hand_joints == (knuckle,)


def test_a_hand_with_a_topic_of_its_own_is_read_from_there(tmp_path: Path) -> None:
    def rows(k: int) -> list[tuple[str, Sequence[str], ArrayLike]]:
        joints = [("/joint_states", arm.joints, HOME_Q) for arm in PAIR]
        return [*joints, ("/left/gripper/states", ("whatever",), [0.5]), ("/right/gripper/states", ("this",), [0.25])]

    arms = [
        with_recorded_hand(arm, "crisp", "forward_position", {f"{arm.prefix}hand_states": f"{side}/gripper/states"})
        for arm, side in zip(PAIR, ("left", "right"), strict=True)
    ]
    replayed = Replayed(tmp_path, arms, rows)
    assert [arm.measurement.opening for arm in replayed.controller.arms] == pytest.approx([0.04, 0.02])
    assert replayed.controller.start(replayed.end) and not replayed.notes


@pytest.mark.parametrize("gripper", ["none", "null"])
def test_without_a_gripper_no_finger_is_waited_for(tmp_path: Path, gripper: str) -> None:
    arm = with_recorded_hand(SINGLE, "franka_hand", gripper, {})
    replayed = Replayed(tmp_path, (arm,), lambda k: [("/joint_states", SINGLE.joints, HOME_Q)])
    assert arm == replace(SINGLE, hand=None) and replayed.controller.start(replayed.end) and not replayed.notes


def test_a_bag_without_the_hands_positions_is_replayed_without_a_hand(tmp_path: Path) -> None:
    replayed = Replayed(tmp_path, (SINGLE,), lambda k: [("/joint_states", SINGLE.joints, HOME_Q)])
    assert replayed.notes == ["no position of fr3_finger_joint1 was recorded: replayed without a hand"]
    assert replayed.controller.start(replayed.end)


def test_another_hand_than_recorded_is_an_error() -> None:
    wrong: Any = {"finger_scale": 0.0}
    with pytest.raises(ValueError, match="a scale of 0"):
        with_recorded_hand(SINGLE, "franka_hand", "joint_trajectory", wrong)
    with pytest.raises(ValueError, match="there is no hand 'schunk'"):
        with_recorded_hand(SINGLE, "schunk", "joint_trajectory", {})
