"""Forward and differential inverse kinematics of the arm, by mink on its MJCF model."""

from __future__ import annotations

from pathlib import Path

import mink
import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.pose import Pose
from molmoact_ros.robots.franka import ARM_JOINTS, HOME_Q, TCP_FRAME, VELOCITY_MAX

ARM = len(ARM_JOINTS)


class Kinematics:
    """Solves for the joints step by step from the last commanded ones."""

    def __init__(self, robot: Path) -> None:
        """`robot`: the MJCF file. Raises ValueError when it cannot be read."""
        model = mujoco.MjModel.from_xml_path(str(robot))
        self._configuration = mink.Configuration(model)
        self._q = np.zeros(model.nq)
        self._hand = mink.FrameTask(TCP_FRAME, "site", position_cost=1.0, orientation_cost=0.5, lm_damping=1e-6)
        self._posture = mink.PostureTask(model, cost=1e-3)
        self._posture.set_target(self._full(HOME_Q))
        speeds = {joint: float(v) for joint, v in zip(ARM_JOINTS, VELOCITY_MAX, strict=True)}
        self._limits = [mink.ConfigurationLimit(model), mink.VelocityLimit(model, speeds)]

    def _full(self, q: np.ndarray) -> np.ndarray:
        self._q[:ARM] = q
        return self._q

    def forward(self, q: np.ndarray) -> Pose:
        """Pose of the hand for joints `q` float64 [7] rad."""
        self._configuration.update(self._full(q))
        transform = self._configuration.get_transform_frame_to_world(TCP_FRAME, "site")
        return Pose(transform.translation().copy(), Rotation.from_matrix(transform.rotation().as_matrix()))

    def solve(self, q: np.ndarray, target: Pose, dt: float) -> np.ndarray:
        """Joints float64 [7] rad one step of `dt` s from `q` toward `target`, inside position and velocity limits."""
        self._configuration.update(self._full(q))
        self._hand.set_target(mink.SE3.from_matrix(target.matrix()))
        tasks = [self._hand, self._posture]
        velocity = mink.solve_ik(self._configuration, tasks, dt, "daqp", limits=self._limits)
        return q + velocity[:ARM] * dt
