"""What one person said last, and for how long it counts: `Teleop` alone, without an arm."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from molmoact_ros.control.teleop import FUTURE, Teleop, TeleopCommand, TeleopConfig, wrong_age
from molmoact_ros.robots.franka import HOME_Q, OPENING_MAX

TIMEOUT = 0.5
SAY: dict[str, Callable[[Teleop, float], bool]] = {
    "twist": lambda person, at: person.twist([0.1, 0, 0, 0, 0, 0], at),
    "joint": lambda person, at: person.joints(HOME_Q, at),
    "gripper": lambda person, at: person.gripper(0.03, at),
}


def somebody(deadman: bool = False) -> Teleop:
    return Teleop(TeleopConfig(timeout=TIMEOUT, deadman=deadman, linear=0.3, angular=0.6))


# How old a word may be


def test_a_word_counts_up_to_its_timeout_and_a_little_ahead() -> None:
    for age in (0.0, TIMEOUT, -FUTURE, 0.1):
        assert wrong_age(age, TIMEOUT) == ""
    assert wrong_age(0.75, TIMEOUT) == "it is 0.75 s old; an operator's messages count for 0.5 s"
    assert wrong_age(-0.25, TIMEOUT) == "it is stamped 0.25 s in the future; synchronise the clocks"
    assert "old" in wrong_age(TIMEOUT + 1e-6, TIMEOUT) and "future" in wrong_age(-FUTURE - 1e-6, TIMEOUT)
    assert wrong_age(float("nan"), TIMEOUT)
    for age in (1.7e9, -1.7e9):
        assert wrong_age(age, TIMEOUT).startswith("it is stamped 0 or by another clock")


@pytest.mark.parametrize("word", SAY)
def test_a_word_lapses_after_the_timeout_and_counts_for_nobody_before_it_was_heard(word: str) -> None:
    person = somebody()
    assert not person.active(0.0), "nobody has spoken"
    assert SAY[word](person, 10.0)
    assert person.source == word
    for now, there in ((9.999, False), (10.0, True), (10.0 + TIMEOUT, True), (10.0 + TIMEOUT + 1e-6, False)):
        assert person.active(now) is there
        wish = person.wish(now)
        assert (wish.moves or wish.opening is not None) is there
    person.forget()
    assert not person.active(10.0) and person.source == "gripper"


# Dead-man's switch


def test_the_switch_lapses_as_words_do() -> None:
    person = somebody(deadman=True)
    SAY["twist"](person, 10.0)
    assert not person.active(10.0), "nobody has held the switch"
    for held in (9.7, 9.5):
        person.deadman(True, held)
        assert person.active(10.0), "held within the timeout"
    person.deadman(True, 9.49)
    assert not person.active(10.0), "held, but too long ago"
    person.deadman(True, 10.1)
    assert not person.active(10.0) and person.active(10.1), "held at a time to come"
    person.deadman(False, 10.1)
    assert not person.active(10.1), "let go"
    person.deadman(True, 10.6)
    assert not person.active(10.6), "a switch revives no word"


def test_without_a_switch_nobody_has_to_hold_one() -> None:
    person = somebody()
    SAY["twist"](person, 10.0)
    person.deadman(False, 10.0)
    assert person.active(10.0)


# What is wanted


def test_a_twist_keeps_its_direction_and_its_speed_is_limited_in_each_part() -> None:
    person = somebody()
    assert person.twist([3.0, 0.0, 4.0, 0.0, 0.3, 0.0], 0.0, True)
    np.testing.assert_allclose(np.asarray(person.wish(0.0).twist), [0.18, 0, 0.24, 0, 0.3, 0], atol=1e-12)
    assert person.in_tool
    assert person.twist([0.0, 0.1, 0.0, 0.0, 0.8, -0.6], 0.0)
    np.testing.assert_allclose(np.asarray(person.wish(0.0).twist), [0, 0.1, 0, 0, 0.48, -0.36], atol=1e-12)
    assert not person.in_tool, "in the base's frame, unless it is said"
    assert person.twist([3, 0, 0, 3, 0, 0], 0.0), "whole numbers are numbers, too"
    np.testing.assert_allclose(np.asarray(person.wish(0.0).twist), [0.3, 0, 0, 0.6, 0, 0], atol=1e-12)
    assert person.twist([0.3, 0, 0, 0.1, 0, 0], 0.0)
    np.testing.assert_allclose(np.asarray(person.wish(0.0).twist), [0.3, 0, 0, 0.1, 0, 0], atol=1e-12)
    given = np.array([0.2, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert person.twist(given, 0.0)
    np.testing.assert_array_equal(person.wish(0.0).twist, given), "slower than the limit, it is as it was given"
    given[:] = 9.0
    np.testing.assert_array_equal(person.wish(0.0).twist, [0.2, 0, 0, 0, 0, 0])


def test_only_what_asks_for_motion_moves() -> None:
    assert (
        not TeleopCommand().moves
        and not TeleopCommand(twist=np.zeros(6)).moves
        and not TeleopCommand(opening=0.02).moves
    )
    assert TeleopCommand(joints=HOME_Q).moves and TeleopCommand(twist=np.array([0, 0, 0, 0, 0, 1e-3])).moves


def test_joints_are_kept_as_they_were_given() -> None:
    person, given = somebody(), HOME_Q.copy()
    assert person.joints(given, 0.0)
    given[:] = 0.0
    wish = person.wish(0.0)
    np.testing.assert_array_equal(wish.joints, HOME_Q)
    assert wish.twist is None and wish.opening is None
    assert person.joints([0, 0, 0, -2, 0, 2, 0], 0.0)
    joints = person.wish(0.0).joints
    assert joints is not None and joints.dtype == np.float64


@pytest.mark.parametrize(
    ("said", "opening"), [(-0.01, 0.0), (0.0, 0.0), (0.03, 0.03), (OPENING_MAX, OPENING_MAX), (1.0, OPENING_MAX)]
)
def test_the_fingers_open_no_less_than_shut_and_no_further_than_they_can(said: float, opening: float) -> None:
    person = somebody()
    assert person.gripper(said, 0.0)
    assert person.wish(0.0).opening == opening


@pytest.mark.parametrize("bad", [[0.0] * 5, [0.0] * 7, [[0.0] * 6], [np.nan] * 6, [0, 0, 0, 0, 0, np.inf]])
def test_a_twist_that_is_none_changes_nothing(bad: list[float]) -> None:
    person = somebody()
    SAY["joint"](person, 1.0)
    assert person.twist(bad, 1.2, True) is False
    assert person.source == "joint" and not person.in_tool and not person.active(1.0 + TIMEOUT + 0.1)


@pytest.mark.parametrize("bad", [[0.0] * 6, [0.0] * 8, [[0.0] * 7], [np.nan] * 7, [0, 0, 0, 0, 0, 0, np.inf]])
def test_joints_that_are_none_change_nothing(bad: list[float]) -> None:
    person = somebody()
    SAY["twist"](person, 1.0)
    assert person.joints(bad, 1.2) is False
    assert person.source == "twist" and not person.active(1.0 + TIMEOUT + 0.1)


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_an_opening_that_is_none_changes_nothing(bad: float) -> None:
    person = somebody()
    SAY["twist"](person, 1.0)
    assert person.gripper(bad, 1.2) is False
    assert person.wish(1.2).opening is None and not person.active(1.0 + TIMEOUT + 0.1)


# A gripper word beside a twist or a target


@pytest.mark.parametrize("word", ["twist", "joint"])
def test_a_gripper_word_keeps_what_goes_on_but_for_no_longer(word: str) -> None:
    person = somebody()
    SAY[word](person, 1.0)
    before = person.wish(1.0)
    assert person.gripper(0.03, 1.4)
    wish = person.wish(1.4)
    assert wish.twist is before.twist and wish.joints is before.joints and wish.opening == 0.03
    assert person.source == word and wish.moves
    assert person.active(1.0 + TIMEOUT) and not person.active(1.0 + TIMEOUT + 0.01), "by the time of its own word"


@pytest.mark.parametrize("word", ["twist", "joint"])
def test_a_gripper_word_revives_no_old_twist_or_target(word: str) -> None:
    person = somebody()
    SAY[word](person, 1.0)
    assert person.gripper(0.03, 2.0)
    wish = person.wish(2.0)
    assert wish.twist is None and wish.joints is None and wish.opening == 0.03 and not wish.moves
    assert person.source == "gripper" and person.active(2.0 + TIMEOUT)


def test_a_second_gripper_word_counts_from_when_it_was_said() -> None:
    person = somebody()
    SAY["gripper"](person, 1.0)
    assert person.gripper(0.05, 1.4)
    assert person.active(1.4 + TIMEOUT) and person.wish(1.4).opening == 0.05
