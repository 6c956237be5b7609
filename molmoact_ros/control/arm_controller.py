"""One arm's part of the controller: from the target of a chunk or of teleoperation to the next limited command.

Nothing here moves an arm by itself. Without a path to play and without a nonzero teleoperation command the joints stay
where they are, and inverse kinematics is not solved.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Sequence
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, Field
from scipy.spatial.transform import Rotation

from molmoact_ros.control.arm_state import ArmState
from molmoact_ros.control.chunk_player import ChunkMode, ChunkPlayer
from molmoact_ros.control.collision import CollisionChecker, Surroundings
from molmoact_ros.control.homing import HomeConfig, Homing
from molmoact_ros.control.joint_following import JointFollowing
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.limiter import Limiter, LimitScaling, Motion
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.standstill import Standstill
from molmoact_ros.control.supervisor import State
from molmoact_ros.control.teleop import Teleop, TeleopCommand, TeleopConfig
from molmoact_ros.control.trajectory import Target
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import JOINTS, Arm

MAX_TARGET_LEAD_M, MAX_TARGET_LEAD_RAD = 0.05, 0.25  # lead of a twist's target over the commanded hand, at most
WAIT_FROM, WAIT_AT = 0.05, 0.15  # rad of lag, desired to commanded joints: path time slows down, and stops
REMEMBERED = 0.6  # s of commands kept for comparison with measurements, which may arrive late
OPEN_ABOVE, CLOSE_BELOW = 0.6, 0.4  # gripper values that open and close the hand; between them it stays as it is
ELBOW_PER_M, ELBOW_PER_RAD = 30.0, 6.0  # fraction of its way to the anchor that the elbow moves, per hand motion
REACHED_M, REACHED_RAD = 1e-4, 1e-3  # tolerance within which the desired joints have reached a path's end
FINISHING = 0.5  # s allowed for that; after it, an end that is out of reach is given up
STANDING = 0.1  # rad/s below which a measured arm counts as standing: noise of 1e-3 rad within 50 ms is 0.02
BORDER = 0.01  # m outside of the workspace where an arm may still start: it sags, and measurements differ


class ArmConfig(BaseModel):
    """Settings of each arm. Singular values of the hand's Jacobian are in m and rad per rad."""

    model_config = ConfigDict(allow_inf_nan=False)

    mode: ChunkMode = "realtime"
    fractions: LimitScaling = LimitScaling()
    surroundings: Surroundings = Surroundings()
    teleop: TeleopConfig = TeleopConfig()
    home: HomeConfig = HomeConfig()
    cartesian_speed: float = Field(0.5, gt=0, le=2)  # m/s of the hand while a policy moves it
    agreeing: int = Field(1, ge=1, le=20)  # consecutive joint states that must agree before they are accepted
    joint_states: str = ""  # topic that messages to the operator name; the node subscribes to it
    slow_below: float = Field(0.08, ge=0)  # smallest singular value below which the hand slows down
    slowest: float = Field(0.1, gt=0, le=1)  # fraction of the speed that remains in a singularity


