"""One arm's part of the controller: from a chunk's or a person's target to the next limited command."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from pydantic import BaseModel, Field
from scipy.spatial.transform import Rotation

from molmoact_ros.control.chunk_player import ChunkPlayer, Mode
from molmoact_ros.control.collision import Guard, Surroundings
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.limiter import Fractions, Limiter, Motion
from molmoact_ros.control.path import Target
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.supervisor import State
from molmoact_ros.control.teleop import Teleop, TeleopConfig, Wish
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import JOINTS, OPENING_MAX, Arm

MOVED = 0.05  # rad: an arm at rest that is farther than this from its command was moved by something else
LEASH_M, LEASH_RAD = 0.05, 0.25  # how far a twist's target may run ahead of the commanded hand
WAIT_FROM, WAIT_AT = 0.05, 0.15  # rad between wanted and commanded joints: path time slows down, and waits
REMEMBERED = 0.6  # s of commands that a measurement is compared with; measurements may be late
SPLIT = 0.5  # gripper values above it open the hand


class ArmConfig(BaseModel):
    """What holds for each arm. Singular values of the hand's Jacobian in m and rad a rad."""

    mode: Mode = "realtime"
    fractions: Fractions = Fractions()
    surroundings: Surroundings = Surroundings()
    teleop: TeleopConfig = TeleopConfig()
    slow_below: float = Field(0.08, ge=0)  # smallest singular value under which the hand is slowed down
    slowest: float = Field(0.1, gt=0, le=1)  # part of the speed that is left in a singularity


