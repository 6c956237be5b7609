"""What a chunk of known values does in LIBERO's controller, in numbers that were computed by hand."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp
from scipy.spatial.transform import Rotation

from molmoact_ros.control.osc_pose import STEP, STIFFNESS, checkpoint_actions, hand_motion, osc_inputs
from molmoact_ros.reasoning.action_convention import RELEASED, ActionConvention, GripperPolarity

LIBERO = RELEASED["libero_object_no_noops_modified"]
METRES = ActionConvention(
    robot="libero",
    space="delta_ee_pose",
    frame="base",
    rotation="roll_pitch_yaw",
    gripper=GripperPolarity(0, 1),
    dt=0.05,
)


def test_a_released_checkpoints_numbers_are_inputs_and_one_is_an_open_gripper() -> None:
    actions = np.array([[0.5, -1.0, 0.25, 0.1, -0.2, 0.3, 0.996], [0, 0, 0, 0, 0, 0, 0.004], [0, 0, 0, 0, 0, 0, 0.51]])
    found = osc_inputs(actions, LIBERO)
    np.testing.assert_allclose(found[:, :6], actions[:, :6], atol=1e-12)
    assert found[:, 6].tolist() == [-1.0, 1.0, -1.0], "-1 opens: the sign of 2 g - 1, reversed"


def test_metres_and_angles_become_fractions_of_a_unit() -> None:
    turn = Rotation.from_rotvec([0.05, -0.1, 0.2])
    found = osc_inputs(np.array([[0.025, 0.0, -0.05, *turn.as_euler("xyz"), 1.0]]), METRES)
    np.testing.assert_allclose(found, [[0.5, 0.0, -1.0, 0.1, -0.2, 0.4, 1.0]], atol=1e-12)


def test_inputs_are_clipped_as_the_controller_does() -> None:
    found = osc_inputs(np.array([[2.0, -3.0, 0.0, 1.5, 0.0, 0.0, 1.0]]), LIBERO)
    assert found[0].tolist() == [1.0, -1.0, 0.0, 1.0, 0.0, 0.0, -1.0]


@pytest.mark.parametrize("convention", [LIBERO, METRES])
def test_actions_come_back_from_inputs(convention: ActionConvention) -> None:
    inputs = np.random.default_rng(5).uniform(-1, 1, (8, 7))
    inputs[:, 6] = np.where(inputs[:, 6] > 0, 1.0, -1.0)
    np.testing.assert_allclose(osc_inputs(checkpoint_actions(inputs, convention), convention), inputs, atol=1e-12)


@pytest.mark.parametrize("key", ["molmoact", "fractal20220817_data", "bridge_orig"])
def test_a_checkpoint_of_another_robot_is_refused(key: str) -> None:
    with pytest.raises(ValueError, match="LIBERO's arm needs displacements for the robot libero.* choose a checkpoint"):
        osc_inputs(np.zeros((8, 7)), RELEASED[key])


def test_the_hand_follows_the_controllers_equations() -> None:
    inputs = np.random.default_rng(3).uniform(-1, 1, (5, 7))
    start = np.array([0.1, -0.2, 0.05, 0.3, 0.0, -0.4])
    motion, twist, gone = hand_motion(inputs, start), start, []
    for goal in inputs[:, :6] * [0.05, 0.05, 0.05, 0.5, 0.5, 0.5]:
        begin = [*np.zeros(6), *twist]
        state = solve_ivp(_spring, (0, STEP), begin, args=(goal,), rtol=1e-9, atol=1e-12).y[:, -1]
        gone.append(state[:6])
        twist = state[6:]
    np.testing.assert_allclose(motion.actions[:, :3], np.array(gone)[:, :3], atol=1e-8)
    turns = Rotation.from_euler("xyz", motion.actions[:, 3:6]).as_rotvec()
    np.testing.assert_allclose(turns, np.array(gone)[:, 3:], atol=1e-8)
    np.testing.assert_allclose(motion.twist, twist, atol=1e-7)


def _spring(_: float, state: np.ndarray, goal: np.ndarray) -> np.ndarray:
    position, velocity = state[:6], state[6:]
    return np.concatenate([velocity, STIFFNESS * (goal - position) - 2 * np.sqrt(STIFFNESS) * velocity])


def test_a_hand_that_is_pushed_on_covers_a_quarter_of_each_input() -> None:
    motion = hand_motion(np.tile([1.0, 0, 0, 0, 0, 0, 1.0], (40, 1)), np.zeros(6))
    assert 0.25 < motion.actions[-1, 0] / 0.05 < 0.28
    assert motion.actions[-1, 6] == 0.0, "1 closes"
