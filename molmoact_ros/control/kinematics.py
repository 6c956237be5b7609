"""Forward and differential inverse kinematics of the arm, by mink on its MJCF model."""

from __future__ import annotations

from pathlib import Path

import mink
import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.pose import Pose
from molmoact_ros.robots.franka import JOINTS, SINGLE, Arm
from molmoact_ros.robots.mjcf import arms_spec

LIMIT_MARGIN = 0.03  # rad kept from the position limits


class _JointRange(mink.Limit):
    """Keeps the arm's joints in their range, and keeps one that is outside of it from moving farther out.

    mink's own ConfigurationLimit would drive such a joint back inside at full speed, whatever the target of the hand.
    """

    def __init__(self, low: np.ndarray, high: np.ndarray, nv: int) -> None:
        self._low, self._high = low, high
        identity = np.eye(nv)[: len(low)]
        self._rows = np.vstack([identity, -identity])

    def compute_qp_inequalities(self, configuration: mink.Configuration, dt: float) -> mink.Constraint:
        """The inequality `G dq <= h` of mink's quadratic program."""
        q = configuration.q[: len(self._low)]
        room = np.concatenate([self._high - q, q - self._low])
        return mink.Constraint(G=self._rows, h=np.maximum(room, 0.0))


class Kinematics:
    """Forward kinematics, and differential inverse kinematics that steps from the last desired joints.

    Poses are those of the tool centre point in the arm's base frame, m and rad.

        kinematics = Kinematics(Path("models/fr3/fr3.xml"))
        pose = kinematics.forward(q)  # position [3] m, rotation
        q = kinematics.solve(q, target, dt=0.01)  # one step toward the target
    """

    def __init__(self, robot: Path, arm: Arm = SINGLE, speed: float = 1.0) -> None:
        """Load the model.

        Args:
            robot: the arm's MJCF file. Raises FileNotFoundError when it is missing, ValueError when it is not readable.
            arm: names and limits of the arm.
            speed: fraction of the velocity limits that `solve` may use.
        """
        model = arms_spec(robot, [arm], arm).compile()
        low, high = model.jnt_range[:JOINTS].T + [[LIMIT_MARGIN], [-LIMIT_MARGIN]]
        self._configuration, self._data = mink.Configuration(model), mujoco.MjData(model)
        self._q, self._site = np.zeros(model.nq), model.site(arm.tcp_frame).id
        self._jacobian, self._turn = np.zeros((6, model.nv)), np.zeros(4)
        self._hand = mink.FrameTask(arm.tcp_frame, "site", position_cost=1.0, orientation_cost=0.5, lm_damping=1e-6)
        self._posture = mink.PostureTask(model, cost=1e-3)
        speeds = {joint: speed * float(v) for joint, v in zip(arm.joints, arm.limits.velocity_max, strict=True)}
        self._limits = [_JointRange(low, high, model.nv), mink.VelocityLimit(model, speeds)]

    def _full(self, q: np.ndarray) -> np.ndarray:
        self._q[:JOINTS] = q
        return self._q

    def forward(self, q: np.ndarray) -> Pose:
        """Pose of the hand for joints `q` float64 [7] rad."""
        data = self._data
        data.qpos[:JOINTS] = q
        mujoco.mj_kinematics(self._configuration.model, data)  # all that a pose needs of what mink's update computes
        mujoco.mju_mat2Quat(self._turn, data.site_xmat[self._site])
        return Pose(data.site_xpos[self._site].copy(), Rotation.from_quat(self._turn, scalar_first=True))

    def dexterity(self, q: np.ndarray) -> float:
        """Smallest singular value of the hand's Jacobian (m and rad per rad) at `q` [7] rad; 0 in a singularity."""
        self._configuration.update(self._full(q))
        model, data = self._configuration.model, self._configuration.data
        mujoco.mj_jacSite(model, data, self._jacobian[:3], self._jacobian[3:], self._site)
        arm = self._jacobian[:, :JOINTS]
        return float(np.sqrt(max(0.0, np.linalg.eigvalsh(arm @ arm.T)[0])))

    def solve(self, q: np.ndarray, target: Pose, dt: float, posture: np.ndarray | None = None) -> np.ndarray:
        """Joints float64 [7] rad one step of `dt` s from `q` toward `target`, inside position and velocity limits.

        posture: joints [7] rad that the arm's redundancy (the elbow) tends to in this step; it moves there at full
        speed, so give joints that it can reach in `dt`. None: the elbow moves no more than the hand needs.
        Returns `q` itself where the solver finds no solution (joints outside their limits).
        """
        self._configuration.update(self._full(q))
        turn = mink.SO3(target.rotation.as_quat(scalar_first=True))
        self._hand.set_target(mink.SE3.from_rotation_and_translation(turn, target.position))
        self._posture.set_target(self._full(q if posture is None else posture))
        tasks = [self._hand, self._posture]
        try:
            velocity = mink.solve_ik(self._configuration, tasks, dt, "daqp", limits=self._limits)
        except mink.MinkError:
            return q.copy()
        result: np.ndarray = q + velocity[:JOINTS] * dt
        return result
