"""The last gate before the arm: limits of position, velocity, acceleration, jerk, Cartesian speed, workspace, table,
self-collision and other arms.

Ruckig plans the motion of each cycle inside the limits. The motion passes only if the arm can still brake after it
without violating any limit, at every cycle of that braking. Otherwise the arm moves more slowly; failing that, it
brakes on the trajectory that was verified in the previous cycle. So whatever the input, a verified braking trajectory
within all limits always exists. It also keeps clear of other arms while they execute their own plans.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from pydantic import BaseModel, Field
from ruckig import ControlInterface, InputParameter, Result, Ruckig, RuckigError, Synchronization, Trajectory

from molmoact_ros.control.collision import NAMES, CollisionChecker
from molmoact_ros.robots.franka import JOINTS, Limits

CAREFUL = 0.2  # fraction of the speed, when full speed does not pass
HEADROOM = 0.95  # fraction of the Cartesian speed limit to aim at, so that the limit itself rarely stops a motion
CREEP = 0.01  # rad/s allowed for each joint while the hand is slowed down: Ruckig needs some speed both ways
DYNAMICS = ("position", "velocity", "acceleration", "jerk", "cartesian_speed")
_EPS = 1e-6  # relative: rounding, not a limit
_ZERO = [0.0] * JOINTS


class LimitScaling(BaseModel):
    """Fractions of the robot's limits, 0..1; margin: distance to the position limits, rad."""

    speed: float = Field(0.5, gt=0, le=1)
    acceleration: float = Field(0.8, gt=0, le=1)
    jerk: float = Field(0.2, gt=0, le=1)
    margin: float = Field(0.02, ge=0, le=0.2)


@dataclass(frozen=True)
class Motion:
    """One cycle's joints float64 [7]: `q` rad, `dq` rad/s, `ddq` rad/s^2."""

    q: np.ndarray
    dq: np.ndarray
    ddq: np.ndarray

    @staticmethod
    def at_rest(q: np.ndarray) -> Motion:
        """Standing at `q` [7] rad."""
        return Motion(np.array(q, np.float64), np.zeros(JOINTS), np.zeros(JOINTS))


