"""Interpolates commands every few milliseconds to a position every millisecond, within what the FR3 accepts.

Commands are executed with a delay, so that a late one is still in time: each is reached two periods after its arrival.
A quintic polynomial connects the positions, velocities and accelerations of two commands. Where it would violate a
limit (a gap, a jump), Ruckig plans the time-optimal trajectory that does not. Where no command follows, Ruckig plans
the braking trajectory.
"""

from __future__ import annotations

from collections import deque
from itertools import chain
from typing import Final, NamedTuple, Protocol

import numpy as np
import ruckig

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3

CYCLE: Final = 1e-3
"""s; the FCI's rate is 1 kHz (FCI documentation, "Network requirements")."""
PERIODS: Final = (0.002, 0.1)
"""s; shortest and longest period between commands."""
LEAD: Final = 2.0
"""Periods from a command's arrival until it is reached: one to move, one of slack for a late successor."""
LEAD_BOUNDS: Final = (0.25, 6.0)
"""Outside of these bounds the timing of commands is lost, and is synchronized anew."""
GAP: Final = 0.1
"""rad that a command may be from the arm, beyond what its joints can travel until it is due."""
STEP: Final = 0.02
"""rad that it may be from the last command, beyond what its joints can travel in a period: an arm that had to brake in
between is farther from where its commands continue."""
SILENCE: Final = 1.0
"""s after which a command does not continue the stream, but must start where the arm is."""
QUINTIC: Final = 0.9, 0.5
"""Fractions of the FR3's acceleration and jerk limits up to which a polynomial is used."""
PLANNED: Final = 0.7, 0.2
"""Fractions of these limits that Ruckig plans with. While it is unknown whether the robot received the last packet in
time, its position is uncertain by jerk * CYCLE^3, which can cost four times the jerk, and three times jerk * CYCLE of
acceleration."""
ROUNDING: Final = 1e-6
"""rad/s; at a joint limit that allows no velocity at all, rounding must not make a standing joint seem to move."""
AHEAD: Final = (0.02, 0.05, 0.1, 0.2, 0.4)
"""s by which the meeting with a moving command is postponed, as far as needed."""
FOLLOWED: Final = 0.02
"""s after a command is due for which the trajectory to a later meeting is executed without a further command."""
SAMPLES: Final = np.linspace(0.0, 1.0, 17)
"""Times at which a polynomial is checked, as fractions of its duration."""


class RefusedCommand(ValueError):
    """A command that is not executed. The message gives the reason in one line."""


class _Target(NamedTuple):
    position: np.ndarray
    velocity: np.ndarray
    acceleration: np.ndarray
    due: float  # s of the interpolator's own time


class _Segment(Protocol):
    def at_time(self, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]: ...


class _Quintic:
    """The polynomial from one state to another in `duration` s."""

    def __init__(self, q: np.ndarray, v: np.ndarray, a: np.ndarray, target: _Target, duration: float) -> None:
        t = duration
        d = target.position - (q + v * t + a * t**2 / 2)
        e = (target.velocity - (v + a * t)) * t
        f = (target.acceleration - a) * t**2
        c3, c4, c5 = 10 * d - 4 * e + f / 2, -15 * d + 7 * e - f, 6 * d - 3 * e + f / 2
        self._c = np.stack([q, v, a / 2, c3 / t**3, c4 / t**4, c5 / t**5], axis=1)
        self._duration = duration

    def at_time(self, time: float) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        t = time
        return (
            self._c @ (1.0, t, t**2, t**3, t**4, t**5),
            self._c @ (0.0, 1.0, 2 * t, 3 * t**2, 4 * t**3, 5 * t**4),
            self._c @ (0.0, 0.0, 2.0, 6 * t, 12 * t**2, 20 * t**3),
        )

    def fits(self) -> bool:
        """Whether it stays within the limits."""
        t, c, zero = SAMPLES * self._duration, self._c, np.zeros_like(SAMPLES)
        position = c @ np.stack([zero + 1, t, t**2, t**3, t**4, t**5])
        velocity = c @ np.stack([zero, zero + 1, 2 * t, 3 * t**2, 4 * t**3, 5 * t**4])
        acceleration = c @ np.stack([zero, zero, zero + 2, 6 * t, 12 * t**2, 20 * t**3])
        jerk = c @ np.stack([zero, zero, zero, zero + 6, 24 * t, 60 * t**2])
        return (
            bool(np.all(np.abs(acceleration).max(axis=1) <= QUINTIC[0] * FR3.acceleration_max))
            and bool(np.all(np.abs(jerk).max(axis=1) <= QUINTIC[1] * FR3.jerk_max))
            and _inside(position.min(axis=1), position.max(axis=1), velocity.min(axis=1), velocity.max(axis=1))
        )


