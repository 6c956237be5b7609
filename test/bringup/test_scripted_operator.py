"""The scripted operator moves an arm that follows late as the expert would move one that does not."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.bringup.delay_compensation import DelayCompensator
from molmoact_ros.bringup.scripted_operator import BEAT, DELAY
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.training.expert import FINGER_STEP, MAX_RISE, MAX_STEP, MAX_TURN, OPEN, STEP, Expert, ExpertPhase

HOME = np.array([0.42, 0.0, 0.25])


@pytest.mark.parametrize("delay", [DELAY - 0.1, DELAY + 0.05, DELAY + 0.1])
@pytest.mark.parametrize("seed", range(6))
def test_a_late_arm_comes_down_once_and_its_gripper_closes_once(seed: int, delay: float) -> None:
    """The delay is of a fixed part and of measurements whose age differs by up to 0.1 s, 0.05 s in the mean."""
    scene, rng = (
        sample_scene(seed, instruction="put the red cylinder on the blue cylinder"),
        np.random.default_rng(seed),
    )
    expert, place = Expert(scene), scene.object("red cylinder").point
    hand, opening, arm = HOME, OPEN, DelayCompensator(DELAY, BEAT)
    late = deque([(np.zeros(6), False)] * round((delay - 0.05) / BEAT))
    hands, twists, closes = [hand] * 3, [np.zeros(3)], list[bool]()
    while opening > expert.grasp_width and len(hands) < 10 / BEAT:
        measured = hands[-1 - int(rng.integers(3))]
        twist, opens = arm.next_command(expert, ExpertPhase(measured, opening, place, held=False))
        closes.append(not opens)
        twists.append(twist[:3])
        arm.command(twist)
        late.append((twist, closes[-1]))
        delayed, closing = late.popleft()
        hand = hand + delayed[:3] * BEAT
        opening = float(np.clip(opening + (-BEAT if closing else BEAT) * FINGER_STEP / STEP, 0.0, OPEN))
        hands.append(hand)
    assert opening <= expert.grasp_width, "the object is never grasped"
    matched = delay == DELAY + 0.05
    changes = int(np.abs(np.diff(np.array(closes, int))).sum())
    assert changes <= (1 if matched else 5), "the gripper changes its mind"
    heights = [float(at[2]) for at in hands]
    low = heights[int(np.argmin(heights)) :]
    assert max(low) - min(low) < (0.004 if matched else 0.02), "the hand comes down, and rises again"
    expected = np.flatnonzero(expert.plan(ExpertPhase(HOME, OPEN, place, held=False)).gripper < 0.5)[0] * STEP
    late_by = closes.index(True) * BEAT - expected
    assert late_by < (1.0 if matched else 3.0), "the expert's arm without a delay is much faster"
    assert np.linalg.norm(twists, axis=1)[:10].max() > 0.9 * MAX_STEP / STEP, "it is slow from the start"


def test_what_is_held_is_predicted_along_with_the_hand() -> None:
    arm, twist = DelayCompensator(0.15, 0.05), np.array([0.1, 0.0, -0.2, 0.0, 0.0, 1.0])
    phase = ExpertPhase(HOME, 0.03, HOME - [0, 0, 0.01], held=True, yaw=0.2)
    np.testing.assert_allclose(arm.predict(phase).tcp, HOME)
    for _ in range(3):
        arm.command(twist)
    seen = arm.predict(phase)
    np.testing.assert_allclose(seen.tcp, HOME + [0.015, 0, -0.03])
    np.testing.assert_allclose(seen.object - seen.tcp, phase.object - phase.tcp)
    assert seen.yaw == pytest.approx(0.35)
    for _ in range(50):
        arm.command(np.zeros(6))
        seen = arm.predict(phase)
    np.testing.assert_allclose(seen.tcp, HOME, atol=1e-4, err_msg="an arm that did not follow is believed at last")
    arm.command(twist)
    arm.reset()
    np.testing.assert_allclose(arm.predict(phase).tcp, HOME)


places = st.tuples(st.floats(0.2, 0.8), st.floats(-0.4, 0.4), st.floats(0.0, 0.6)).map(np.array)
measurements = st.tuples(places, st.floats(0.0, OPEN), st.booleans(), st.booleans())


@settings(deadline=None, max_examples=60)
@given(seed=st.integers(0, 50), beats=st.lists(st.tuples(measurements, st.integers(0, 3), st.booleans()), max_size=25))
def test_whatever_is_measured_the_twist_is_one_that_the_expert_makes(seed: int, beats: list[Any]) -> None:
    """Over poses, states of the gripper, jumps between measurements, beats without one, and hands that take over."""
    scene = sample_scene(seed, instruction="put the red cylinder on the blue cylinder")
    expert, arm = Expert(scene), DelayCompensator(DELAY, BEAT)
    for (tcp, opening, held, delivered), repeats, resets in beats:
        thing = tcp if held else scene.object("red cylinder").point
        phase = ExpertPhase(tcp, opening, thing, held and not delivered, delivered)
        twist, opens = arm.next_command(expert, phase)
        assert np.isfinite(twist).all() and isinstance(opens, bool)
        assert np.linalg.norm(twist[:2]) <= MAX_STEP / STEP + 1e-9 and abs(twist[2]) <= MAX_RISE / STEP + 1e-9
        assert not twist[3:5].any() and abs(twist[5]) <= MAX_TURN / STEP + 1e-9
        for _ in range(repeats):
            arm.command(twist)
        if resets:
            arm.reset()
            np.testing.assert_allclose(arm.predict(phase).tcp, tcp, err_msg="commands of before are followed")
