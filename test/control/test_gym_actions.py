"""Units, signs, rotations and grippers of SimplerEnv's and ManiSkill's arms."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_conversion import convert_actions
from molmoact_ros.control.gym_actions import STICKY_STEPS, GymActions, gym_arm
from molmoact_ros.reasoning.action_convention import RELEASED

GOOGLE = gym_arm("google_robot_static", "arm_pd_ee_delta_pose_align_interpolate_by_planner_gripper_pd_joint_target")
WIDOWX = gym_arm("widowx", "arm_pd_ee_target_delta_pose_align2_gripper_pd_joint_pos")
PANDA = gym_arm("panda_wristcam", "pd_ee_delta_pose")


def action(*pose: float, opening: float = 1.0) -> np.ndarray:
    return np.array([*pose, opening])


@pytest.mark.parametrize("arm", [GOOGLE, WIDOWX])
def test_simplerenv_gets_metres_and_a_rotation_vector(arm: object) -> None:
    """The action scale is 1; a checkpoint's roll, pitch, yaw are about axes that stay (euler2axangle's sxyz)."""
    found = GymActions(arm).convert(action(0.01, -0.02, 0.03, 0.3, -0.2, 0.5))  # type: ignore[arg-type]
    np.testing.assert_allclose(found[:3], [0.01, -0.02, 0.03])
    turn = Rotation.from_rotvec([0, 0, 0.5]) * Rotation.from_rotvec([0, -0.2, 0]) * Rotation.from_rotvec([0.3, 0, 0])
    np.testing.assert_allclose(found[3:6], turn.as_rotvec())


def test_maniskills_panda_gets_tenths_of_a_metre_and_turns_against_the_sign() -> None:
    """Its controller makes of the last angles a matrix Rx(a) Ry(b) Rz(c), a = -0.1 rad of an action of 1."""
    found = GymActions(PANDA).convert(action(0.05, -0.1, 0.02, 0.03, -0.02, 0.05))
    np.testing.assert_allclose(found[:3], [0.5, -1.0, 0.2])
    a, b, c = -0.1 * found[3:6]
    made = Rotation.from_rotvec([a, 0, 0]) * Rotation.from_rotvec([0, b, 0]) * Rotation.from_rotvec([0, 0, c])
    np.testing.assert_allclose(
        made.as_matrix(), Rotation.from_euler("xyz", [0.03, -0.02, 0.05]).as_matrix(), atol=1e-12
    )
    assert c > 0 > found[5], "a turn to the left is a turn to the left"


@pytest.mark.parametrize("arm", [WIDOWX, PANDA])
def test_a_gripper_opens_by_one_and_closes_by_minus_one(arm: object) -> None:
    actions = GymActions(arm)  # type: ignore[arg-type]
    assert [actions.convert(action(*[0] * 6, opening=g))[6] for g in (0.0, 0.5, 0.51, 1.0)] == [-1, -1, 1, 1]


def grips(openings: list[float]) -> list[float]:
    actions = GymActions(GOOGLE)
    return [float(actions.convert(action(*[0] * 6, opening=g))[6]) for g in openings]


def test_a_google_robots_gripper_goes_on_for_fifteen_steps() -> None:
    found = grips([1.0, 1.0, 0.0] + [0.0] * 20)
    assert found == [0, 0] + [1] * STICKY_STEPS + [0] * 6, "positive closes"


def test_what_a_google_robot_is_told_meanwhile_is_not_heard() -> None:
    """As in the released evaluation: the last opening is remembered even while the gripper goes on."""
    found = grips([0.0, 1.0, 0.0, 1.0] + [1.0] * 14 + [0.0])
    assert found[1 : 1 + STICKY_STEPS] == [-1] * STICKY_STEPS
    assert found[1 + STICKY_STEPS : -1] == [0, 0] and found[-1] == 1


def test_a_small_change_is_passed_on_once() -> None:
    assert grips([1.0, 0.6, 0.6]) == pytest.approx([0, 0.4, 0])


def test_a_released_checkpoints_values_become_simplerenvs() -> None:
    """fractal20220817_data: metres, angles about fixed axes, 1 for open."""
    values = np.array([[0.02, 0.0, -0.01, 0.1, 0.0, 0.2, 1.0], [0.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])
    actions = GymActions(GOOGLE)
    first, second = (actions.convert(row) for row in convert_actions(values, RELEASED["fractal20220817_data"]))
    np.testing.assert_allclose(first[:3], [0.02, 0.0, -0.01])
    np.testing.assert_allclose(first[3:6], Rotation.from_euler("xyz", [0.1, 0.0, 0.2]).as_rotvec())
    assert (first[6], second[6]) == (0, 1)


def test_other_arms_and_control_modes_are_refused() -> None:
    with pytest.raises(ValueError, match="not for 'fetch'"):
        gym_arm("fetch", "pd_ee_delta_pose")
    with pytest.raises(ValueError, match="begins with pd_ee_delta_pose"):
        gym_arm("panda", "pd_joint_pos")
