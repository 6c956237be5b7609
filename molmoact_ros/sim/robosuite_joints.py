"""Joint commands in robosuite, which has none of its own that a real arm's controller resembles."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import mujoco
import numpy as np

STIFFNESS: Final = 2500.0
"""1/s^2: how the joints follow their commands; a Franka's own controller is about as stiff."""
DAMPING: Final = 100.0
"""1/s, with which that is critically damped."""


def follow_joints(
    sim: Any, robots: Sequence[Any], q: np.ndarray, dq: np.ndarray, closes: Sequence[bool], seconds: float
) -> None:
    """Advance a simulation of robosuite's while the joints of its robots follow commands.

    Args:
        sim: robosuite's `MjSim`.
        robots: its A robots.
        q: float64 [A, 7] rad, where the joints are to be after `seconds`.
        dq: float64 [A, 7] rad/s, by which `q` changes.
        closes: whether the fingers of each robot close or open.
        seconds: a multiple of MuJoCo's time step.
    """
    model, data = sim.model._model, sim.data._data
    mass, steps = np.zeros((model.nv, model.nv)), round(seconds / model.opt.timestep)
    for left in reversed(range(steps)):
        mujoco.mj_step1(model, data)
        mujoco.mj_fullM(model, data, mass)
        ahead = q - dq * left * model.opt.timestep
        for robot, position, rate, closing in zip(robots, ahead, dq, closes, strict=True):
            _drive(model, data, mass, robot, position, rate)
            robot.grip_action(gripper=robot.gripper, gripper_action=np.array([1.0 if closing else -1.0]))
        mujoco.mj_step2(model, data)


def _drive(model: Any, data: Any, mass: np.ndarray, robot: Any, q: np.ndarray, dq: np.ndarray) -> None:
    """Set the torques by which a robot follows `q` [7] rad and `dq` [7] rad/s.

    mass: the matrix of all masses [nv, nv]. They compensate for mass and gravity, as the robot's own controller does.
    """
    at, rates = list(robot._ref_joint_pos_indexes), list(robot._ref_joint_vel_indexes)
    motors = list(robot._ref_joint_actuator_indexes)
    wanted = STIFFNESS * (q - data.qpos[at]) + DAMPING * (dq - data.qvel[rates])
    torque = mass[np.ix_(rates, rates)] @ wanted + data.qfrc_bias[rates]
    low, high = model.actuator_ctrlrange[motors].T
    data.ctrl[motors] = np.clip(torque, low, high)
