"""The scripted operator moves an arm that follows late as the expert would move one that does not."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from molmoact_ros.bringup.late_arm import LateArm
from molmoact_ros.bringup.scripted_operator import BEAT, DELAY
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.training.expert import FINGER_STEP, MAX_STEP, OPEN, STEP, Expert, ExpertPhase

HOME = np.array([0.42, 0.0, 0.25])


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.15, 0.2])
@pytest.mark.parametrize("seed", range(6))
def test_a_late_arm_comes_down_once_and_its_gripper_closes_once(seed: int, delay: float) -> None:
    scene = sample_scene(seed, instruction="put the red cylinder on the blue cylinder")
    expert, place = Expert(scene), scene.object("red cylinder").point
    hand, opening, arm = HOME, OPEN, LateArm(DELAY, BEAT)
    late = deque([(np.zeros(6), False)] * round(delay / BEAT))
    hands: list[np.ndarray] = []
    closes: list[bool] = []
    while opening > expert.grasp_width and len(hands) < 8 / BEAT:
        twist, opens = arm.lead(expert, ExpertPhase(hand, opening, place, held=False))
        closes.append(not opens)
        arm.command(twist)
        late.append((twist, closes[-1]))
        twist, closing = late.popleft()
        hand = hand + twist[:3] * BEAT
        opening = float(np.clip(opening + (-BEAT if closing else BEAT) * FINGER_STEP / STEP, 0.0, OPEN))
        hands.append(hand)
    assert opening <= expert.grasp_width, "the object is never grasped"
    assert all(closes[closes.index(True) :]), "the fingers begin to close, and open again"
    heights = [float(at[2]) for at in hands]
    low = heights[np.argmin(heights) :]
    assert max(low) - min(low) < 0.003, "the hand comes down, and rises again"
    expected = len(expert.plan(ExpertPhase(HOME, OPEN, place, held=False)).gripper) * STEP
    assert len(hands) * BEAT < expected, "it is slower than the whole task by the expert's plan"
    speeds = np.linalg.norm(np.diff(hands, axis=0), axis=1)[:, None] / BEAT
    assert speeds[:10].max() > 0.9 * MAX_STEP / STEP, "it is slow from the start"


def test_what_is_held_is_foreseen_along_with_the_hand() -> None:
    arm, twist = LateArm(0.15, 0.05), np.array([0.1, 0.0, -0.2, 0.0, 0.0, 1.0])
    phase = ExpertPhase(HOME, 0.03, HOME - [0, 0, 0.01], held=True, yaw=0.2)
    np.testing.assert_allclose(arm.foreseen(phase).tcp, HOME)
    for _ in range(5):
        arm.command(twist)
    seen = arm.foreseen(phase)
    np.testing.assert_allclose(seen.tcp, HOME + [0.015, 0, -0.03])
    np.testing.assert_allclose(seen.object - seen.tcp, phase.object - phase.tcp)
    assert seen.yaw == pytest.approx(0.35)
    arm.rest()
    np.testing.assert_allclose(arm.foreseen(phase).tcp, HOME)