class Limiter:
    """Keeps one arm's commands inside its limits; `counts` is how often each one was active, by name.

    Args:
        limits: joint limits of the robot.
        fractions: which part of them may be used.
        guard: checks workspace and clearances.
        dt: period of the control loop, s.

        limiter = Limiter(FR3, LimitScaling(), guard, dt=0.01)
        limiter.reset(measured)  # joints [7] rad
        motion = limiter.step(Motion.at_rest(target))  # the next cycle toward the target
        motion = limiter.step(None)  # brake
    """

    def __init__(self, limits: Limits, fractions: LimitScaling, guard: CollisionChecker, dt: float) -> None:
        self.counts = dict.fromkeys((*DYNAMICS, *NAMES), 0)
        self.motion = self._before = Motion.at_rest(np.zeros(JOINTS))
        self._limits, self._guard, self._dt = limits, guard, dt
        self._low, self._high = limits.position_min + fractions.margin, limits.position_max - fractions.margin
        self._velocity = fractions.speed * limits.velocity_max
        self._acceleration = fractions.acceleration * limits.acceleration_max
        self._jerk = fractions.jerk * limits.jerk_max
        self._planner, self._trajectory = Ruckig(JOINTS), Trajectory(JOINTS)
        self._forward, self._brake = self._input(), self._input()
        self._brake.control_interface, self._brake.synchronization = ControlInterface.Velocity, Synchronization.No
        self._brake.minimum_duration = None
        self._escape: list[Motion] = []  # the braking trajectory from here, by cycles; empty: at rest
        self._hand_speed = np.inf  # m/s, limit of the Cartesian speed in this cycle
        self._fastest = self._ahead = 0.0  # m/s of the hand while it brakes: from here; after the candidate motion
        self._hand: np.ndarray | None = None  # position of the hand in this motion, m; None: not known yet
        self._next: np.ndarray | None = None  # the same in the candidate motion

    def _input(self) -> InputParameter:
        out = InputParameter(JOINTS)
        out.max_velocity, out.max_acceleration, out.max_jerk = self._velocity, self._acceleration, self._jerk
        out.target_position = out.target_velocity = _ZERO
        out.minimum_duration = self._dt
        return out

    def reset(self, q: np.ndarray) -> None:
        """The arm stands at `q` [7] rad."""
        self.motion = self._before = Motion.at_rest(q)
        self._escape, self._fastest, self._hand = [], 0.0, None

    @property
    def stop(self) -> np.ndarray:
        """The joints float64 [7] rad at which the arm comes to rest if it brakes now."""
        return self._escape[-1].q if self._escape else self.motion.q

    def planned(self, stepped: bool) -> np.ndarray:
        """Joints [k, 7] rad before this cycle, in it, and in the coming ones if the arm brakes; it stays at the last.

        stepped: the limiter has stepped in this cycle already.
        """
        return np.array([m.q for m in (*([self._before] if stepped else []), self.motion, *self._escape)])

    def step(self, wanted: Motion | None, beside: np.ndarray | None = None, hand_speed: float = np.inf) -> Motion:
        """The next cycle's motion toward `wanted`, the desired motion of that cycle; None or not finite: brake.

        beside: planned joints of the other arms, [k, 7 n] rad: before this cycle, in it, and in the coming ones.
        hand_speed: limit of the tool centre point's speed, m/s.
        """
        chosen = None
        if wanted is not None and np.isfinite([wanted.q, wanted.dq, wanted.ddq]).all():
            self._note(wanted)
            self._hand_speed = hand_speed
            limit = self._joint_speeds(wanted)
            chosen = self._toward(wanted, limit, beside) or self._toward(
                Motion.at_rest(wanted.q), CAREFUL * limit, beside
            )
        if chosen is not None:
            self._fastest, self._hand = self._ahead, self._next
        else:
            chosen, self._hand = self._escape or [Motion.at_rest(self.motion.q)], None
        self._before, self.motion, self._escape = self.motion, chosen[0], chosen[1:]
        return self.motion

    def _joint_speeds(self, wanted: Motion) -> np.ndarray:
        """Velocity limits [7] rad/s toward `wanted`: all in proportion where the hand would be too fast."""
        if np.isinf(self._hand_speed):
            return self._velocity
        now = self.motion.q
        eager = np.clip((wanted.q - now) / self._dt, -self._velocity, self._velocity)
        if self._hand is None:
            self._hand = self._guard.hand(now)
        # Over a whole cycle at that speed: by forward kinematics, not linearized.
        hand = np.linalg.norm(self._guard.hand(now + eager * self._dt) - self._hand) / self._dt
        allowed = HEADROOM * self._hand_speed
        if hand <= allowed:
            return self._velocity
        result: np.ndarray = np.maximum(np.abs(eager) * allowed / hand, CREEP)
        return result

    def _toward(self, wanted: Motion, limit: np.ndarray, beside: np.ndarray | None) -> list[Motion] | None:
        """The next cycle toward `wanted` and the braking trajectory after it; None if that does not pass.

        limit: of the joint velocities, [7] rad/s.
        """
        first = self._chase(wanted, self._forward, limit)
        if first is None:
            return None
        behind = self._braking(first)
        return None if behind is None or self._breaks([first, *behind], beside) else [first, *behind]

    def _chase(self, wanted: Motion, plan: InputParameter, limit: np.ndarray) -> Motion | None:
        """The next cycle of the time-optimal trajectory that meets `wanted`, which moves on at its own velocity.

        Ruckig plans in a frame that moves with the target, in which the target stands still.
        """
        now = self.motion
        moving = np.clip(wanted.dq, -0.98 * limit, 0.98 * limit)
        # Ruckig rejects a final acceleration that would overshoot the velocity limit.
        steepest = 0.98 * np.minimum(self._acceleration, np.sqrt(2 * self._jerk * (limit - np.abs(moving))))
        # A joint outside of its range is not driven inside without a command, but it must not move farther out.
        goal = np.clip(wanted.q, np.minimum(self._low, now.q), np.maximum(self._high, now.q))
        plan.max_velocity, plan.min_velocity = limit - moving, -limit - moving
        plan.current_position, plan.current_velocity = now.q - (goal - moving * self._dt), now.dq - moving
        plan.current_acceleration, plan.target_acceleration = now.ddq, np.clip(wanted.ddq, -steepest, steepest)
        if not self._plan(plan):
            return None
        q, dq, ddq = map(np.array, self._trajectory.at_time(self._dt))
        return Motion(goal + q, moving + dq, ddq)

    def _braking(self, motion: Motion) -> list[Motion] | None:
        """The braking trajectory after `motion`: the cycles until the arm stands."""
        plan = self._brake
        plan.current_position, plan.current_velocity, plan.current_acceleration = motion.q, motion.dq, motion.ddq
        if not self._plan(plan):
            return None
        cycles = int(np.ceil(self._trajectory.duration / self._dt - 1e-9))
        out = [Motion(*map(np.array, self._trajectory.at_time(k * self._dt))) for k in range(1, cycles)]
        return [*out, Motion.at_rest(self._trajectory.at_time(self._trajectory.duration)[0])] if cycles else []

    def _plan(self, plan: InputParameter) -> Trajectory | None:
        try:
            result = self._planner.calculate(plan, self._trajectory)
        except RuckigError:  # what Ruckig cannot plan does not pass
            return None
        return self._trajectory if result in (Result.Working, Result.Finished) else None

    def _note(self, wanted: Motion) -> None:
        """Count the limits that keep `wanted` from being reached in this cycle."""
        speed = (wanted.q - self.motion.q) / self._dt
        push = (wanted.dq - self.motion.dq) / self._dt
        self.counts["position"] += bool((wanted.q < self._low).any() or (wanted.q > self._high).any())
        if (np.abs(speed) > self._velocity * (1 + _EPS)).any():
            self.counts["velocity"] += 1
        elif (np.abs(push) > self._acceleration * (1 + _EPS)).any():
            self.counts["acceleration"] += 1
        elif (np.abs(wanted.ddq - self.motion.ddq) > self._jerk * self._dt * (1 + _EPS)).any():
            self.counts["jerk"] += 1

    def _breaks(self, motions: list[Motion], beside: np.ndarray | None) -> bool:
        """Whether `motions`, which follow the present one, violate any limit; counts which."""
        now, more = self.motion, 1 + _EPS
        q, dq, ddq = (np.array([getattr(m, name) for m in motions]) for name in ("q", "dq", "ddq"))
        slowest, fastest = self._limits.velocity_bounds(q)
        # An existing violation must not grow. The rounding tolerance applies to the limit, not to the arm's position:
        # otherwise the rounding of many cycles would add up.
        beyond = (q < np.minimum(self._low - _EPS, now.q)) | (q > np.maximum(self._high + _EPS, now.q))
        fast = (np.abs(dq) > self._velocity * more) | (dq < slowest - _EPS) | (dq > fastest + _EPS)
        jerk = np.abs(np.diff(ddq, axis=0, prepend=now.ddq[None])) > self._jerk * self._dt * more
        broken = {
            "position": beyond.any(), "velocity": fast.any(), "jerk": jerk.any(),
            "acceleration": (np.abs(ddq) > self._acceleration * more).any(),
        }  # fmt: skip
        if not any(broken.values()):
            (here, *breaches), hands = self._breaches(np.vstack([now.q, q]), beside)
            broken = dict(zip(NAMES, np.max(breaches, axis=0) > np.maximum(here, _EPS), strict=True))
            speeds = np.linalg.norm(np.diff(hands, axis=0), axis=1) / self._dt
            # A hand that is too fast because the limit has just been lowered may brake.
            broken["cartesian_speed"] = speeds.max() > max(self._hand_speed, self._fastest) * more
            self._ahead, self._next = float(speeds[1:].max(initial=0.0)), hands[1]
        for name, bites in broken.items():
            self.counts[name] += bool(bites)
        return any(broken.values())

    def _breaches(self, q: np.ndarray, beside: np.ndarray | None) -> tuple[np.ndarray, np.ndarray]:
        """The guard's `survey` of each row of `q` [k, 7] rad, and of the last one for as long as other arms move."""
        if beside is None:
            return self._guard.survey(q)
        cycles = np.arange(max(len(q), len(beside)))
        return self._guard.survey(q[np.minimum(cycles, len(q) - 1)], beside[np.minimum(cycles, len(beside) - 1)])
