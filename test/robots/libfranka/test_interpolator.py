"""Whatever is commanded, and whatever is lost on the way, the robot sees positions that it accepts."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import dataclass, field, replace
from itertools import islice
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q
from molmoact_ros.robots.libfranka.interpolator import CYCLE, Interpolator, RefusedCommand, _inside, _Target

from .motion import policy_motion


@dataclass
class Robot:
    """What the FCI does with positions: differences them, checks them, and goes on by itself through lost packets."""

    q: np.ndarray
    dq: np.ndarray = field(default_factory=lambda: np.zeros(7))
    ddq: np.ndarray = field(default_factory=lambda: np.zeros(7))
    lost: bool = False

    def follow(self, position: np.ndarray) -> None:
        velocity = (position - self.q) / CYCLE
        acceleration = (velocity - self.dq) / CYCLE
        jerk = (acceleration - self.ddq) / CYCLE
        low, high = FR3.velocity_bounds(self.q)
        assert np.all(position >= FR3.position_min) and np.all(position <= FR3.position_max)
        # One that went on by itself may have become too fast by itself.
        assert self.lost or (np.all(velocity >= low) and np.all(velocity <= high))
        assert np.all(np.abs(acceleration) <= FR3.acceleration_max), np.abs(acceleration).max()
        assert np.all(np.abs(jerk) <= FR3.jerk_max), np.abs(jerk).max()
        self.q, self.dq, self.ddq = position.copy(), velocity, acceleration

    def lose(self, packets: int) -> None:
        self.lost = True
        for _ in range(packets):
            self.dq = self.dq + self.ddq * CYCLE
            self.q = self.q + self.dq * CYCLE

    def state(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """As the network carries it."""
        return tuple(x.astype(np.float32).astype(np.float64) for x in (self.q, self.dq, self.ddq))  # type: ignore[return-value]


def stream(seed: int, seconds: float, period: float, speed: float = 0.5, acceleration: float = 0.5) -> list[ArmCommand]:
    return list(islice(policy_motion(seed, HOME_Q, period, speed, acceleration), round(seconds / period)))


def test_the_path_is_the_commanded_one() -> None:
    period = 0.01
    commands = stream(1, 4.0, period)
    arm, robot, path = Interpolator(HOME_Q), Robot(HOME_Q), []
    for command in commands:
        arm.take_command(command)
        for _ in range(10):
            robot.follow(arm.step())
            path.append(robot.q)
    played = np.array(path)[19::10]  # each is reached two periods after it came
    wanted = np.array([c.position for c in commands])[: len(played)]
    assert np.abs(played - wanted).max() < 2e-4


@given(
    seed=st.integers(0, 2**32 - 1),
    period=st.sampled_from([0.005, 0.01, 0.02]),
    speed=st.floats(0.1, 1.0),
    jitter=st.floats(0.0, 1.5),
    lost=st.floats(0.0, 0.3),
    silent=st.floats(0.0, 0.05),
    clock=st.floats(0.9, 1.1),
)
@settings(max_examples=40, deadline=None, derandomize=True)
def test_no_limit_is_broken(
    seed: int, period: float, speed: float, jitter: float, lost: float, silent: float, clock: float
) -> None:
    """Late, bursting, missing and mad commands, clocks that differ, lost packets up to 19 in a row."""
    rng = np.random.default_rng(seed)
    commands = stream(seed, 2.0, period, speed)
    arrival = np.arange(len(commands)) * period * clock + rng.exponential(jitter * period, len(commands))
    arrival = np.maximum.accumulate(arrival)
    arm, robot, next_one, cycle = Interpolator(HOME_Q), Robot(HOME_Q), 0, 0
    while next_one < len(commands) or not arm.resting:
        while next_one < len(commands) and arrival[next_one] <= cycle * CYCLE:
            command = commands[next_one]
            next_one += 1 + int(rng.integers(1, 20) if rng.random() < silent else 0)
            if rng.random() < 0.02:
                mad: Any = {rng.choice(["position", "velocity", "acceleration"]): rng.normal(0, 3, 7)}
                command = replace(command, **mad)
            with suppress(RefusedCommand):
                arm.take_command(command)
        position = arm.step()
        cycle += 1
        if rng.random() < lost * 0.2:
            packets = int(rng.integers(1, 20 if rng.random() < 0.1 else 5))
            robot.lose(packets)
            cycle += packets - 1
            arm.correct(*robot.state(), cycles=packets - 1)
        else:
            robot.follow(position)
        assert cycle < 20_000, "it comes to rest"
    assert np.abs(robot.dq).max() < 1e-3


@given(seed=st.integers(0, 2**32 - 1), packets=st.integers(1, 8))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_lost_packets_do_not_lead_away_from_the_path(seed: int, packets: int) -> None:
    """Commands accelerate harder than Ruckig plans here, as the controller's may: no run-up away from them is taken."""
    commands, rng = stream(seed, 3.0, 0.01, acceleration=0.8), np.random.default_rng(seed)
    arm, robot = Interpolator(HOME_Q), Robot(HOME_Q)
    for number, command in enumerate(commands):
        arm.take_command(command)
        for _ in range(10):
            position = arm.step()
            if rng.random() < 0.01:
                robot.lose(packets)
                arm.correct(*robot.state(), cycles=packets - 1)
            else:
                robot.follow(position)
        past = commands[max(0, number - 1)]  # commands are played late
        assert np.abs(arm.position - past.position).max() < 0.15


