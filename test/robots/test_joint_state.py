"""Joint states put together by name: whatever the messages, each joint is where it was last said to be."""

from __future__ import annotations

import math
from itertools import combinations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.robots.franka import PAIR, Arm
from molmoact_ros.robots.hands import CRISP_GRIPPER, FRANKA_HAND, HANDS, ROBOTIQ_2F85, TwoFingerHand
from molmoact_ros.robots.joint_state import MOST_GROUPS, RECENT, JointGroups, JointStateMonitor, nearest_positions

JOINTS = ["a1", "a2", "a3", "f1", "f2"]
POSITION = st.floats(-3, 3) | st.sampled_from([math.nan, math.inf, -math.inf])


@st.composite
def splits(draw: st.DrawFn) -> tuple[list[list[str]], list[int], list[dict[str, float]]]:
    """Joints of each publisher, whose turn it is next, and the positions at each of the turns of one publisher."""
    places = draw(st.lists(st.integers(0, 3), min_size=len(JOINTS), max_size=len(JOINTS)))
    parts = [part for n in range(4) if (part := [j for j, place in zip(JOINTS, places, strict=True) if place == n])]
    rounds = draw(st.integers(1, 4))
    turns = draw(st.permutations([n for n in range(len(parts)) for _ in range(rounds)]))
    said = [{joint: draw(st.floats(-3, 3)) for joint in JOINTS} for _ in range(rounds)]
    return parts, turns, said


@settings(max_examples=60, deadline=None)
@given(splits())
def test_any_split_and_interleaving_gives_the_state_of_whole_messages(
    split: tuple[list[list[str]], list[int], list[dict[str, float]]],
) -> None:
    parts, turns, said = split
    whole, monitor, done = JointStateMonitor(JOINTS), JointStateMonitor(JOINTS), [0] * len(parts)
    for k, positions in enumerate(said):
        whole.take_message(JOINTS, list(positions.values()), k * 0.1, k)
    for turn in turns:
        k, names = done[turn], [*parts[turn], "another robot's"]
        updated = monitor.take_message(names, [*(said[k][joint] for joint in parts[turn]), 9.0], k * 0.1, k)
        assert {joint for joint, new in zip(JOINTS, updated, strict=True) if new} == set(parts[turn])
        done[turn] += 1
        lacking = {joint for part, count in zip(parts, done, strict=True) if not count for joint in part}
        assert set(monitor.missing) == lacking and (monitor.sample() is None) is bool(lacking)
    one, other = whole.sample(), monitor.sample()
    assert one is not None and other is not None
    for a, b in zip(one, other, strict=True):
        np.testing.assert_array_equal(a, b)
    assert monitor.positions() == said[-1]


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.lists(st.tuples(st.sampled_from([*JOINTS, "other"]), POSITION), max_size=6), st.floats(0, 9)))
)
def test_each_joint_is_as_old_as_its_own_last_finite_position(
    messages: list[tuple[list[tuple[str, float]], float]],
) -> None:
    monitor, model, bad = JointStateMonitor(JOINTS), dict[str, tuple[float, float, float]](), set[str]()
    for k, (pairs, stamp) in enumerate(messages):
        monitor.take_message([name for name, _ in pairs], [position for _, position in pairs], stamp, float(k))
        for name, position in dict(pairs).items():  # of a name that is there twice the last counts
            if name in JOINTS:
                model |= {name: (position, stamp, float(k))} if math.isfinite(position) else {}
                (bad.discard if math.isfinite(position) else bad.add)(name)
    assert monitor.positions() == {name: position for name, (position, _, _) in model.items()}
    assert monitor.missing == [name for name in JOINTS if name not in model]
    assert set(monitor.not_finite_of(JOINTS)) == bad
    sample = monitor.sample()
    if set(model) == set(JOINTS):
        assert sample is not None
        assert list(zip(*(values.tolist() for values in sample), strict=True)) == [model[joint] for joint in JOINTS]
    else:
        assert sample is None
    monitor.forget()
    assert monitor.missing == JOINTS and not monitor.positions()