def _inside(lowest: np.ndarray, highest: np.ndarray, slowest: np.ndarray, fastest: np.ndarray) -> bool:
    """Whether all positions and velocities between these bounds are within limits, float64 [7] each."""
    down, up = FR3.velocity_bounds(lowest)[0], FR3.velocity_bounds(highest)[1]
    ends = np.all(lowest >= FR3.position_min) and np.all(highest <= FR3.position_max)
    return bool(ends and np.all(slowest >= down - ROUNDING) and np.all(fastest <= up + ROUNDING))


def checked(command: ArmCommand) -> ArmCommand:
    """The command as float64 [7] arrays. Raises RefusedCommand if an FR3 could not be in that state."""
    arrays = [np.asarray(x, np.float64) for x in (command.position, command.velocity, command.acceleration)]
    if any(x.shape != (7,) for x in arrays):
        raise RefusedCommand(
            f"a command has 7 positions, velocities and accelerations, not {[x.shape for x in arrays]}"
        )
    if not np.isfinite([*np.concatenate(arrays), command.opening, command.period]).all():
        raise RefusedCommand("a command holds a number that is not finite")
    if not PERIODS[0] <= command.period <= PERIODS[1]:
        raise RefusedCommand(f"a command's period is {command.period:g} s; it must be in {PERIODS[0]}..{PERIODS[1]}")
    q, v, a = arrays
    for what, bad in (
        ("position", (q < FR3.position_min) | (q > FR3.position_max)),
        ("velocity at this position", _too_fast(q, v, a)),
        ("way to a stand", _stand(q, v, a) != np.clip(_stand(q, v, a), FR3.position_min, FR3.position_max)),
        ("acceleration", np.abs(a) > FR3.acceleration_max),
    ):
        if bad.any():
            raise RefusedCommand(f"joint {int(np.argmax(bad)) + 1}'s {what} is outside of the FR3's limits")
    return ArmCommand(q, v, a, command.opening, command.period)