@given(seed=st.integers(0, 2**32 - 1), cut=st.floats(0.2, 1.9))
@settings(max_examples=20, deadline=None, derandomize=True)
def test_silence_brakes_and_holds(seed: int, cut: float) -> None:
    period = 0.02
    commands = stream(seed, cut, period, speed=0.9)
    arm, robot = Interpolator(HOME_Q), Robot(HOME_Q)
    for command in commands:
        arm.take_command(command)
        for _ in range(20):
            robot.follow(arm.step())
    speed = np.abs(robot.dq).max()
    stopped = 0
    while not arm.resting:
        robot.follow(arm.step())
        stopped += 1
    # The rest of what came, then v/a and the time to build up and let go of the acceleration.
    assert stopped * CYCLE <= period + (speed + 0.2) / 8.0 + 2 * 8.0 / 2000.0 + 0.05
    held = robot.q
    for _ in range(100):
        robot.follow(arm.step())
    assert np.array_equal(robot.q, held)


def test_a_stream_goes_on_after_the_arm_had_to_brake() -> None:
    """Braked from full speed, a joint stands further ahead than a command may jump."""
    period, wrist = 0.02, np.eye(7)[6]
    speed = np.concatenate([np.linspace(0, 2.5, 40), np.full(20, 2.5), np.linspace(2.5, 0, 40), np.zeros(40)])
    way = np.cumsum(speed) * period
    fast = [
        ArmCommand(HOME_Q + wrist * (s - 1.5), wrist * v, wrist * a, 0.08, period)
        for s, v, a in zip(way, speed, np.gradient(speed, period), strict=True)
    ]
    arm, robot = Interpolator(fast[0].position), Robot(fast[0].position)
    for command in fast[:50]:
        arm.take_command(command)
        for _ in range(20):
            robot.follow(arm.step())
    while not arm.resting:
        robot.follow(arm.step())
    assert robot.q[6] - fast[49].position[6] > 0.2
    for command in fast[50:]:
        arm.take_command(command)
        for _ in range(20):
            robot.follow(arm.step())
    while not arm.resting:
        robot.follow(arm.step())
    assert robot.q == pytest.approx(fast[-1].position, abs=1e-3), "nothing was refused, and it has caught up"