def test_a_part_that_falls_silent_ages_alone() -> None:
    monitor = JointStateMonitor(JOINTS)
    for k in range(10):
        monitor.take_message(JOINTS[:3], [0.0] * 3, k * 0.1, k * 0.1)
        if k < 4:
            monitor.take_message(JOINTS[3:], [0.04, 0.04], k * 0.1, k * 0.1)
    arm, hand = monitor.sample(slice(0, 3)), monitor.sample(slice(3, None))
    assert arm is not None and hand is not None
    assert arm.stamps.min() == pytest.approx(0.9) and hand.stamps.max() == hand.heard.max() == pytest.approx(0.3)


def test_names_without_positions_and_positions_without_names_are_no_positions() -> None:
    monitor = JointStateMonitor(JOINTS)
    assert not monitor.take_message(JOINTS, [], 1.0, 1.0).any(), "velocities alone"
    assert monitor.take_message(["a2"], [0.1, 0.2, 0.3], 1.0, 1.0).tolist() == [False, True, False, False, False]
    assert monitor.positions() == {"a2": 0.1}


@settings(max_examples=60, deadline=None)
@given(st.lists(st.lists(st.sampled_from(JOINTS), max_size=3, unique=True), max_size=6))
def test_publishers_are_of_one_robot_where_they_share_no_joint(messages: list[list[str]]) -> None:
    groups = JointGroups()
    for names in messages:
        groups.take_names(names, 0.0)
    parts = [set(names) for names in messages if names]
    while any(a & b for a, b in combinations(parts, 2)):
        a, b = next((a, b) for a, b in combinations(parts, 2) if a & b)
        parts = [part for part in parts if part is not a and part is not b] + [a | b]
    assert groups.count(RECENT) == len(parts)
    assert groups.count(RECENT + 0.01) == 0, "forgotten"


def test_groups_of_joints_are_bounded() -> None:
    groups = JointGroups()
    for k in range(3 * MOST_GROUPS):
        groups.take_names([f"joint{k}"], k * 1e-3)
    assert groups.count(0.2) == MOST_GROUPS


@settings(max_examples=60, deadline=None)
@given(st.lists(st.tuples(st.floats(0, 1), st.dictionaries(st.sampled_from(JOINTS), POSITION, max_size=3)), max_size=8))
def test_the_nearest_position_of_each_joint(messages: list[tuple[float, dict[str, float]]]) -> None:
    found = nearest_positions(((at, list(m), list(m.values())) for at, m in messages), 0.5, 0.2)
    for joint in JOINTS:
        near = [
            (abs(at - 0.5), m[joint])
            for at, m in messages
            if abs(at - 0.5) <= 0.2 and math.isfinite(m.get(joint, math.nan))
        ]
        assert (joint in found) is bool(near)
        if near:
            position, at = found[joint]
            assert abs(at - 0.5) == min(near)[0] and (abs(at - 0.5), position) in near


# Hands


@given(st.sampled_from([*HANDS.values(), TwoFingerHand(("j",), 0.1, -3.0, 0.2)]), st.floats(0, 1))
def test_a_hands_joints_and_its_opening_say_the_same(hand: TwoFingerHand, part: float) -> None:
    opening = part * hand.stroke
    assert hand.opening([hand.position(opening)] * len(hand.joints)) == pytest.approx(opening, abs=1e-9)


def test_the_presets() -> None:
    assert FRANKA_HAND.opening([0.04, 0.04]) == 0.08 and FRANKA_HAND.position(0.08) == 0.04
    assert ROBOTIQ_2F85.opening([0.0]) == 0.085 and ROBOTIQ_2F85.opening([0.8]) == pytest.approx(0.0, abs=1e-12)
    assert ROBOTIQ_2F85.opening([0.9]) == 0.0, "beyond the end it is closed"
    assert CRISP_GRIPPER.opening([1.0]) == 0.08 and CRISP_GRIPPER.position(0.0) == 0.0
    assert Arm("left_", hand=ROBOTIQ_2F85).hand_joints == ("left_robotiq_85_left_knuckle_joint",)
    assert PAIR[1].hand_joints == PAIR[1].fingers and Arm(hand=None).hand_joints == ()
    assert Arm(hand=ROBOTIQ_2F85).stroke == 0.085 and Arm(hand=None).stroke == 0.08