def _too_fast(q: np.ndarray, v: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Which joints would exceed their velocity limits if they started to brake in this state; bool [7]."""
    hardest, jerk = PLANNED[0] * FR3.acceleration_max, PLANNED[1] * FR3.jerk_max
    way = np.sign(v)
    outward = np.maximum(a * way, 0.0)
    fastest = np.abs(v) + outward**2 / (2 * jerk)  # the acceleration must fall to zero first
    low, high = FR3.velocity_bounds(q + v * (hardest + outward) / jerk)  # while the braking builds up
    result: np.ndarray = fastest > np.where(way > 0, high, -low) + ROUNDING
    return result


def _stand(q: np.ndarray, v: np.ndarray, a: np.ndarray) -> np.ndarray:
    """Where the joints would come to rest if they started to brake in this state, or before it; [7] rad."""
    hardest, jerk = PLANNED[0] * FR3.acceleration_max, PLANNED[1] * FR3.jerk_max
    outward = np.maximum(a * np.sign(v), 0.0)
    result: np.ndarray = q + v * np.abs(v) / (2 * hardest) + v * (hardest + outward) / jerk
    return result


def _moved_on(target: _Target, seconds: float) -> _Target:
    """The target extrapolated at its velocity by so many seconds."""
    return _Target(target.position + target.velocity * seconds, target.velocity, np.zeros(7), target.due + seconds)


class Interpolator:
    """The commanded state of one arm: position, velocity, acceleration, float64 [7] in rad and s.

    Time is counted in cycles of the robot, never read from a clock.
    """

    def __init__(self, position: np.ndarray) -> None:
        """The arm stands at `position`, float64 [7] rad."""
        self.position = np.array(position, np.float64)
        self.velocity, self.acceleration = np.zeros(7), np.zeros(7)
        self._now = self._start = self._end = 0.0
        self._segment: _Segment | None = None  # None: standing
        self._late, self._braking = False, False  # whether the segment is late, or brakes
        self._queue: deque[_Target] = deque()
        self._target: _Target | None = None  # end of the segment, unless it brakes
        self._received, self._received_at = self.position, -np.inf  # the last command's position, and its arrival
        self._due, self._rate = -np.inf, 1.0  # of the last command: when it is due; playback rate
        self._ruckig, self._plan = ruckig.Ruckig(7), ruckig.InputParameter(7)
        self._plan.max_jerk = (PLANNED[1] * FR3.jerk_max).tolist()

    @property
    def resting(self) -> bool:
        """Whether the arm stands and no command is queued."""
        return self._segment is None and not self._queue

    @property
    def braking(self) -> bool:
        """Whether the arm brakes because no command followed."""
        return self._braking

    def take_command(self, command: ArmCommand) -> None:
        """Queue a command. Raises RefusedCommand, and changes nothing, if it is refused."""
        command = checked(command)
        due, rate = self._schedule(command.period)
        gap = np.abs(command.position - self.position) - FR3.velocity_max * (due - self._now)
        step = np.abs(command.position - self._received) - FR3.velocity_max * command.period
        goes_on = self._now - self._received_at < SILENCE and step.max() < STEP
        if gap.max() > GAP and not goes_on:
            joint = int(np.argmax(gap)) + 1
            raise RefusedCommand(f"joint {joint} would have to jump {gap.max():.3f} rad; begin where the arm is")
        self._due, self._rate = due, rate
        self._received, self._received_at = command.position, self._now
        while self._queue and self._queue[-1].due > due - CYCLE:
            self._queue.pop()
        self._queue.append(self._played(command, due, rate))
        if self._braking or (self._late and due < self._end):
            self._begin()

    def _played(self, command: ArmCommand, due: float, rate: float) -> _Target:
        """A command scaled to the playback `rate`; near the limits it is not sped up."""
        q, v, a = command.position, command.velocity, command.acceleration
        if rate > 1.0 and _too_fast(q, v * rate, a * rate**2).any():
            rate = 1.0
        return _Target(q, v * rate, a * rate**2, due)

    def _schedule(self, period: float) -> tuple[float, float]:
        """When a command that arrives now is due, and the playback rate. Averages out the jitter of arrivals."""
        lead = (self._due + period / self._rate - self._now) / period
        if not LEAD_BOUNDS[0] <= lead <= LEAD_BOUNDS[1]:
            return self._now + LEAD * period, 1.0
        # A second-order loop with damping 0.7: the clocks of sender and robot differ, and single arrivals jitter.
        wanted = 1.0 + 0.05 * (lead - LEAD)
        rate = self._rate + 0.1 * (wanted - self._rate)
        return self._due + period / rate, rate

    def step(self) -> np.ndarray:
        """The position for the next cycle, float64 [7] rad."""
        if self._end - self._now < CYCLE and (self._segment is not None or self._queue):
            self._begin()
        self._now += CYCLE
        if self._segment is not None:
            state = self._segment.at_time(min(self._now, self._end) - self._start)
            self.position, self.velocity, self.acceleration = map(np.asarray, state)
            if self._braking and self._now >= self._end:
                self._stand()
        return self.position

    def correct(self, position: np.ndarray, velocity: np.ndarray, acceleration: np.ndarray, cycles: int) -> None:
        """Packets were lost: continue from the state that the robot reports, after `cycles` further cycles.

        position, velocity, acceleration: its q_d, dq_d and ddq_d, float64 [7]; through lost packets the robot continues
        with the last acceleration (libfranka's documentation, "Packet handling"). A return to the old plan would be a
        jump in acceleration, so everything is planned anew from there.
        """
        self._now += cycles * CYCLE
        # The robot's velocity is a backward difference, so it is that of half a cycle ago.
        self.position, self.velocity = position.copy(), velocity + acceleration * CYCLE / 2
        self.acceleration = acceleration.copy()
        if self._segment is None and not self._queue and np.abs(self.velocity).max() < 1e-6:
            return
        if self._target is not None and self._target.due - self._now > CYCLE:
            self._queue.appendleft(self._target)
        self._begin()

    def _begin(self) -> None:
        """Plan from the present state: to the next command, or else to rest."""
        while len(self._queue) > 1 and self._queue[0].due - self._now < 2 * CYCLE:
            self._queue.popleft()
        self._start, self._braking, self._late, self._target = self._now, False, False, None
        for number, target in enumerate(self._queue):  # skips one that can no longer be reached in time
            duration = max(target.due - self._now, 2 * CYCLE)
            quintic = _Quintic(self.position, self.velocity, self.acceleration, target, duration)
            if quintic.fits():
                self._segment, self._target, self._end = quintic, target, self._now + duration
                for _ in range(number + 1):
                    self._queue.popleft()
                return
        if self._queue and self._catch_up(self._queue.pop()):
            return
        self._brake()

    def _catch_up(self, target: _Target) -> bool:
        """Meet the newest command, or its extrapolation, as early as it can be reached in time.

        An arm behind a moving command could meet it at once only with a run-up in the opposite direction. False if no
        trajectory stays within the limits.
        """
        self._queue.clear()
        quickest = self._way_to(target)
        later = ((ahead, self._way_to(_moved_on(target, ahead))) for ahead in AHEAD)
        for ahead, trajectory in chain([(0.0, quickest)], later):
            if trajectory is not None and trajectory.duration < target.due + ahead - self._now + CYCLE:
                end = min(self._now + trajectory.duration, target.due + FOLLOWED)
                break
        else:
            if quickest is None:
                return False
            trajectory, end = quickest, self._now + quickest.duration
        self._segment, self._target, self._late, self._end = trajectory, target, True, end
        return True

    def _way_to(self, target: _Target) -> ruckig.Trajectory | None:
        """The time-optimal trajectory to a state, not before it is due; None if it would leave the limits."""
        plan = self._plan
        plan.control_interface = ruckig.ControlInterface.Position
        plan.synchronization = ruckig.Synchronization.Time
        plan.target_position = target.position.tolist()
        plan.minimum_duration = max(target.due - self._now, CYCLE)
        hardest = PLANNED[0] * FR3.acceleration_max
        plan.target_acceleration = np.clip(target.acceleration, -hardest, hardest).tolist()
        low, high = np.minimum(self.position, target.position), np.maximum(self.position, target.position)
        for _ in range(3):
            # Velocity limits are those at the ends of the motion; a motion that turns out longer is planned again.
            # Ruckig needs some velocity both ways; away from where a limit is zero there is always one.
            slowest, fastest = (
                np.minimum(FR3.velocity_bounds(low)[0], -0.01),
                np.maximum(FR3.velocity_bounds(high)[1], 0.01),
            )
            plan.target_velocity = np.clip(target.velocity, slowest, fastest).tolist()
            trajectory = self._calculate(slowest, fastest)
            if trajectory is None:
                return None
            lowest, highest = np.array([(e.min, e.max) for e in trajectory.position_extrema]).T
            if np.all(lowest > low - 1e-6) and np.all(highest < high + 1e-6):
                break
            low, high = np.minimum(low, lowest), np.maximum(high, highest)
        else:
            return None
        if np.any(low < FR3.position_min) or np.any(high > FR3.position_max):
            return None
        return trajectory

    def _brake(self) -> None:
        """Plan a braking trajectory within the limits."""
        plan = self._plan
        plan.control_interface = ruckig.ControlInterface.Velocity
        plan.synchronization = ruckig.Synchronization.No  # a joint that waits for others might leave its limits
        plan.target_velocity = plan.target_acceleration = [0.0] * 7
        plan.minimum_duration = None
        self._braking = True
        trajectory = self._calculate(-FR3.velocity_max, FR3.velocity_max)
        assert trajectory is not None, "a stand can be reached from every state"
        self._segment, self._end = trajectory, self._now + trajectory.duration

    def _calculate(self, slowest: np.ndarray, fastest: np.ndarray) -> ruckig.Trajectory | None:
        plan, trajectory = self._plan, ruckig.Trajectory(7)
        plan.current_position, plan.current_velocity = self.position.tolist(), self.velocity.tolist()
        plan.current_acceleration = self.acceleration.tolist()
        plan.max_acceleration = (PLANNED[0] * FR3.acceleration_max).tolist()
        plan.min_velocity, plan.max_velocity = slowest.tolist(), fastest.tolist()
        try:
            result = self._ruckig.calculate(plan, trajectory)
        except ruckig.RuckigError:
            return None
        return trajectory if result >= ruckig.Result.Working else None

    def _stand(self) -> None:
        self.velocity, self.acceleration = np.zeros(7), np.zeros(7)
        self._segment, self._braking, self._end = None, False, self._now
