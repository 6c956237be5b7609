"""The scripted expert of ManiSkill's PickCube."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.training.pick_cube_expert import pick_cube_action, quarter_turn


def pose(position: list[float], turn: Rotation) -> np.ndarray:
    return np.array([*position, *turn.as_quat()[[3, 0, 1, 2]]])


def test_the_hand_goes_there_turns_grasps_and_carries() -> None:
    """In a world in which the hand moves as far as it is told to."""
    rng = np.random.default_rng(3)
    for _ in range(20):
        yaw, start = rng.uniform(-np.pi, np.pi), rng.uniform(-0.1, 0.1, 2)
        cube = np.array([*rng.uniform(-0.1, 0.1, 2), 0.02])
        tcp, hand = np.array([*start, 0.18]), Rotation.from_euler("x", np.pi)
        goal, grasped = np.array([*rng.uniform(-0.1, 0.1, 2), 0.2]), False
        for _ in range(60):
            state = {
                "tcp_pose": pose(list(tcp), hand), "obj_pose": pose(list(cube), Rotation.from_euler("z", yaw)),
                "goal_pos": goal, "is_grasped": np.array([float(grasped)]),
            }  # fmt: skip
            action = pick_cube_action(state)
            assert np.linalg.norm(action[:3]) < 0.1 and abs(action[5]) <= 0.1
            if np.abs(tcp[:2] - cube[:2]).max() > 0.02 and not grasped:
                assert tcp[2] > 0.06, "it comes from above"
            tcp, hand = tcp + 0.6 * action[:3], Rotation.from_euler("xyz", action[3:6]) * hand
            if action[6] == 0 and not grasped:
                assert np.linalg.norm(tcp - cube) < 0.008
                closing = hand.as_matrix()[:, 1]
                assert abs(quarter_turn(np.arctan2(closing[1], closing[0]) - yaw)) < 0.1, "across its sides"
                grasped = True
            if grasped:
                cube = tcp.copy()
        assert grasped and np.linalg.norm(cube - goal) < 0.005


def test_another_task_is_refused() -> None:
    with pytest.raises(ValueError, match="knows PickCube only; this environment's state has no obj_pose"):
        pick_cube_action({"tcp_pose": np.zeros(7)})
