"""The interpolator's rules one by one, with numbers worked out by hand; what they add up to is in test_interpolator."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q
from molmoact_ros.robots.libfranka import interpolator
from molmoact_ros.robots.libfranka.interpolator import CYCLE, Interpolator, RefusedCommand, checked

AXES, ZERO = np.eye(7), np.zeros(7)
PERIOD = 0.02
STAND = ArmCommand(HOME_Q, ZERO, ZERO, 0.08, PERIOD)
HARDEST, JERK = 7.0, 1000.0
"""What is planned with: 0.7 of 10 rad/s^2, 0.2 of 5000 rad/s^3."""


def at(joint: int, q: float) -> np.ndarray:
    out = HOME_Q.copy()
    out[joint] = q
    return out


# What may be commanded


def test_a_command_is_taken_as_numbers_and_kept_as_it_is() -> None:
    command = checked(ArmCommand(HOME_Q.tolist(), [0] * 7, [0] * 7, 0.03, 0.05))  # type: ignore[arg-type]
    for told, meant in ((command.position, HOME_Q), (command.velocity, ZERO), (command.acceleration, ZERO)):
        np.testing.assert_array_equal(told, meant)
        assert isinstance(told, np.ndarray) and told.dtype == np.float64
    assert command.opening == 0.03 and command.period == 0.05
    for period in (0.002, 0.1):
        assert checked(replace(STAND, period=period)).period == period


LIMITS = "is outside of the FR3's limits"
REFUSED: list[tuple[dict[str, Any], str]] = [
    ({"velocity": np.zeros(6)}, "a command has 7 positions, velocities and accelerations, not [(7,), (6,), (7,)]"),
    *(({name: AXES[2] * np.nan}, "a command holds a number that is not finite")
      for name in ("position", "velocity", "acceleration")),
    ({"opening": np.inf}, "a command holds a number that is not finite"),
    ({"period": np.nan}, "a command holds a number that is not finite"),
    ({"period": 0.0019}, "a command's period is 0.0019 s; it must be in 0.002..0.1"),
    ({"period": 0.101}, "a command's period is 0.101 s; it must be in 0.002..0.1"),
    ({"position": FR3.position_max + AXES[1] * 1e-9}, f"joint 2's position {LIMITS}"),
    ({"position": FR3.position_min - AXES[5] * 1e-9}, f"joint 6's position {LIMITS}"),
    ({"velocity": AXES[2] * 2.6201}, f"joint 3's velocity at this position {LIMITS}"),
    ({"velocity": AXES[2] * -2.6201}, f"joint 3's velocity at this position {LIMITS}"),
    ({"position": at(6, 2.66), "velocity": AXES[6] * 3.0}, f"joint 7's way to a stand {LIMITS}"),
    ({"position": at(6, -2.66), "velocity": AXES[6] * -3.0}, f"joint 7's way to a stand {LIMITS}"),
    ({"acceleration": AXES[3] * 10.001}, f"joint 4's acceleration {LIMITS}"),
    ({"acceleration": AXES[3] * -10.001}, f"joint 4's acceleration {LIMITS}"),
]  # fmt: skip


@pytest.mark.parametrize(("bad", "why"), REFUSED)
def test_what_no_fr3_can_do_is_refused_in_one_line(bad: dict[str, Any], why: str) -> None:
    with pytest.raises(RefusedCommand) as refusal:
        checked(replace(STAND, **bad))
    assert str(refusal.value) == why


@pytest.mark.parametrize(
    "good",
    [
        {"position": FR3.position_max}, {"position": FR3.position_min}, {"velocity": AXES[2] * 2.62},
        {"velocity": AXES[2] * -2.62}, {"acceleration": AXES[3] * 10.0}, {"acceleration": AXES[3] * -10.0},
    ],
)  # fmt: skip
def test_what_an_fr3_can_just_do_is_taken(good: dict[str, Any]) -> None:
    checked(replace(STAND, **good))


@pytest.mark.parametrize("sign", [1, -1])
def test_speed_is_judged_with_what_is_added_until_braking_has_built_up(sign: int) -> None:
    def fast(q: np.ndarray, v: float, a: float) -> list[int]:
        return np.flatnonzero(interpolator._too_fast(q, sign * AXES[6] * v, sign * AXES[6] * a)).tolist()

    assert fast(HOME_Q, 5.26, 0.0) == [] and fast(HOME_Q, 5.26001, 0.0) == [6]
    assert fast(HOME_Q, 5.26, -5.0) == [], "one that brakes already adds nothing"
    assert fast(HOME_Q, 5.26 - 25 / 2000, 5.0) == [] and fast(HOME_Q, 5.26001 - 25 / 2000, 5.0) == [6]
    law = FR3.law
    assert law is not None
    for a, v in ((0.0, 1.0), (4.0, 1.0)):
        # Where the law allows just this: sqrt(gain * room) - offset = v + a^2 / (2 jerk), v * (hardest + a) / jerk on.
        room = (v + a * a / 2 / JERK + law.offset[6]) ** 2 / law.gain[6]
        q = law.q_upper[6] - room - v * (HARDEST + a) / JERK
        assert fast(at(6, sign * (q - 1e-5)), v, a) == [] and fast(at(6, sign * (q + 1e-5)), v, a) == [6]


@pytest.mark.parametrize("sign", [1, -1])
def test_a_stand_is_where_braking_ends(sign: int) -> None:
    v = sign * AXES[0] * 2.0
    for a, outward in ((0.0, 0.0), (3.0, 3.0), (-3.0, 0.0)):
        stand = interpolator._stand(HOME_Q, v, sign * AXES[0] * a)
        way = 2.0**2 / (2 * HARDEST) + 2.0 * (HARDEST + outward) / JERK
        np.testing.assert_allclose(stand, HOME_Q + sign * AXES[0] * way, atol=1e-12)


def test_a_target_moves_on_at_its_speed() -> None:
    on = interpolator._moved_on(interpolator._Target(HOME_Q, AXES[0], AXES[1], 2.0), 0.1)
    np.testing.assert_allclose(on.position, HOME_Q + AXES[0] * 0.1)
    np.testing.assert_array_equal(on.velocity, AXES[0])
    assert not on.acceleration.any() and on.due == pytest.approx(2.1)


# Polynomials


def between(q: np.ndarray, v: np.ndarray, a: np.ndarray, j: np.ndarray, seconds: float) -> interpolator._Quintic:
    """The polynomial over a way of constant jerk."""
    t = seconds
    end = interpolator._Target(q + v * t + a * t**2 / 2 + j * t**3 / 6, v + a * t + j * t**2 / 2, a + j * t, 0.0)
    return interpolator._Quintic(q, v, a, end, t)


def test_a_polynomial_goes_from_state_to_state() -> None:
    rng = np.random.default_rng(3)
    (q, v, a), (p, w, b), t = rng.normal(size=(3, 7)), rng.normal(size=(3, 7)), 0.3
    way = interpolator._Quintic(q, v, a, interpolator._Target(p, w, b, 9.0), t)
    for time, state in ((0.0, (q, v, a)), (t, (p, w, b))):
        np.testing.assert_allclose(way.at_time(time), state, atol=1e-9)
    h = 1e-5
    for time in (0.05, 0.17):
        (q0, v0, _), (_, v1, a1), (q2, v2, _) = (way.at_time(time + k * h) for k in (-1, 0, 1))
        np.testing.assert_allclose((q2 - q0) / (2 * h), v1, atol=1e-4)
        np.testing.assert_allclose((v2 - v0) / (2 * h), a1, atol=1e-3)
    even = between(HOME_Q, AXES[0] * 0.5, AXES[0] * 0.2, AXES[0] * 3.0, 0.4)
    np.testing.assert_allclose(even.at_time(0.1)[0][0], 0.5 * 0.1 + 0.2 * 0.005 + 3.0 * 0.001 / 6, atol=1e-12)


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("joint", [0, 6])
def test_a_polynomial_fits_within_the_limits(joint: int, sign: int) -> None:
    axis, top = sign * AXES[joint], FR3.velocity_max[joint]
    assert between(HOME_Q, ZERO, axis * 8.99, ZERO, 0.02).fits()
    assert not between(HOME_Q, ZERO, axis * 9.01, ZERO, 0.02).fits()
    assert between(HOME_Q, ZERO, axis * -4.0, axis * 2499.0, 0.0032).fits()
    assert not between(HOME_Q, ZERO, axis * -4.0, axis * 2501.0, 0.0032).fits()
    assert between(HOME_Q, axis * (top - 1e-4), ZERO, ZERO, 0.02).fits()
    assert not between(HOME_Q, axis * (top + 1e-4), ZERO, ZERO, 0.02).fits()
    end = at(joint, (FR3.position_max if sign > 0 else FR3.position_min)[joint])
    assert between(end, ZERO, ZERO, ZERO, 0.02).fits(), "it may stand at the very end"
    assert not between(end + axis * 1e-6, ZERO, ZERO, ZERO, 0.02).fits()
    bounds = FR3.velocity_bounds(end - axis * 0.1)[0 if sign < 0 else 1][joint]
    way = between(end - axis * 0.1 - axis * abs(bounds) * 0.02, axis * (abs(bounds) - 1e-3), ZERO, ZERO, 0.02)
    assert way.fits(), "the law counts at the nearest point to the end"
    assert not between(end - axis * 0.1, axis * abs(bounds), ZERO, ZERO, 0.02).fits()


def test_a_polynomial_is_judged_along_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    judged: list[np.ndarray] = []

    def inside(*bounds: np.ndarray) -> bool:
        judged.extend(bounds)
        return True

    monkeypatch.setattr(interpolator, "_inside", inside)
    end = interpolator._Target(HOME_Q + 0.03, ZERO + 0.1, ZERO + 1.0, 0.0)
    way = interpolator._Quintic(HOME_Q, ZERO - 0.2, ZERO + 0.5, end, 0.5)
    assert way.fits()
    q, v, _ = np.array([way.at_time(part * 0.5) for part in interpolator.SAMPLES]).transpose(1, 2, 0)
    expected = [q.min(axis=1), q.max(axis=1), v.min(axis=1), v.max(axis=1)]
    np.testing.assert_allclose(judged, expected, atol=1e-12)


def test_what_is_played_faster_is_so_in_speed_and_acceleration() -> None:
    played = Interpolator(HOME_Q)._played(replace(STAND, velocity=AXES[6] * 2.0, acceleration=AXES[6]), 0.04, 1.1)
    np.testing.assert_allclose(played.velocity, AXES[6] * 2.2)
    np.testing.assert_allclose(played.acceleration, AXES[6] * 1.21)
    np.testing.assert_array_equal(played.position, HOME_Q)
    assert played.due == 0.04


# When commands are due


def test_the_first_command_is_due_in_two_periods_and_those_that_come_in_time_a_period_later_each() -> None:
    arm = Interpolator(HOME_Q)
    assert arm.resting and not arm.braking
    arm.take_command(STAND)
    assert arm._due == pytest.approx(2 * PERIOD) and arm._rate == 1.0 and not arm.resting
    for _ in range(20):
        np.testing.assert_array_equal(arm.step(), HOME_Q)
    arm.take_command(STAND)
    assert arm._due == pytest.approx(3 * PERIOD) and arm._rate == pytest.approx(1.0)
    assert arm._received_at == pytest.approx(PERIOD)


@pytest.mark.parametrize(
    ("lead", "again"), [(0.26, False), (0.24, True), (1.0, False), (3.5, False), (5.9, False), (6.1, True)]
)
def test_who_comes_late_or_early_is_played_a_little_slower_or_faster(lead: float, again: bool) -> None:
    arm = Interpolator(HOME_Q)
    arm._now, arm._due, arm._rate = 1.0, 1.0 + lead * PERIOD - PERIOD / 1.1, 1.1
    due, rate = arm._schedule(PERIOD)
    if again:
        assert (due, rate) == (pytest.approx(1.0 + 2 * PERIOD), 1.0)
    else:
        expected = 1.1 + 0.1 * (1.0 + 0.05 * (lead - 2.0) - 1.1)
        assert rate == pytest.approx(expected) and due == pytest.approx(arm._due + PERIOD / expected)


@pytest.mark.parametrize("sign", [1, -1])
def test_a_command_may_be_as_far_as_the_joint_can_go_until_it_is_due_and_a_little_more(sign: int) -> None:
    way = 0.1 + 2.62 * 2 * PERIOD
    Interpolator(HOME_Q).take_command(replace(STAND, position=HOME_Q + sign * AXES[2] * (way - 1e-6)))
    arm = Interpolator(HOME_Q)
    with pytest.raises(RefusedCommand) as refusal:
        arm.take_command(replace(STAND, position=HOME_Q + sign * AXES[2] * (way + 1e-6)))
    assert str(refusal.value) == "joint 3 would have to jump 0.100 rad; begin where the arm is"
    assert arm.resting and arm._due == -np.inf and arm._received_at == -np.inf


@pytest.mark.parametrize(
    ("step", "silence", "goes_on"),
    [
        (0.019, 0.02, True), (0.021, 0.02, False), (-0.019, 0.02, True), (-0.021, 0.02, False), (0.0, 0.99, True),
        (0.0, 1.01, False),
    ],
)  # fmt: skip
def test_an_arm_that_is_elsewhere_is_led_on_by_a_stream_that_goes_on(
    step: float, silence: float, goes_on: bool
) -> None:
    arm = Interpolator(HOME_Q)
    arm._now, arm._received, arm._received_at = 5.0, HOME_Q + AXES[6] * 1.0, 5.0 - silence
    command = replace(STAND, position=arm._received + AXES[6] * (step + np.sign(step) * 5.26 * PERIOD))
    if goes_on:
        arm.take_command(command)
        assert not arm.resting and arm._received_at == 5.0
        np.testing.assert_array_equal(arm._received, command.position)
    else:
        with pytest.raises(RefusedCommand, match="jump"):
            arm.take_command(command)


def test_a_later_command_takes_the_place_of_those_due_no_earlier() -> None:
    arm = Interpolator(HOME_Q)
    arm.take_command(STAND)
    arm._due = 0.02  # so that the next one is due at the same time
    arm.take_command(replace(STAND, position=HOME_Q + AXES[0] * 0.001))
    assert len(arm._queue) == 1 and arm._queue[0].position[0] == 0.001
    arm.take_command(replace(STAND, position=HOME_Q + AXES[0] * 0.002))
    assert [target.position[0] for target in arm._queue] == [0.001, 0.002]


# Motion


def test_a_command_is_reached_when_it_is_due_and_what_follows_is_braked() -> None:
    arm, speed = Interpolator(HOME_Q), AXES[0] * 0.05
    arm.take_command(replace(STAND, position=HOME_Q + AXES[0] * 0.001, velocity=speed))
    for _ in range(39):
        arm.step()
    np.testing.assert_allclose(arm.position, HOME_Q + AXES[0] * (0.001 - 0.05 * CYCLE), atol=1e-6)
    np.testing.assert_allclose(arm.velocity, speed, atol=1e-3)
    assert not arm.braking and not arm.resting
    arm.step()
    arm.step()
    assert arm.braking
    cycles = 1
    while not arm.resting:
        arm.step()
        cycles += 1
    # 0.05 rad/s under a jerk of 1000 rad/s^3: 2 sqrt(v / j), with half the speed on average.
    assert cycles == pytest.approx(2 * np.sqrt(0.05 / JERK) / CYCLE, abs=2.5)
    assert arm.position[0] == pytest.approx(0.001 + 0.05 * np.sqrt(0.05 / JERK), abs=1e-4)
    assert not arm.braking and not arm.velocity.any() and not arm.acceleration.any()
    stood = arm.position
    np.testing.assert_array_equal(arm.step(), stood)


def test_a_braking_arm_takes_up_what_comes_at_once() -> None:
    arm = Interpolator(HOME_Q)
    arm.take_command(replace(STAND, position=HOME_Q + AXES[0] * 0.004, velocity=AXES[0] * 0.2))
    for _ in range(45):
        arm.step()
    assert arm.braking
    arm.take_command(replace(STAND, position=HOME_Q + AXES[0] * 0.012, velocity=AXES[0] * 0.2))
    assert not arm.braking
    for _ in range(10):
        arm.step()
    assert arm.velocity[0] > 0.05 and not arm.braking


def test_a_jump_is_made_good_within_the_limits_without_going_beyond() -> None:
    arm = Interpolator(HOME_Q)
    goal = HOME_Q + AXES[6] * 0.1
    path, speeds = [], []
    for k in range(500):
        if k % 20 == 0:
            arm.take_command(replace(STAND, position=goal))
        path.append(arm.step())
        speeds.append(arm.velocity[6])
    reached = next(k for k, q in enumerate(path) if abs(q[6] - goal[6]) < 1e-6)
    assert 250 < reached < 440 and max(q[6] for q in path) < goal[6] + 1e-6
    jerk = np.diff(speeds, 2) / CYCLE**2
    assert np.abs(np.diff(speeds) / CYCLE).max() <= HARDEST + 0.1 and np.abs(jerk).max() <= JERK * 1.05
    np.testing.assert_allclose(path[-1], goal, atol=1e-9)


def test_the_very_end_of_a_range_can_be_gone_to() -> None:
    for end in (FR3.position_max, FR3.position_min):
        goal = at(6, end[6])
        near = at(6, end[6] - np.sign(end[6]) * 0.01)
        arm = Interpolator(near)
        assert arm._way_to(interpolator._Target(goal, ZERO, ZERO, 0.04)) is not None


def test_a_correction_is_where_the_robot_is_and_a_standing_one_stays() -> None:
    arm = Interpolator(HOME_Q)
    arm.correct(HOME_Q + 0.001, ZERO, ZERO, 3)
    assert arm._now == pytest.approx(3 * CYCLE) and arm.resting
    np.testing.assert_array_equal(arm.position, HOME_Q + 0.001)
    given = HOME_Q + 0.002
    arm.correct(given, AXES[0] * 0.1, AXES[0] * 2.0, 0)
    given[:] = 9.0
    assert arm.braking and arm.position[0] == pytest.approx(0.002)
    np.testing.assert_allclose(arm.velocity, AXES[0] * (0.1 + 2.0 * CYCLE / 2))
    np.testing.assert_array_equal(arm.acceleration, AXES[0] * 2.0)


def test_after_a_correction_the_way_leads_to_the_same_command() -> None:
    arm = Interpolator(HOME_Q)
    arm.take_command(replace(STAND, position=HOME_Q + AXES[0] * 0.002))
    for _ in range(10):
        arm.step()
    arm.correct(arm.position + AXES[0] * 1e-5, arm.velocity, arm.acceleration, 2)
    assert not arm.braking
    for _ in range(28):
        arm.step()
    assert arm.position[0] == pytest.approx(0.002, abs=1e-6)


def test_the_start_is_kept_as_numbers_of_its_own() -> None:
    start = HOME_Q.copy()
    arm = Interpolator(start)
    start[:] = 0.0
    np.testing.assert_array_equal(arm.step(), HOME_Q)
    assert not arm.velocity.any() and not arm.acceleration.any()
