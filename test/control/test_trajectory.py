"""What the numbers of a chunk mean: one path at a time, against rotations written out by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.trajectory import ChunkTrajectory, Target

TURNED = Rotation.from_rotvec([0.3, -0.7, 0.4])
ANCHOR = Target(Pose(np.array([0.5, 0.1, 0.3]), TURNED), np.linspace(-0.3, 0.3, 7))
DT = 0.1


def about(axis: int, angle: float) -> Rotation:
    """A turn about one axis, by its matrix."""
    c, s = np.cos(angle), np.sin(angle)
    a, b = [k for k in range(3) if k != axis]
    if axis == 1:
        a, b = b, a
    matrix = np.eye(3)
    matrix[a, a], matrix[a, b], matrix[b, a], matrix[b, b] = c, -s, s, c
    return Rotation.from_matrix(matrix)


def fixed_axes(roll: float, pitch: float, yaw: float) -> Rotation:
    """First about x, then about y, then about z, all of which stay where they are: Rz Ry Rx."""
    return about(2, yaw) * about(1, pitch) * about(0, roll)


def pose(path: ChunkTrajectory, time: float) -> Pose:
    found = path.at(time).pose
    assert found is not None
    return found


def assert_same(a: Rotation, b: Rotation) -> None:
    np.testing.assert_allclose(a.as_matrix(), b.as_matrix(), atol=1e-9)


def test_an_action_has_as_many_values_as_its_space_says() -> None:
    assert [space.dimensions for space in (ActionSpace.DELTA_EE, ActionSpace.EE, ActionSpace.JOINT)] == [7, 7, 8]


def test_steps_add_up_in_the_base_frame_and_turns_are_about_its_fixed_axes() -> None:
    actions = np.array([[0.02, 0.0, -0.01, 0.5, 0.4, -0.3, 1.0], [0.01, 0.03, 0.0, -0.2, 0.6, 0.7, 0.0]])
    path = ChunkTrajectory(actions, ActionSpace.DELTA_EE, DT, 2.0, ANCHOR)
    first, second = (fixed_axes(*action[3:6]) for action in actions)
    end, middle = pose(path, path.end), pose(path, 2.0 + DT)
    np.testing.assert_allclose(middle.position, [0.52, 0.1, 0.29], atol=1e-12)
    np.testing.assert_allclose(end.position, [0.53, 0.13, 0.29], atol=1e-12)
    assert_same(middle.rotation, first * TURNED)
    assert_same(end.rotation, second * first * TURNED)
    assert (end.rotation * (TURNED * first * second).inv()).magnitude() > 0.1, "and that is another rotation"


def test_absolute_poses_are_the_poses_themselves() -> None:
    actions = np.array([[0.51, 0.1, 0.3, 0.3, -0.5, 0.4, 1.0], [0.52, 0.12, 0.28, 0.5, -0.6, 0.3, 0.0]])
    path = ChunkTrajectory(actions, ActionSpace.EE, DT, 0.0, ANCHOR)
    for time, action in ((DT, actions[0]), (path.end, actions[1])):
        np.testing.assert_allclose(pose(path, time).position, action[:3], atol=1e-12)
        assert_same(pose(path, time).rotation, fixed_axes(*action[3:6]))


@pytest.mark.parametrize("space", ActionSpace)
def test_a_path_begins_at_its_anchor_and_ends_at_rest_a_step_later_than_its_actions(space: ActionSpace) -> None:
    actions = np.zeros((3, space.dimensions))
    if space is ActionSpace.JOINT:
        assert ANCHOR.joints is not None
        actions[:, :7] = ANCHOR.joints + np.array([[0.1], [0.2], [0.3]])
    elif space is ActionSpace.EE:
        actions[:, :3], actions[:, 3:6] = [0.55, 0.1, 0.3], TURNED.as_euler("xyz")
    else:
        actions[:, 0] = 0.02
    path = ChunkTrajectory(actions, space, DT, 5.0, ANCHOR)
    assert path.end == pytest.approx(5.4) and path.start == 5.0
    for before in (5.0, 4.0, -1.0):
        target = path.at(before)
        if space is ActionSpace.JOINT:
            np.testing.assert_allclose(np.asarray(target.joints), np.asarray(ANCHOR.joints), atol=1e-12)
            assert target.pose is None
        else:
            assert target.pose is not None and target.joints is None and ANCHOR.pose is not None
            np.testing.assert_allclose(target.pose.position, ANCHOR.pose.position, atol=1e-12)
            assert_same(target.pose.rotation, TURNED)

    def values(time: float) -> np.ndarray:
        target = path.at(time)
        return target.joints if target.joints is not None else pose(path, time).position

    np.testing.assert_array_equal(values(path.end + 1.0), values(path.end))
    assert np.abs(values(path.end) - values(path.end - 1e-4)).max() < 1e-6, "at rest at its end"
    assert np.abs(values(path.end) - values(5.3)).max() > 1e-3, "a step before its end it is under way"
    bend = values(5.0 + 2e-3) - 2 * values(5.0 + 1e-3) + values(5.0)
    assert np.abs(bend).max() < 2e-6, "no acceleration at its start"


def test_the_gripper_is_that_of_the_step_under_way() -> None:
    actions = np.zeros((3, 7))
    actions[:, 6] = [0.1, 0.2, 0.3]
    path = ChunkTrajectory(actions, ActionSpace.DELTA_EE, DT, 1.0, ANCHOR)
    told = [path.at(time).gripper for time in (0.0, 1.0, 1.05, 1.15, 1.25, 1.35, 1.4, 9.0)]
    assert told == [0.1, 0.1, 0.1, 0.2, 0.3, 0.3, 0.3, 0.3]


def test_the_hands_speed_is_that_along_the_path() -> None:
    actions = np.zeros((6, 7))
    actions[:, :2] = [0.03, 0.04]
    path = ChunkTrajectory(actions, ActionSpace.DELTA_EE, DT, 1.0, ANCHOR)
    for time in (1.0, 1.23, 1.4, 1.6):
        step = pose(path, time + 1e-5).position - pose(path, time).position
        assert path.hand_speed(time) == pytest.approx(np.linalg.norm(step) / 1e-5, rel=1e-2)
    assert path.hand_speed(0.0) == path.hand_speed(1.0) > 0.3 and path.hand_speed(9.0) == pytest.approx(0.0, abs=1e-9)
    joints = np.zeros((2, 8))
    joints[:, :7] = 0.4
    assert ChunkTrajectory(joints, ActionSpace.JOINT, DT, 1.0, ANCHOR).hand_speed(1.1) == 0.0
