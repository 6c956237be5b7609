"""Two arms that face each other: directions of their chunks, and how they grasp a pot's handles."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, join, split
from molmoact_ros.evaluation.two_arm_rollout import grasping, in_bases

YAWS = [np.pi / 2, -np.pi / 2]


def test_each_arm_gets_displacements_of_its_own_base() -> None:
    """What is towards +y in the world is forward for the arm that looks there, and back for the other one."""
    world = np.array([[0.0, 0.02, 0.01, 0.05, 0.0, 0.1, 1.0]])
    left, right = split(ActionChunk(in_bases(join([world, world], ActionSpace.DELTA_EE), YAWS), 0.1, 0.0, 0), 2)
    np.testing.assert_allclose(left.actions[0, :3], [0.02, 0, 0.01], atol=1e-12)
    np.testing.assert_allclose(right.actions[0, :3], [-0.02, 0, 0.01], atol=1e-12)
    for part, yaw in ((left, YAWS[0]), (right, YAWS[1])):
        turn = Rotation.from_euler("xyz", part.actions[0, 3:6]).as_rotvec()
        np.testing.assert_allclose(Rotation.from_euler("z", yaw).apply(turn), [0.05, 0, 0.1], atol=1e-12)
        assert part.actions[0, 6] == 1


def test_a_hand_points_down_and_closes_across_the_handle_by_the_smaller_turn() -> None:
    down = Rotation.from_euler("x", np.pi)
    for angle in np.linspace(-3, 3, 13):
        hand = (Rotation.from_euler("z", 0.4) * down).as_matrix()
        found = grasping(hand, np.array([np.cos(angle), np.sin(angle), 0.1]))
        np.testing.assert_allclose(found @ found.T, np.eye(3), atol=1e-12)
        assert np.linalg.det(found) > 0
        np.testing.assert_allclose(found[:, 2], [0, 0, -1])
        assert abs(found[:, 0] @ [np.cos(angle), np.sin(angle), 0]) > 0.999
        turn = Rotation.from_matrix(found @ hand.T).magnitude()
        assert turn <= np.pi / 2 + 1e-9