BAD: dict[str, Any] = {
    "finite": {"position": np.full(7, np.nan)},
    "7 positions": {"velocity": np.zeros(6)},
    "joint 2's position": {"position": HOME_Q + np.eye(7)[1] * 4},
    "joint 3's velocity": {"velocity": np.eye(7)[2] * 2.7},
    "joint 1's acceleration": {"acceleration": np.eye(7)[0] * 11},
    "joint 5's acceleration": {"acceleration": np.eye(7)[4] * -10.5},
    "joint 4's position": {"position": HOME_Q - np.eye(7)[3]},
    "joint 6's velocity": {"velocity": np.eye(7)[5] * -4.3},
    "joint 1's velocity": {"position": np.array([-2.7, *HOME_Q[1:]]), "velocity": np.eye(7)[0] * -0.6},
    "joint 7's way to a stand": {"position": np.array([*HOME_Q[:6], 2.66]), "velocity": np.eye(7)[6] * 3.0},
    "joint 5's way to a stand": {"position": HOME_Q - np.eye(7)[4] * 2.45, "velocity": np.eye(7)[4] * -3.0},
    "jump": {"position": HOME_Q + np.eye(7)[0] * 0.3},
    "period": {"period": 0.5},
}


@pytest.mark.parametrize("reason", BAD)
def test_what_is_unsafe_is_refused_and_changes_nothing(reason: str) -> None:
    arm = Interpolator(HOME_Q)
    good = ArmCommand(HOME_Q, np.zeros(7), np.zeros(7), 0.08, 0.02)
    with pytest.raises(RefusedCommand, match=reason):
        arm.take_command(replace(good, **BAD[reason]))
    assert arm.resting and np.array_equal(arm.step(), HOME_Q)


def test_no_speed_toward_a_joints_end() -> None:
    at_end = HOME_Q.copy()
    at_end[0] = FR3.position_max[0] - 0.005
    arm = Interpolator(at_end)
    arm.take_command(ArmCommand(at_end, np.zeros(7), np.zeros(7), 0.08, 0.02))
    with pytest.raises(RefusedCommand, match="joint 1's velocity"):
        arm.take_command(ArmCommand(at_end, np.eye(7)[0] * 0.1, np.zeros(7), 0.08, 0.02))


STANDING = ArmCommand(HOME_Q, np.zeros(7), np.zeros(7), 0.08, 0.02)


@pytest.mark.parametrize(("seconds", "goes_on"), [(0.9, True), (1.1, False)])
def test_a_stream_goes_on_only_after_a_short_silence(seconds: float, goes_on: bool) -> None:
    """Within a second it may go on from its last command, though the arm is elsewhere; later it begins at the arm."""
    arm, elsewhere = Interpolator(HOME_Q), HOME_Q + np.eye(7)[6] * 0.5
    arm.take_command(STANDING)
    arm.correct(elsewhere, np.zeros(7), np.zeros(7), cycles=0)
    while not arm.resting:
        arm.step()
    arm.correct(elsewhere, np.zeros(7), np.zeros(7), cycles=round(seconds / CYCLE) - round(arm._now / CYCLE))
    if goes_on:
        arm.take_command(STANDING)
    else:
        with pytest.raises(RefusedCommand, match="joint 7 would have to jump"):
            arm.take_command(STANDING)


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_a_lost_packets_velocity_is_that_of_half_a_cycle_ago(way: float) -> None:
    """The robot differences positions: what it says to be its velocity is half a cycle old."""
    robot = Robot(HOME_Q)
    for cycle in range(40):  # 2.5 rad/s^2, built up and kept
        robot.ddq = np.eye(7)[0] * way * 2.5 * min(1.0, cycle / 10)
        robot.lose(1)
    arm = Interpolator(HOME_Q)
    arm.take_command(ArmCommand(HOME_Q, np.zeros(7), np.zeros(7), 0.08, 0.02))
    arm.correct(robot.q, robot.dq, robot.ddq, cycles=40)
    assert arm.velocity == pytest.approx(robot.dq + robot.ddq * CYCLE / 2, abs=1e-12)
    assert arm.position == pytest.approx(robot.q) and arm.acceleration == pytest.approx(robot.ddq)


