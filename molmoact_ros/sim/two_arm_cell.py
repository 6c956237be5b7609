"""TwoArmLift of robosuite: two Pandas that face each other, and a pot with two handles, in lock-step.

Positions are in robosuite's world, m. Arm 0 is on the side of handle 0. robosuite 1.4.0 comes with LIBERO.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Final

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.sim.libero_suite import import_libero
from molmoact_ros.sim.robosuite_joints import follow_joints

INSTRUCTION: Final = "lift the pot by its handles"
ARMS: Final = 2


class TwoArmCell:
    """The simulated workcell of TwoArmLift.

    cell = TwoArmCell()
    cell.reset(trial=0)
    cell.follow(cell.joints, np.zeros((2, 7)), [False, False], 0.01)
    """

    def __init__(self) -> None:
        """Raises NoLiberoError where robosuite is not installed."""
        import_libero()
        import robosuite

        with contextlib.redirect_stdout(io.StringIO()):
            self._env = robosuite.make(
                "TwoArmLift", robots=["Panda", "Panda"], env_configuration="single-arm-opposed", has_renderer=False,
                has_offscreen_renderer=False, use_camera_obs=False, hard_reset=False, ignore_done=True,
            )  # fmt: skip
        model, robots = self._env.sim.model._model, self._env.robots
        self._tcp = [model.site(robot.gripper.important_sites["grip_site"]).id for robot in robots]
        self._bases = [model.body(f"robot{arm}_base").id for arm in range(ARMS)]

    def reset(self, trial: int) -> None:
        """A new episode: robosuite's own draw of arms and pot, by the seed `trial`."""
        np.random.seed(trial)  # noqa: NPY002, robosuite draws from it
        self._env.reset()
        mujoco.mj_forward(self._model, self._data)

    def follow(self, q: np.ndarray, dq: np.ndarray, closes: Sequence[bool], seconds: float) -> None:
        """Advance by `seconds` while the joints follow `q` [2, 7] rad, which change by `dq` [2, 7] rad/s.

        closes: whether the fingers of each hand close or open.
        """
        follow_joints(self._env.sim, self._env.robots, q, dq, closes, seconds)

    @property
    def _model(self) -> Any:
        return self._env.sim.model._model

    @property
    def _data(self) -> Any:
        return self._env.sim.data._data

    @property
    def joints(self) -> np.ndarray:
        """Joint positions float64 [2, 7] rad."""
        return np.array([self._data.qpos[list(robot._ref_joint_pos_indexes)] for robot in self._env.robots])

    @property
    def openings(self) -> np.ndarray:
        """Distance between the fingers of each hand, float64 [2] m."""
        fingers = [list(robot._ref_gripper_joint_pos_indexes) for robot in self._env.robots]
        return np.array([np.abs(self._data.qpos[of]).sum() for of in fingers])

    @property
    def tcp(self) -> tuple[np.ndarray, Rotation]:
        """Positions [2, 3] m and rotations [2] of the tool centre points; fingers close along x."""
        turns = self._data.site_xmat[self._tcp].reshape(ARMS, 3, 3)
        return np.array(self._data.site_xpos[self._tcp]), Rotation.from_matrix(turns)

    @property
    def bases(self) -> list[tuple[float, float, float, float]]:
        """Pose of each arm's base: x, y, z in m and yaw in rad."""
        poses = []
        for base in self._bases:
            x, y, z = self._data.xpos[base].tolist()
            turn = self._data.xmat[base].reshape(3, 3)
            poses.append((x, y, z, float(np.arctan2(turn[1, 0], turn[0, 0]))))
        return poses

    @property
    def table(self) -> float:
        """Height of the table, m."""
        return float(self._data.site_xpos[self._env.table_top_id][2])

    @property
    def handles(self) -> np.ndarray:
        """Middles of both handles, float64 [2, 3] m: they are bars, along the pot's x."""
        return np.array([self._env._handle0_xpos, self._env._handle1_xpos])

    @property
    def pot(self) -> Rotation:
        """The pot's rotation."""
        return Rotation.from_quat(self._env._pot_quat)

    @property
    def success(self) -> bool:
        """Whether the pot is lifted by 0.10 m, by robosuite's own judgement, and tilted by less than 30 degrees, as its
        reward wants it."""
        level = self.pot.as_matrix()[2, 2] > np.cos(np.radians(30))
        return bool(self._env._check_success()) and bool(level)

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()
