"""Where the actions of a chunk take the hands, and what of it a calibrated camera sees."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.cameras.camera_view import CameraView
from molmoact_ros.cameras.image_path import path_in_image
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, RefusedChunk, join
from molmoact_ros.control.hand_path import hand_paths, hand_targets
from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import HOME_Q, Arm, arms_at
from molmoact_ros.utils.paths import robot_model

ONE, HOME = [Arm()], dict(zip(Arm().joints, HOME_Q, strict=True))
STEPS = np.arange(1, 16)


@pytest.fixture(scope="module")
def links() -> Links:
    return Links(robot_model(), ONE)


def turning(total: float) -> ActionChunk:
    """The base joint turns by so much in 15 steps, rad; the gripper closes halfway."""
    actions = np.tile([*HOME_Q, 1.0], (15, 1))
    actions[:, 0] += total * STEPS / 15
    actions[8:, 7] = 0.0
    return ActionChunk(actions, dt=1 / 15, stamp=0.0, space=ActionSpace.JOINT)


def test_joints_take_the_hand_round_the_base(links: Links) -> None:
    (path,) = hand_paths(turning(0.6), ONE, links, HOME)
    begin, angles = path[0], np.array([0.0, *(0.6 * STEPS / 15)])
    radius = np.hypot(*begin[:2])
    wanted = np.column_stack([radius * np.cos(angles), radius * np.sin(angles), np.full(16, begin[2])])
    np.testing.assert_allclose(path, wanted, atol=1e-9)
    assert 0.3 < radius < 0.5, "where a Franka's hand is at home"
    (targets,) = hand_targets(turning(0.6), ONE, links, HOME)
    assert [target.gripper for target in targets] == [None, *[1.0] * 8, *[0.0] * 7]


def test_displacements_and_poses_lead_from_where_the_hand_is(links: Links) -> None:
    steps = np.zeros((8, 7))
    steps[:, 1] = 0.01
    (path,) = hand_paths(ActionChunk(steps, dt=0.1, stamp=0.0), ONE, links, HOME)
    np.testing.assert_allclose(path - path[0], np.outer(np.arange(9), [0, 0.01, 0]), atol=1e-9)
    poses = np.column_stack([np.tile(path[0], (8, 1)), np.tile([np.pi, 0, 0, 1], (8, 1))])
    poses[:, 2] -= 0.02 * np.arange(1, 9)
    (down,) = hand_paths(ActionChunk(poses, 0.1, 0.0, space=ActionSpace.EE), ONE, links, HOME)
    np.testing.assert_allclose(down, np.vstack([path[:1], poses[:, :3]]), atol=1e-9)


def test_each_of_two_arms_is_seen_from_its_own_base() -> None:
    arms = arms_at(["left_", "right_"], [0.0, 0.3, 0, 0, 0, -0.3, 0, 0])
    home = {name: at for arm in arms for name, at in zip(arm.joints, HOME_Q, strict=True)}
    still = np.tile([*HOME_Q, 1.0], (15, 1))
    chunk = ActionChunk(join([still, turning(0.6).actions], ActionSpace.JOINT), 1 / 15, 0.0, space=ActionSpace.JOINT)
    left, right = hand_paths(chunk, arms, Links(robot_model(), arms), home)
    np.testing.assert_allclose(left, np.tile(left[:1], (16, 1)), atol=1e-12)
    np.testing.assert_allclose(right[0], left[0], atol=1e-9)
    above = np.array([[1.0, 0, 0, 0.4], [0, -1, 0, 0], [0, 0, -1, 2.0], [0, 0, 0, 1]])
    view = CameraView(640, 480, np.array([[600.0, 0, 320], [0, 600, 240], [0, 0, 1]]), (), "", (above, above))
    seen, distances = path_in_image(view, [left, right])
    wanted = np.column_stack([right[:, 0] - 0.4, -right[:, 1]]) * (600 / (2.0 - right[:, 2:])) + (320, 240)
    np.testing.assert_allclose(seen.points, wanted, atol=1e-6)  # of the arm that moves
    np.testing.assert_allclose(distances, 2.0 - right[:, 2])
    trace = seen.trace(0)
    assert trace is not None and len(trace) == 5
    np.testing.assert_allclose(trace[[0, -1]] / 255 * (639, 479), wanted[[0, -1]], atol=1.3)


def test_a_chunk_of_other_arms_is_refused(links: Links) -> None:
    with pytest.raises(RefusedChunk, match="expected"):
        hand_paths(ActionChunk(np.zeros((8, 14)), 0.1, 0.0), ONE, links, HOME)
