"""An arm's state from messages that hold parts of it: what is believed, how old it is, and what is said of it."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.control.arm_state import ArmState
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limit_checker import LimitChecker
from molmoact_ros.control.supervisor import State
from molmoact_ros.robots.franka import HOME_Q, PAIR, SINGLE, Arm
from molmoact_ros.robots.hands import ROBOTIQ_2F85
from molmoact_ros.utils.paths import robot_model

ROBOT = robot_model()
DT, DEADLINE = 0.01, 0.1
NAMES = [*SINGLE.joints, *SINGLE.fingers]
PARTS = st.lists(st.integers(0, 2), min_size=9, max_size=9).map(
    lambda places: [part for n in range(3) if (part := [i for i, place in enumerate(places) if place == n])]
)
"""Which of the nine joints are published together."""


def positions(q: np.ndarray, opening: float = 0.05) -> np.ndarray:
    return np.array([*q, opening / 2, opening / 2])


def say(state: ArmState, part: list[int], q: np.ndarray, at: float, heard: float | None = None) -> bool:
    return state.take_message(
        [NAMES[i] for i in part], positions(q)[part].tolist(), at, at if heard is None else heard
    )  # fmt: skip


@settings(max_examples=25, deadline=None)
@given(parts=PARTS, agreeing=st.integers(1, 3), data=st.data())
def test_parts_are_believed_as_whole_messages_are_and_no_sooner(
    parts: list[list[int]], agreeing: int, data: st.DataObject
) -> None:
    whole, split = ArmState(SINGLE, agreeing), ArmState(SINGLE, agreeing)
    for k in range(agreeing + 2):
        q = HOME_Q + 0.001 * k
        say(whole, list(range(9)), q, k * DT)
        for part in data.draw(st.permutations(parts)):
            if k < agreeing - 1:
                assert split.measurement.joints is None
            say(split, part, q, k * DT)
        assert (whole.measurement.joints is None) is (k + 1 < agreeing)
    for name in ("joints", "stamps", "arrivals"):
        np.testing.assert_array_equal(getattr(whole.measurement, name), getattr(split.measurement, name), name)
    assert split.measurement.opening == whole.measurement.opening == 0.05
    for now in (0.05, 5.0):
        assert split.wrong(now, now, DEADLINE) == whole.wrong(now, now, DEADLINE)
    assert not split.warnings(0.0)


@settings(max_examples=25, deadline=None)
@given(parts=PARTS, other=PARTS, data=st.data())
def test_of_two_robots_on_one_topic_no_mixture_is_believed_and_it_is_said(
    parts: list[list[int]], other: list[list[int]], data: st.DataObject
) -> None:
    """However each of them cuts its joints into messages, and in whatever order these come."""
    state, away = ArmState(SINGLE, 3), HOME_Q + 0.4
    for k in range(4):
        for part in parts:
            say(state, part, HOME_Q, k * DT)
    for k in range(4, 10):
        messages = [(part, HOME_Q) for part in parts] + [(part, away) for part in other]
        for part, q in data.draw(st.permutations(messages)):
            say(state, part, q, k * DT)
            assert np.abs(state.measurement.joints - HOME_Q).max() < 1e-9, "the first goes on being believed"
        assert "jump" in state.measurement.refused
    assert any("jump" in line for line in state.warnings(0.1))


@settings(max_examples=25, deadline=None)
@given(parts=PARTS, joint=st.integers(0, 6), value=st.sampled_from([math.nan, math.inf, -math.inf]))
def test_a_joint_that_is_not_finite_ages_alone_and_is_named(parts: list[list[int]], joint: int, value: float) -> None:
    state = ArmState(SINGLE, 1, "/joint_states")
    for k in range(30):
        q = HOME_Q.copy()
        q[joint] = value if k >= 10 else q[joint]
        for part in parts:
            say(state, part, q, k * DT)
    np.testing.assert_array_equal(state.measurement.joints, HOME_Q)
    assert state.measurement.stamps[joint] == 9 * DT and state.measurement.stamps.max() == 29 * DT
    wrong = state.wrong(0.29, 0.29, DEADLINE)
    assert wrong == f"joint states on /joint_states hold NaN or infinity for fr3_joint{joint + 1}"
    assert any("NaN" in line for line in state.warnings(0.29))


@pytest.mark.parametrize(
    ("stamp", "now", "steady", "why"),
    [
        (lambda k: 100 + k * DT, 100.1, 0.1, ""),
        (lambda k: 0.0, 100.1, 0.1, "are stamped 0; "),
        (lambda k: 97 + k * DT, 100.1, 0.1, "are 3.0 s old: check the clocks"),
        (lambda k: 103 + k * DT, 100.1, 0.1, "are 3.0 s in the future: check the clocks"),
        (lambda k: 97.0, 100.1, 0.1, "repeat a stamp that is 3.1 s old: "),
        (lambda k: 1.7e9 + k * DT, 100.1, 0.1, "are stamped by another clock: set use_sim_time"),
        (lambda k: 100 + k * DT, 104.1, 4.1, "have stopped: none came for 4.0 s"),
        (lambda k: 100 - 3 * (k == 9), 100.1, 0.1, "are 3.1 s old: check the clocks"),
    ],
)  # fmt: skip
def test_the_words_name_the_cause(stamp: object, now: float, steady: float, why: str) -> None:
    state = ArmState(SINGLE, 1, "/joint_states")
    for k in range(10):
        say(state, list(range(9)), HOME_Q, stamp(k), k * DT)  # type: ignore[operator]
    wrong = state.wrong(now, steady, DEADLINE)
    assert wrong.startswith(f"joint states on /joint_states {why}") if why else not wrong


def test_what_lacks_is_named() -> None:
    state = ArmState(PAIR[0], 1, "/joint_states")
    assert state.wrong(0.0, 0.0, DEADLINE) == (
        "no joint states came on /joint_states; start the robot or the simulator first"
    )
    state.take_message(["left_fr3_finger_joint1", "panda_joint1"], [0.0, 0.0], 0.0, 0.0)
    assert state.wrong(0.0, 0.0, DEADLINE) == (
        "left_joint states on /joint_states have no position of left_fr3_joint1, left_fr3_joint2, left_fr3_joint3 and "
        "5 more (they name panda_joint1); is it this robot's?"
    )
    state.take_message(PAIR[0].joints, HOME_Q.tolist(), 0.0, 0.0)
    assert "no position of left_fr3_finger_joint2 came on /joint_states" in state.wrong(0.0, 0.0, DEADLINE)
    assert "gripper: none" in state.wrong(0.0, 0.0, DEADLINE)
    state.take_message(PAIR[0].fingers, [0.01, 0.01], 0.0, 0.0)
    assert not state.wrong(0.0, 0.0, DEADLINE) and state.measurement.opening == 0.02


def test_joint_states_that_come_and_are_not_believed_have_not_stopped() -> None:
    state = ArmState(SINGLE, 1, "/joint_states")
    for k in range(100):
        say(state, list(range(9)), HOME_Q if k < 50 else np.zeros(7), k * DT)
    assert "are not believed: joint 4 is told to be at 0.00 rad, outside" in state.wrong(0.99, 0.99, DEADLINE)
    assert state.wrong(2.0, 2.0, DEADLINE).startswith("joint states on /joint_states have stopped"), "now they have"


def test_one_part_of_an_arm_that_stops_is_named() -> None:
    state = ArmState(SINGLE, 1)
    for k in range(100):
        say(state, list(range(4)), HOME_Q, k * DT)
        if k < 50:
            say(state, list(range(4, 9)), HOME_Q, k * DT)
    assert state.wrong(0.99, 0.99, DEADLINE) == "joint states have stopped (joint 5, 6, 7): none came for 0.5 s"


def test_a_part_is_as_old_as_it_came_and_as_it_is_stamped() -> None:
    state = ArmState(SINGLE, 1)
    say(state, [0, 7, 8], HOME_Q, 1.05, 0.0)
    say(state, list(range(1, 7)), HOME_Q, 1.15, 0.2)
    assert state.measurement.stamp == 1.05 and state.measurement.heard == 0.0
    assert state.wrong(1.1, 0.2, DEADLINE) == "joint states have stopped (joint 1): none came for 0.2 s"
    say(state, [0], HOME_Q, 1.0, 0.2)
    assert state.wrong(1.15, 0.2, DEADLINE) == "joint states are 0.1 s old (joint 1): check the clocks of the computers"
    assert not state.wrong(1.09, 0.2, DEADLINE)


def test_fingers_may_be_older_and_it_is_said() -> None:
    state = ArmState(SINGLE, 1)
    say(state, [7, 8], HOME_Q, 0.0)
    for k in range(500):
        say(state, list(range(7)), HOME_Q, k * DT)
    assert not state.wrong(4.99, 4.99, DEADLINE)
    (line,) = state.warnings(4.99)
    assert "fingers are 5 s old" in line


def test_stamps_that_go_back_a_little_are_said_and_do_no_harm() -> None:
    state = ArmState(SINGLE, 1)
    for k in range(10):
        say(state, list(range(9)), HOME_Q, k * DT - 0.03 * (k % 2), k * DT)
    assert not state.wrong(0.1, 0.1, DEADLINE)
    assert any("go back in time by 0.02" in line for line in state.warnings(0.1))
    for k in range(10, 80):
        say(state, list(range(9)), HOME_Q, k * DT)
    assert not state.warnings(0.8), "it is over"


def test_a_warning_ends_though_no_joint_states_come_after_it() -> None:
    state = ArmState(SINGLE, 1)
    say(state, list(range(9)), HOME_Q, 1.0)
    say(state, list(range(9)), HOME_Q, 0.9, 1.01)
    say(state, list(range(9)), HOME_Q + 9.0, 1.02)
    assert ["outside" in line for line in state.warnings(1.5)] == [True, False]
    assert not state.warnings(1.53), "the last joint states are half a second old; that they stopped is said elsewhere"
    assert "have stopped" in state.wrong(1.53, 1.53, DEADLINE)


def test_without_a_gripper_and_with_another_hand() -> None:
    bare = ArmState(Arm(hand=None), 1)
    bare.take_message(SINGLE.joints, HOME_Q.tolist(), 0.0, 0.0)
    assert not bare.wrong(0.0, 0.0, DEADLINE)
    robotiq = ArmState(Arm(hand=ROBOTIQ_2F85), 1)
    robotiq.take_message(["robotiq_85_left_knuckle_joint", *SINGLE.joints], [0.4, *HOME_Q], 0.0, 0.0)
    assert not robotiq.wrong(0.0, 0.0, DEADLINE) and robotiq.measurement.opening == pytest.approx(0.0425)


@settings(max_examples=10, deadline=None)
@given(parts=PARTS, data=st.data())
def test_an_arm_moves_only_while_each_of_its_joints_is_fresh(parts: list[list[int]], data: st.DataObject) -> None:
    """Each publisher falls silent, repeats a stamp, has a wrong clock or says NaN for a while: then the arm is held."""
    config = ControllerConfig(joints_deadline=DEADLINE, agreeing=2)
    controller = Controller(ROBOT, config)
    checker = LimitChecker(ROBOT, DT, config.fractions, config.surroundings, SINGLE)
    faults = [
        (
            data.draw(st.sampled_from(["", "silent", "zero", "old", "future", "nan", "still"])),
            data.draw(st.integers(10, 40)),
        )
        for _ in parts
    ]
    q, stamps, heard, moved = HOME_Q.copy(), np.full(7, -np.inf), np.full(7, -np.inf), 0
    for k in range(80):
        now = 1000.0 + k * DT
        for part, (fault, since) in zip(parts, faults, strict=True):
            wrong = fault if since <= k < since + 30 else ""
            if wrong == "silent":
                continue
            stamp = {"zero": 0.0, "old": now - 1.0, "future": now + 1.0, "still": 1000.0 + since * DT}.get(wrong, now)
            values = np.full(9, np.nan) if wrong == "nan" else positions(q)
            controller.update_joint_state([NAMES[i] for i in part], values[part].tolist(), stamp, now - 1000.0)
            for i in part:
                if i < 7 and wrong != "nan":
                    stamps[i], heard[i] = stamp, now - 1000.0
        if k >= 5:
            controller.arms[0].teleop.twist([0.05, 0.05, 0.0, 0.0, 0.0, 0.0], now - 1000.0)
        commands = controller.step(now, steady=now - 1000.0)
        if commands is None:
            continue
        playing = controller.supervisor.state is State.TELEOP
        fresh = np.abs(now - stamps).max() <= DEADLINE and (now - 1000.0 - heard).max() <= DEADLINE
        assert fresh or not playing, controller.supervisor.reason
        if playing or commands[0].velocity.any():
            checker.command(commands[0].position)
            q, moved = commands[0].position, moved + 1
        else:
            checker.rest()
    assert not any(checker.broken.values()), checker.broken
    assert moved, "before the first fault"