@pytest.mark.parametrize("way", [1.0, -1.0])
def test_no_command_is_played_faster_than_its_joint_may_be(way: float) -> None:
    """A sender whose clock is fast is played faster, but near the limits of speed."""
    arm, wrist = Interpolator(HOME_Q), np.eye(7)[6] * way
    slow, fast = (replace(STANDING, velocity=wrist * speed, acceleration=wrist) for speed in (2.0, 5.1))
    played = arm._played(slow, 0.04, 1.1)
    assert played.velocity == pytest.approx(wrist * 2.0 * 1.1) and played.acceleration == pytest.approx(wrist * 1.21)
    played = arm._played(fast, 0.04, 1.1)
    assert played.velocity == pytest.approx(wrist * 5.1) and played.acceleration == pytest.approx(wrist)
    assert arm._played(fast, 0.04, 0.9).velocity == pytest.approx(wrist * 5.1 * 0.9)


@pytest.mark.parametrize("joint", range(7))
@pytest.mark.parametrize("lower", [True, False], ids=["lower", "upper"])
def test_the_ends_of_the_range_hold_through_gaps_and_lost_packets(joint: int, lower: bool) -> None:
    """To 0.02 rad before an end and back, as fast as the law lets it; `Robot.follow` checks every cycle."""
    end = FR3.position_min[joint] + 0.02 if lower else FR3.position_max[joint] - 0.02
    inward, rng, period = (1.0 if lower else -1.0), np.random.default_rng(joint), 0.01
    start, axis = HOME_Q.copy(), np.eye(7)[joint]
    start[joint] = end + inward * 0.6
    arm, robot, refused = Interpolator(start), Robot(start), 0
    for number in range(300):
        phase = 2 * np.pi * number * period / 1.5
        way = 0.3 * (1 - np.cos(phase))
        rate, bend = 0.3 * 2 * np.pi / 1.5, 2 * np.pi / 1.5
        if rng.random() > 0.03:  # else it is lost
            try:
                arm.take_command(ArmCommand(start - axis * inward * way, -axis * inward * rate * np.sin(phase),
                                    -axis * inward * rate * bend * np.cos(phase), 0.08, period))  # fmt: skip
            except RefusedCommand:
                refused += 1
        for _ in range(10):
            position = arm.step()
            if rng.random() < 0.01:
                packets = int(rng.integers(1, 6))
                robot.lose(packets)
                arm.correct(*robot.state(), cycles=packets - 1)
            else:
                robot.follow(position)
    while not arm.resting:
        robot.follow(arm.step())
    assert refused < 250 and np.abs(robot.q - start).max() < 0.7


@pytest.mark.parametrize("way", [1.0, -1.0], ids=["upper", "lower"])
def test_no_way_leads_out_of_the_range_or_is_too_fast(way: float) -> None:
    still, beyond = np.zeros(7), HOME_Q.copy()
    beyond[0] = (FR3.position_max if way > 0 else FR3.position_min)[0] + way * 1e-3
    low, high = np.minimum(HOME_Q, beyond), np.maximum(HOME_Q, beyond)
    assert _inside(HOME_Q, HOME_Q, still, still) and not _inside(low, high, still, still)
    fast = np.eye(7)[2] * way * 2.7
    assert not _inside(HOME_Q, HOME_Q, np.minimum(fast, 0.0), np.maximum(fast, 0.0))
    near = beyond - way * np.eye(7)[0] * 0.011
    arm = Interpolator(near)
    assert arm._way_to(_Target(near - way * np.eye(7)[0] * 0.01, still, still, 1.0)) is not None
    assert arm._way_to(_Target(beyond, still, still, 1.0)) is None
