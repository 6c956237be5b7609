"""A checkpoint's numbers become those of ActionChunk.msg, whatever they meant; what does not fit is refused."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from pydantic import ValidationError
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionSpace, join, still
from molmoact_ros.control.action_conversion import SPACES, check_fit, convert_actions
from molmoact_ros.engine.model.config import RunConfig
from molmoact_ros.reasoning.action_convention import RELEASED, UNSTATED, ActionConvention, GripperPolarity

OURS = ActionConvention(
    robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw",
    gripper=GripperPolarity(open=1, closed=0), dt=0.1, cameras=("front", "wrist"),
)  # fmt: skip
RANDOM = np.random.default_rng(5)


def but(**changes: Any) -> ActionConvention:
    return OURS.model_validate(OURS.model_dump() | changes)


def chunk(steps: int = 8) -> np.ndarray:
    return np.column_stack([RANDOM.uniform(-0.02, 0.02, (steps, 3)), RANDOM.uniform(-0.4, 0.4, (steps, 3)),
                            RANDOM.uniform(0, 1, steps)])  # fmt: skip


def test_our_own_numbers_stay_as_they_are_to_the_bit() -> None:
    for actions, arms in ((chunk(), 1), (join([chunk(), chunk()], ActionSpace.DELTA_EE), 2)):
        np.testing.assert_array_equal(convert_actions(actions, OURS, arms), actions)
    joints = RANDOM.uniform(-1, 1, (3, 8))
    np.testing.assert_array_equal(convert_actions(joints, but(space="joint_position")), joints)


@pytest.mark.parametrize(("opened", "closed"), [(1.0, 0.0), (0.0, 1.0), (-1.0, 1.0), (0.08, 0.0)])
def test_open_is_open_and_closed_is_closed(opened: float, closed: float) -> None:
    polarity = GripperPolarity(open=opened, closed=closed)
    actions = chunk(3)
    wanted = np.array([1.0, 0.0, 0.25])
    actions[:, 6] = polarity.values(wanted)
    assert actions[0, 6] == opened and actions[1, 6] == closed
    np.testing.assert_allclose(convert_actions(actions, but(gripper=polarity))[:, 6], wanted, atol=1e-12)
    switch = GripperPolarity(open=opened, closed=closed, threshold=0.2)
    np.testing.assert_array_equal(convert_actions(actions, but(gripper=switch))[:, 6], [1, 0, 1])
    late = GripperPolarity(open=opened, closed=closed, threshold=0.5)
    np.testing.assert_array_equal(convert_actions(actions, but(gripper=late))[:, 6], [1, 0, 0])


def test_a_strange_gripper_stays_strange_for_the_controller_to_refuse() -> None:
    actions = chunk(1)
    actions[0, 6] = -0.9
    assert convert_actions(actions, OURS)[0, 6] == -0.9


def test_liberos_numbers_are_scaled_rotation_vectors() -> None:
    actions = np.array([[1, 0, -0.5, 0, 0, 1, 0.9], [0, 0, 0, 0.5, -1, 0.25, 0.1]])
    found = convert_actions(actions, RELEASED["libero_10_no_noops_modified"])
    np.testing.assert_allclose(found[0], [0.05, 0, -0.025, 0, 0, 0.5, 1.0], atol=1e-12)
    turn = Rotation.from_euler("xyz", found[1, 3:6])
    np.testing.assert_allclose(turn.as_rotvec(), [0.25, -0.5, 0.125], atol=1e-12)
    assert found[1, 6] == 0.0


@pytest.mark.parametrize("rotation", ["roll_pitch_yaw", "rotation_vector"])
def test_two_hands_that_move_in_their_own_frames_end_where_they_would(rotation: str) -> None:
    convention, parts = but(frame="hand", rotation=rotation), [chunk(), chunk()]
    hands = [Rotation.random(random_state=k) for k in (1, 2)]
    found = convert_actions(join(parts, ActionSpace.DELTA_EE), convention, 2, hands)
    columns = {0: [0, 1, 2, 6, 7, 8, 12], 1: [3, 4, 5, 9, 10, 11, 13]}
    for arm, (part, hand) in enumerate(zip(parts, hands, strict=True)):
        place, turned = np.zeros(3), hand
        for row in part:
            step = (
                Rotation.from_rotvec(row[3:6])
                if rotation == "rotation_vector"
                else Rotation.from_euler("xyz", row[3:6])
            )
            place, turned = place + turned.apply(row[:3]), turned * step
        ours = found[:, columns[arm]]
        base = hand
        for row in ours:  # as ChunkTrajectory adds them up
            base = Rotation.from_euler("xyz", row[3:6]) * base
        np.testing.assert_allclose(ours[:, :3].sum(axis=0), place, atol=1e-12)
        assert (base * turned.inv()).magnitude() < 1e-9
        np.testing.assert_array_equal(ours[:, 6], part[:, 6])


def test_an_absolute_pose_keeps_its_place() -> None:
    pose = np.array([[0.4, 0.1, 0.3, *Rotation.from_euler("xyz", [3.0, 0.2, -0.4]).as_rotvec(), 1.0]])
    found = convert_actions(pose, but(space="ee_pose", rotation="rotation_vector"))
    np.testing.assert_allclose(found[0], [0.4, 0.1, 0.3, 3.0, 0.2, -0.4, 1.0], atol=1e-12)


@pytest.mark.parametrize(
    ("convention", "dimensions", "arms", "cameras", "words"),
    [
        (RELEASED["libero_10_no_noops_modified"], 7, 1, ["front", "wrist"], "actions of the robot libero, not of a fr"),
        (
            OURS,
            14,
            1,
            ["front", "wrist"],
            "14 values in an action, which are two arms in delta_ee_pose, but this policy",
        ),
        (OURS, 7, 2, ["front", "wrist"], "7 values in an action, which are one arm in delta_ee_pose, but this policy"),
        (
            but(space="joint_position"),
            7,
            1,
            ["front", "wrist"],
            "7 values in an action, and joint_position has 8 an arm",
        ),
        (OURS, 7, 1, ["front"], "needs 2 cameras (front, wrist), not 1 (front)"),
        (OURS, 7, 1, ["wrist", "front"], "in the order front, wrist"),
    ],
)
def test_what_does_not_fit_the_robot_is_refused_in_one_line(
    convention: ActionConvention, dimensions: int, arms: int, cameras: list[str], words: str
) -> None:
    with pytest.raises(ValueError) as error:
        check_fit("a_key", convention, dimensions, "franka", arms, cameras)
    assert words in str(error.value) and "'a_key'" in str(error.value) and "\n" not in str(error.value)


def test_what_fits_is_not_refused() -> None:
    for convention, cameras in product((OURS, UNSTATED, RELEASED["molmoact"]), (["front", "wrist"], ["side", "hand"])):
        check_fit("a_key", convention, 7, "franka", 1, cameras)
    check_fit("a_key", but(space="joint_position"), 16, "franka", 2, ["front", "wrist"])
    check_fit("a_key", RELEASED["libero_10_no_noops_modified"], 7, "libero", 1, ["front", "wrist"])


def test_run_json_comes_before_the_table_and_nothing_is_taken_as_stated_that_is_not() -> None:
    run = RunConfig.model_validate_json(
        '{"conventions": {"molmoact": {"robot": "franka", "space": "delta_ee_pose", "frame": "hand", "rotation": '
        '"rotation_vector", "gripper": {"open": 0, "closed": 1}, "dt": 0.05}}}'
    )
    assert run.convention("molmoact").frame == "hand" and run.convention("molmoact").stated
    assert run.convention("molmoact").gripper.opening(np.array([0.0]))[0] == 1.0
    assert not RunConfig().convention("molmoact").stated and not RunConfig().convention("a_labs_own").stated
    assert RunConfig().convention("a_labs_own").dt is None
    for key, convention in RELEASED.items():
        assert (convention.robot == "franka") == (key in ("molmoact", "franka_droid"))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"gripper": {"open": 1, "closed": 1}}, "open and closed are both 1"),
        ({"frame": "hand", "space": "ee_pose"}, "frame of the hand"),
        ({"assumed": ("colour",)}, "'colour'"),
        ({"position_scale": 0}, "position_scale"),
        ({"scale": 2}, "scale"),
    ],
)
def test_a_convention_that_cannot_be_meant_is_named(changes: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        but(**changes)


def test_standing_still_has_displacements_of_zero_in_every_space() -> None:
    for space, values in ((ActionSpace.DELTA_EE, 7), (ActionSpace.JOINT, 8)):
        for arms in (1, 2):
            actions = RANDOM.uniform(0.1, 1, (4, arms * values))
            rest = still(actions)
            assert rest.shape == (4, 7 * arms) and not rest[:, :-arms].any(), space
            np.testing.assert_array_equal(rest[:, -arms:], np.repeat(actions[-1:, -arms:], 4, axis=0))
    assert set(SPACES.values()) == set(ActionSpace)
