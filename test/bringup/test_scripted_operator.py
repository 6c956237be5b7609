"""The scripted operator moves an arm that follows late, and does not swing about its goal."""

from __future__ import annotations

from collections import deque

import numpy as np
import pytest

from molmoact_ros.bringup.scripted_operator import AHEAD, velocity_ahead
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.training.expert import FINGER_STEP, OPEN, STEP, Expert, ExpertPhase

TICK = 0.05  # s


@pytest.mark.parametrize("delay", [0.05, 0.1, 0.15])
@pytest.mark.parametrize("seed", range(6))
def test_a_late_arm_comes_down_once_and_its_gripper_closes_once(seed: int, delay: float) -> None:
    scene = sample_scene(seed, instruction="put the red cylinder on the blue cylinder")
    expert, place = Expert(scene), scene.object("red cylinder").point
    hand, opening = np.array([0.42, 0.0, 0.25]), OPEN
    late = deque([(np.zeros(3), False)] * round(delay / TICK))
    heights: list[float] = []
    closes: list[bool] = []
    while opening > expert.grasp_width and len(heights) < 8 / TICK:
        chunk = expert.plan(ExpertPhase(hand, opening, place, held=False)).chunk()
        closes.append(bool(chunk[0, 6] < 0.5))
        late.append((velocity_ahead(chunk)[:3], closes[-1]))
        velocity, closing = late.popleft()
        hand = hand + velocity * TICK
        opening = float(np.clip(opening + (-TICK if closing else TICK) * FINGER_STEP / STEP, 0.0, OPEN))
        heights.append(float(hand[2]))
    assert opening <= expert.grasp_width, "the object is never grasped"
    assert all(closes[closes.index(True) :]), "the fingers begin to close, and open again"
    low = heights[np.argmin(heights) :]
    assert max(low) - min(low) < 0.003, "the hand comes down, and rises again"


def test_the_arm_stands_while_the_fingers_move() -> None:
    chunk = np.zeros((8, 7))
    chunk[3:, 2] = 0.02
    assert not velocity_ahead(chunk).any()


def test_what_comes_behind_a_change_of_the_gripper_does_not_count() -> None:
    chunk = np.zeros((8, 7))
    chunk[:, 0], chunk[2:, 0], chunk[2:, 6] = 0.01, -0.05, 1.0
    np.testing.assert_allclose(velocity_ahead(chunk), [0.01 / STEP, 0, 0, 0, 0, 0])
    chunk[:, 6] = 0.0
    np.testing.assert_allclose(velocity_ahead(chunk)[0], chunk[:AHEAD, 0].mean() / STEP)