class ArmController:
    """Computes one arm's command in each cycle, from its chunk player or from teleoperation.

    Call `step` once per cycle of `dt` s. Times are seconds on the observations' clock, `heard` is on a steady one.

    Args:
        robot: the arm's MJCF file.
        arm: names and limits of the arm.
        config: settings.
        dt: period of the control loop, s.
        others: the other arms of the workcell, which this one keeps clear of.
    """

    def __init__(self, robot: Path, arm: Arm, config: ArmConfig, dt: float, others: Sequence[Arm] = ()) -> None:
        self.arm, self._config, self._dt = arm, config, dt
        self.kinematics = Kinematics(robot, arm, config.fractions.speed)
        self.guard = CollisionChecker(robot, config.surroundings, arm, others)
        self.limiter = Limiter(arm.limits, config.fractions, self.guard, dt)
        self.player, self.teleop = ChunkPlayer(config.mode), Teleop(config.teleop)
        self.joint_state = ArmState(arm, config.agreeing, config.joint_states)
        self.measurement = self.joint_state.measurement
        pace = min(config.home.speed, config.fractions.speed)
        self.homing = Homing(config.home.position, pace * arm.limits.velocity_max, dt)
        self._leader = JointFollowing(pace * arm.limits.velocity_max, dt)
        self.opening: float | None = None  # desired distance between the fingers, m; None: no command yet
        self.slowed = 0  # cycles slowed down near a singularity
        self._has_begun = False  # a measurement was believed
        self._low, self._high = map(np.array, (config.surroundings.workspace.low, config.surroundings.workspace.high))
        self._desired = Motion.at_rest(np.zeros(JOINTS))
        self._mean = np.zeros(JOINTS)  # velocity of the desired joints over the last cycle, rad/s
        self._sent: deque[tuple[float, np.ndarray]] = deque(maxlen=round(REMEMBERED / dt))  # time, joints
        self._pose: Pose | None = None  # desired pose of the hand, integrated from twists
        self._anchor = np.zeros(JOINTS)  # the joints at the last hand-over, which the elbow tends to
        self._target: tuple[np.ndarray, np.ndarray] | None = None  # of the previous cycle: m, and a quaternion
        self._began = np.zeros(3)  # position of the hand at the hand-over, m: the workspace extends to it
        self._finishing = 0.0  # s since the path's end
        self.standstill = Standstill()

    @property
    def measured(self) -> np.ndarray | None:
        """The last accepted joint measurement, float64 [7] rad; None before the first."""
        return self.measurement.joints

    @property
    def measured_at(self) -> float:
        """Stamp of that measurement's oldest joint, s."""
        return self.measurement.stamp

    def update(self, q: np.ndarray, opening: float, stamp: float, heard: float) -> None:
        """Process a measurement: joints [7] rad and gripper opening in m. An implausible one is ignored."""
        self._begin_where(self.joint_state.take_sample(q, opening, stamp, heard))

    def update_by_name(self, names: Sequence[str], positions: Sequence[float], stamp: float, heard: float) -> None:
        """Process a message of joint states: whatever it has of this arm and its hand (ArmState.take_message)."""
        self._begin_where(self.joint_state.take_message(names, positions, stamp, heard))

    def update_hand(self, names: Sequence[str], positions: Sequence[float], stamp: float, heard: float) -> None:
        """Process a message of the topic that its hand has for itself (ArmState.take_hand_message)."""
        self._begin_where(self.joint_state.take_hand_message(names, positions, stamp, heard))

    def _begin_where(self, believed: bool) -> None:
        """The first measurement that is believed is where the commands begin."""
        if believed and not self._has_begun:
            assert self.measured is not None
            self._has_begun = True
            self.limiter.reset(self.measured)
            self.settle(self.measured_at)

    def take_up(self) -> None:
        """Start from the measured joints; an arm that still brakes continues from its last command."""
        assert self.measured is not None
        if not self.limiter.motion.dq.any():
            self.limiter.reset(self.measured)
            self._sent.clear()

    def miss(self, cycles: int, braked: bool) -> None:
        """Account for cycles in which no command was sent: the arm executed its braking trajectory, or stood still.

        A single late cycle does not count as standing: an arm that holds its last position moves in steps anyway.
        """
        if braked:
            for _ in range(cycles):
                self.limiter.step(None)
        elif cycles > 1:
            self.limiter.reset(self.limiter.motion.q)

    def unsettled(self) -> str:
        """Why motion cannot start now, in one line; empty: it can."""
        if not self.limiter.motion.dq.any() and self.measurement.speed > STANDING:
            return "the arm still moves by its joint states; wait until it stands"
        return ""

    def outside(self) -> str:
        """Where the hand is outside of the workspace, in one line; empty: it is inside."""
        assert self.measured is not None
        box, hand = self._config.surroundings.workspace, self.kinematics.forward(self.measured).position
        if box.outside(hand) <= BORDER:
            return ""
        x, y, z = hand
        return (
            f"the hand is outside of its workspace, at x {x:.3f}, y {y:.3f}, z {z:.3f} m; move it inside by "
            f"teleoperation ({box.low} to {box.high}), or change workspace_low and workspace_high"
        )

    def settle(self, now: float) -> None:
        """Drop all targets: from now on the arm holds the position at which it comes to rest soonest."""
        stop = self.limiter.stop
        self._stand(stop)
        self.opening, self._anchor = None, stop
        self.homing.reset()
        self._leader.reset()
        pose = self.kinematics.forward(stop)
        self._began = pose.position
        self.player.reset(pose, stop, now)
        self.standstill.hand_over(now)

    def _stand(self, q: np.ndarray) -> None:
        self._desired, self._mean, self._pose, self._target = Motion.at_rest(q), np.zeros(JOINTS), None, None

    def gap(self) -> float:
        """Tracking error: greatest difference of measured joints to those commanded at that time, rad; 0 at first."""
        if self.measured is None or not self._sent:
            return 0.0
        told = {at: self._commanded(at) for at in set(self.measurement.stamps.tolist())}
        then = [told[at][joint] for joint, at in enumerate(self.measurement.stamps.tolist())]
        return float(np.abs(self.measured - then).max())

    def _commanded(self, at: float) -> np.ndarray:
        """The joints [7] rad that were commanded at a time, s; the oldest that are remembered for one before them."""
        return next((q for when, q in reversed(self._sent) if when <= at), self._sent[0][1])

    def pace(self) -> float:
        """Fraction of the speed, 0..1, at which this arm can follow its path.

        It is less than 1 when the arm lags, near a singularity, and where the path exceeds the hand's speed limit.
        """
        lag = float(np.abs(self._desired.q - self.limiter.motion.q).max())
        return float(np.clip((WAIT_AT - lag) / (WAIT_AT - WAIT_FROM), 0.0, 1.0)) * self._ease() * self._speed_factor()

    def _speed_factor(self) -> float:
        return min(1.0, self._config.cartesian_speed / max(self.player.hand_speed, 1e-9))

    def step(
        self, state: State, now: float, steady: float, pace: float, beside: np.ndarray | None = None
    ) -> ArmCommand:
        """The command of this cycle. pace: of the slowest arm, so that all arms stay synchronized on one plan.

        beside: planned joints of the other arms, [k, 7 n] rad (see Limiter).
        """
        wanted, speed = None, np.inf
        if state is State.POLICY:
            wanted, speed = self._from_policy(pace), self._config.cartesian_speed
        elif state is State.TELEOP:
            wanted, speed = self._from_operator(self.teleop.wish(steady)), self._config.teleop.linear
        motion = self.limiter.step(wanted, beside, speed)
        self.player.commanded(partial(self.kinematics.forward, motion.q), motion.q, now)
        self._sent.append((now, motion.q))
        opening = self.measurement.opening if self.opening is None else self.opening
        assert self.measured is not None
        self.standstill.observe(now, motion.q, self.opening, self.measured, self.measurement.opening)
        return ArmCommand(motion.q, motion.dq, motion.ddq, opening, self._dt)

    def _from_policy(self, pace: float) -> Motion | None:
        if not self.player.loaded:
            return None
        self.player.advance(self._dt * pace)
        target = self.player.target()
        if target.gripper is not None:
            self._grip(target.gripper)
        if self.player.remaining > 0:
            self._finishing = 0.0
        elif target.pose is not None and not self._is_finishing(target.pose):
            return self._rest()
        return self._track(target)

    def _grip(self, value: float) -> None:
        """Open or close by a policy's value, 1 open .. 0 closed, with hysteresis around the middle."""
        if self.opening is None:
            self.opening = self.arm.stroke if value > (OPEN_ABOVE + CLOSE_BELOW) / 2 else 0.0
        elif value > OPEN_ABOVE:
            self.opening = self.arm.stroke
        elif value < CLOSE_BELOW:
            self.opening = 0.0

    def _is_finishing(self, end: Pose) -> bool:
        """At the path's end: whether the desired joints have still to converge to it."""
        self._finishing += self._dt
        if self._finishing > FINISHING:
            return False
        hand, end = self.kinematics.forward(self._desired.q), self._inside(end, self._began)
        away = float(np.linalg.norm(end.position - hand.position))
        return away > REACHED_M or float((end.rotation * hand.rotation.inv()).magnitude()) > REACHED_RAD

    def _rest(self) -> Motion:
        """Hold the desired joints."""
        self._finishing = FINISHING
        self._desired, self._mean = Motion.at_rest(self._desired.q), np.zeros(JOINTS)
        return self._desired

    def _ease(self) -> float:
        """Fraction of the speed that remains near a singularity; 1 far from one."""
        below = self._config.slow_below
        if below <= 0:
            return 1.0
        part = self.kinematics.dexterity(self.limiter.motion.q) / below
        self.slowed += part < 1.0
        return float(np.clip(part, self._config.slowest, 1.0))

    def _track(self, target: Target) -> Motion:
        """The desired joints of this cycle, with the velocity and acceleration at which they change."""
        if target.joints is not None:
            q = target.joints
        else:
            assert target.pose is not None
            pose = self._inside(target.pose, self._began)
            q = self.kinematics.solve(self._desired.q, pose, self._dt, self._posture(pose))
        mean = (q - self._desired.q) / self._dt
        ddq = (mean - self._mean) / self._dt
        self._mean = mean
        self._desired = Motion(q, mean + ddq * self._dt / 2, ddq)  # `mean` was reached half a cycle before its end
        return self._desired

    def _posture(self, pose: Pose) -> np.ndarray:
        """Joints [7] rad a little nearer to the anchor, in proportion to the hand's motion; none while it stands."""
        before, self._target = self._target, (pose.position, pose.rotation.as_quat())
        if before is None:
            return self._desired.q
        moved = _norm(pose.position - before[0])
        turned = 2.0 * min(_norm(self._target[1] - before[1]), _norm(self._target[1] + before[1]))
        part = min(1.0, ELBOW_PER_M * moved + ELBOW_PER_RAD * turned)
        result: np.ndarray = self._desired.q + part * (self._anchor - self._desired.q)
        return result

    def _inside(self, pose: Pose, start: np.ndarray) -> Pose:
        """`pose` clipped to the workspace extended to `start` [3] m, so that clipping never pulls the hand inside."""
        inside = np.clip(pose.position, np.minimum(self._low, start), np.maximum(self._high, start))
        self.limiter.counts["workspace"] += bool(np.any(inside != pose.position))
        return Pose(inside, pose.rotation)

    def _from_operator(self, wish: TeleopCommand) -> Motion | None:
        if wish.opening is not None:
            self.opening = min(wish.opening, self.arm.stroke)
        if wish.home:
            self._leader.reset()
            self._stand(self.limiter.stop)
            self._desired = self.homing.step(self.limiter.motion.q, self.limiter.stop)
            return self._desired
        self.homing.reset()
        if not wish.moves:
            self._leader.reset()
            self._stand(self.limiter.stop)
            return None
        if wish.joints is not None:
            self._stand(self.limiter.stop)
            self._desired = self._leader.step(wish.joints, self.limiter.motion.q, self.limiter.stop)
            return self._desired
        self._leader.reset()
        assert wish.twist is not None
        if self._pose is None:
            self._stand(self.limiter.stop)
            self._pose = self.kinematics.forward(self._desired.q)
            self._posture(self._pose)
        before = self._pose
        self._pose = self._inside(self._pulled(before, wish.twist), before.position)
        self._began = self._pose.position
        return self._track(Target(pose=self._pose))

    def _pulled(self, pose: Pose, twist: np.ndarray) -> Pose:
        """`pose` moved by one cycle of `twist`. Beyond the maximum lead over the commanded hand it only moves back."""
        hand = self.kinematics.forward(self.limiter.motion.q)
        step = twist * self._dt * self._ease()
        if self.teleop.in_tool:
            step = np.concatenate([hand.rotation.apply(step[:3]), hand.rotation.apply(step[3:])])
        position, rotation = pose.position + step[:3], Rotation.from_rotvec(step[3:]) * pose.rotation
        away, before = (float(np.linalg.norm(p - hand.position)) for p in (position, pose.position))
        if away > max(MAX_TARGET_LEAD_M, before):
            position = pose.position
        away, before = (float((r * hand.rotation.inv()).magnitude()) for r in (rotation, pose.rotation))
        if away > max(MAX_TARGET_LEAD_RAD, before):
            rotation = pose.rotation
        return Pose(position, rotation)


def _norm(vector: np.ndarray) -> float:
    return math.sqrt(float(vector @ vector))
