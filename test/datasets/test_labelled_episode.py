"""The joints of a demonstration as MolmoAct 2 learns them."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.labelled_episode import joint_motion


@pytest.mark.parametrize("arms", [("",), ("left_", "right_")], ids=["one", "two"])
def test_actions_are_the_next_frames_joints_and_the_commanded_gripper(arms: tuple[str, ...]) -> None:
    count, hands = 4, len(arms)
    states, actions = (np.zeros((count, 7 * hands), np.float32) for _ in range(2))
    states[:, -hands:], actions[:, -hands:] = 0.5, np.arange(count)[:, None] % 2
    joints = np.arange(count * 9 * hands, dtype=np.float32).reshape(count, 9 * hands) / 100
    moved = joint_motion(Demonstration(["lift"] * count, 10.0, {}, states, actions, joints, arms=arms))
    assert moved is not None
    state, action = moved
    assert state.shape == action.shape == (count, 8 * hands)
    for arm in range(hands):
        mine, theirs = slice(8 * arm, 8 * arm + 7), slice(9 * arm, 9 * arm + 7)
        np.testing.assert_allclose(state[:, mine], joints[:, theirs], atol=1e-5)
        np.testing.assert_allclose(action[:-1, mine], joints[1:, theirs], atol=1e-5)
        np.testing.assert_allclose(action[-1, mine], joints[-1, theirs], atol=1e-5)
        assert state[:, 8 * arm + 7].tolist() == [0.5] * count
        assert action[:, 8 * arm + 7].tolist() == [0, 1, 0, 1]


def test_without_joints_there_is_none() -> None:
    nothing = np.zeros((2, 7), np.float32)
    assert joint_motion(Demonstration(["lift"] * 2, 10.0, {}, nothing, nothing, None)) is None