class ArmController:
    """Call `step` once a cycle of `dt` s. Times are seconds of the observations' clock."""

    def __init__(self, robot: Path, arm: Arm, config: ArmConfig, dt: float, others: Sequence[Arm] = ()) -> None:
        self.arm, self._config, self._dt = arm, config, dt
        self.kinematics = Kinematics(robot, arm, config.fractions.speed)
        self.guard = Guard(robot, config.surroundings, arm, others)
        self.limiter = Limiter(arm.limits, config.fractions, self.guard, dt)
        self.player, self.teleop = ChunkPlayer(config.mode), Teleop(config.teleop)
        self.measured: np.ndarray | None = None
        self.measured_at, self.measured_opening = -np.inf, OPENING_MAX
        self.opening: float | None = None  # m wanted between the fingers; None: nobody has said
        self.slowed = 0  # cycles slowed down near a singularity
        self._box = config.surroundings.workspace
        self._low, self._high = np.array(self._box.low), np.array(self._box.high)
        self._wanted = Motion.at_rest(np.zeros(JOINTS))
        self._mean = np.zeros(JOINTS)  # speed of the wanted joints over the last cycle, rad/s
        self._told: deque[tuple[float, np.ndarray]] = deque(maxlen=round(REMEMBERED / dt))  # when, and which joints
        self._pose: Pose | None = None  # where a twist has brought the wanted hand

    def update(self, q: np.ndarray, opening: float, now: float) -> None:
        """Take a measurement: joints [7] rad and the gripper's opening in m. One that is not finite is ignored."""
        q = np.asarray(q, np.float64)
        if q.shape != (JOINTS,) or not np.isfinite([*q, opening, now]).all():
            return
        known = self.measured is not None
        self.measured, self.measured_at, self.measured_opening = q, now, float(np.clip(opening, 0, OPENING_MAX))
        if not known:
            self.limiter.reset(q)
            self.settle(now)

    def follow_measured(self) -> None:
        """Begin where the arm really is, when it is at rest and was moved by something else."""
        assert self.measured is not None
        resting = not self.limiter.motion.dq.any()
        if resting and np.abs(self.limiter.motion.q - self.measured).max() > MOVED:
            self.limiter.reset(self.measured)
            self._told.clear()

    def settle(self, now: float) -> None:
        """Forget what was wanted: from now on it is to stand where it comes to rest soonest."""
        stop = self.limiter.stop
        self._stand(stop)
        self.opening = None
        self.player.reset(self.kinematics.forward(stop), stop, now)

    def _stand(self, q: np.ndarray) -> None:
        self._wanted, self._mean, self._pose = Motion.at_rest(q), np.zeros(JOINTS), None

    def gap(self) -> float:
        """Greatest difference between the joints measured and those commanded at that time, rad; 0 before both."""
        if self.measured is None or not self._told:
            return 0.0
        then = next((q for when, q in reversed(self._told) if when <= self.measured_at), self._told[0][1])
        return float(np.abs(self.measured - then).max())

    def pace(self) -> float:
        """Part of the speed, 0..1, at which this arm can follow its path: less behind a lag and near a singularity."""
        lag = float(np.abs(self._wanted.q - self.limiter.motion.q).max())
        return float(np.clip((WAIT_AT - lag) / (WAIT_AT - WAIT_FROM), 0.0, 1.0)) * self._ease()

    def step(self, state: State, now: float, pace: float, beside: np.ndarray | None = None) -> ArmCommand:
        """The command of this cycle. pace: of the slowest arm, so that all keep together on one plan.

        beside: what the other arms have planned, [k, 7 n] rad (see Limiter).
        """
        if state is State.POLICY:
            wanted = self._from_policy(pace)
        elif state is State.TELEOP:
            wanted = self._from_person(self.teleop.wish(now))
        else:
            wanted = None
        motion = self.limiter.step(wanted, beside)
        self.player.commanded(self.kinematics.forward(motion.q), motion.q, now)
        self._told.append((now, motion.q))
        opening = self.measured_opening if self.opening is None else self.opening
        return ArmCommand(motion.q, motion.dq, motion.ddq, opening, self._dt)

    def _from_policy(self, pace: float) -> Motion:
        self.player.advance(self._dt * pace)
        target = self.player.target()
        if target.gripper is not None:
            self.opening = OPENING_MAX if target.gripper > SPLIT else 0.0
        return self._want(target)

    def _ease(self) -> float:
        """Part of the speed that is left near a singularity, 1 far from one."""
        below = self._config.slow_below
        if below <= 0:
            return 1.0
        part = self.kinematics.dexterity(self.limiter.motion.q) / below
        self.slowed += part < 1.0
        return float(np.clip(part, self._config.slowest, 1.0))

    def _want(self, target: Target) -> Motion:
        """The wanted joints of this cycle, with the speed and acceleration at which they change."""
        if target.joints is not None:
            q = target.joints
        else:
            assert target.pose is not None
            q = self.kinematics.solve(self._wanted.q, self._inside(target.pose), self._dt)
        mean = (q - self._wanted.q) / self._dt
        ddq = (mean - self._mean) / self._dt
        self._mean = mean
        self._wanted = Motion(q, mean + ddq * self._dt / 2, ddq)  # `mean` was reached half a cycle before its end
        return self._wanted

    def _inside(self, pose: Pose) -> Pose:
        inside = np.clip(pose.position, self._low, self._high)
        self.limiter.counts["workspace"] += bool(np.any(inside != pose.position))
        return Pose(inside, pose.rotation)

    def _from_person(self, wish: Wish) -> Motion:
        if wish.opening is not None:
            self.opening = wish.opening
        if wish.joints is not None:
            self._stand(wish.joints)
            return self._wanted
        if wish.twist is None:
            self._stand(self._wanted.q)
            return self._wanted
        if self._pose is None:
            self._stand(self.limiter.stop)
            self._pose = self.kinematics.forward(self._wanted.q)
        self._pose = self._inside(self._pulled(self._pose, wish.twist))
        return self._want(Target(pose=self._pose))

    def _pulled(self, pose: Pose, twist: np.ndarray) -> Pose:
        """`pose` moved by a cycle of `twist`; beyond the leash from the commanded hand only back to it."""
        hand = self.kinematics.forward(self.limiter.motion.q)
        step = twist * self._dt * self._ease()
        if self.teleop.in_tool:
            step = np.concatenate([hand.rotation.apply(step[:3]), hand.rotation.apply(step[3:])])
        position, rotation = pose.position + step[:3], Rotation.from_rotvec(step[3:]) * pose.rotation
        away, before = (float(np.linalg.norm(p - hand.position)) for p in (position, pose.position))
        if away > max(LEASH_M, before):
            position = pose.position
        away, before = (float((r * hand.rotation.inv()).magnitude()) for r in (rotation, pose.rotation))
        if away > max(LEASH_RAD, before):
            rotation = pose.rotation
        return Pose(position, rotation)
