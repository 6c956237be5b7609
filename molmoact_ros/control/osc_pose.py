"""robosuite's OSC_POSE controller as LIBERO sets it: its inputs, and how far it moves the hand for them.

An input float64 [7] is dx, dy, dz, a rotation vector, gripper; each value is in -1..1. Of the hand, 1 is `UNIT_M` and
`UNIT_RAD` in the robot's base frame; of the gripper, -1 opens and 1 closes. The goal of an input is set relative to the
measured pose, and the controller is a critically damped spring towards it, so that in its `STEP` the hand covers about
a quarter of the way. Numbers: robosuite 1.4.0, controllers/config/osc_pose.json, and LIBERO's control_freq.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.reasoning.action_convention import ActionConvention

UNIT_M, UNIT_RAD = 0.05, 0.5
STEP: Final = 0.05
"""s of one input: 20 Hz."""
STIFFNESS: Final = 150.0
"""1/s^2, of position and rotation; the damping ratio is 1."""
ROBOT: Final = "libero"
"""`ActionConvention.robot` of checkpoints whose numbers are inputs of this controller."""
NO_OP: Final = (0.0, 0.0, 0.0, 0.0, 0.0, 0.0, -1.0)
"""The input that lets an arm stand and opens the gripper."""


def osc_inputs(actions: np.ndarray, convention: ActionConvention) -> np.ndarray:
    """A checkpoint's actions [N, 7] in the meaning of `convention`, as inputs float64 [N, 7], each value in -1..1.

    Raises ValueError, in one line that says what to do, for a checkpoint of another robot than LIBERO's.
    """
    if convention.robot != ROBOT or convention.space != "delta_ee_pose" or convention.frame != "base":
        raise ValueError(
            f"LIBERO's arm needs displacements for the robot {ROBOT} in its base frame, and this un-normalisation key "
            f"holds {convention}: choose a checkpoint or a key that was trained on LIBERO"
        )
    angles = np.asarray(actions, np.float64)[:, 3:6] * convention.rotation_scale
    if convention.rotation == "roll_pitch_yaw":
        angles = Rotation.from_euler("xyz", angles).as_rotvec()
    position = np.asarray(actions, np.float64)[:, :3] * convention.position_scale
    gripper = 1.0 - 2.0 * convention.gripper.opening(actions[:, -1])
    return np.clip(np.column_stack([position / UNIT_M, angles / UNIT_RAD, gripper]), -1.0, 1.0)


def checkpoint_actions(inputs: np.ndarray, convention: ActionConvention) -> np.ndarray:
    """The reverse of `osc_inputs`: inputs [N, 7] as actions float64 [N, 7] in the meaning of `convention`."""
    angles = inputs[:, 3:6] * UNIT_RAD
    if convention.rotation == "roll_pitch_yaw":
        angles = Rotation.from_rotvec(angles).as_euler("xyz")
    position = inputs[:, :3] * UNIT_M / convention.position_scale
    gripper = convention.gripper.values((1.0 - inputs[:, 6]) / 2.0)
    return np.column_stack([position, angles / convention.rotation_scale, gripper])


@dataclass(frozen=True)
class HandMotion:
    """How the controller moves the hand for some inputs.

    actions: float64 [N, 7] as msg/ActionChunk.msg has them (delta_ee_pose, `STEP` each). twist: float64 [6], velocity
    of the hand after the last of them, m/s and rad/s in the base frame.
    """

    actions: np.ndarray
    twist: np.ndarray


def hand_motion(inputs: np.ndarray, twist: np.ndarray) -> HandMotion:
    """The hand's motion for inputs [N, 7], from its twist [6] (m/s, rad/s) before them: the controller's equations.

    Each axis is e'' + 2 w e' + w^2 e = 0, w^2 = STIFFNESS, where e is the way left to the goal of its input.
    """
    rate, moved = np.sqrt(STIFFNESS), np.empty((len(inputs), 6))
    decay = np.exp(-rate * STEP)
    for n, goal in enumerate(inputs[:, :6] * np.repeat([UNIT_M, UNIT_RAD], 3)):
        slope = rate * goal - twist
        left = (goal + slope * STEP) * decay
        moved[n], twist = goal - left, rate * left - slope * decay
    turns = Rotation.from_rotvec(moved[:, 3:]).as_euler("xyz")
    return HandMotion(np.column_stack([moved[:, :3], turns, (1.0 - inputs[:, 6]) / 2.0]), twist)
