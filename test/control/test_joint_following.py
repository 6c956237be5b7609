"""A leader arm: slowly to a first pose that is far away, closely from then on, and by a fresh request alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.control.controller import ControllerConfig
from molmoact_ros.control.homing import LAG, RAMP
from molmoact_ros.control.joint_following import JUMP, NEAR, JointFollowing
from molmoact_ros.control.supervisor import FAULTS, Event, State
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS

from .helpers import DT
from .test_homing import ANYWHERE, OPEN, Asking

PACE = 0.1 * FR3.velocity_max
"""rad/s of the approach: home_speed."""
BESIDE = st.lists(st.floats(-0.25, 0.25), min_size=JOINTS, max_size=JOINTS).map(np.array)
SLOW = 1.5
"""Fraction of the pace that the limiter may reach for a moment, as on the way home."""
BRAKES = 0.5
"""s after which the arm stands when nobody leads it any more."""


class Leading(Asking):
    """An operator whose leader is at `leader`, [7] rad, and turns at `speed`, [7] rad/s."""

    def __init__(self, leader: np.ndarray, q: np.ndarray = HOME_Q, config: ControllerConfig | None = None) -> None:
        super().__init__(q, config)
        self.leader, self.speed = leader.copy(), np.zeros(JOINTS)

    def ask(self) -> None:
        self.leader = self.leader + self.speed * DT
        self.controller.arms[0].teleop.joints(self.leader, self.now)

    def follows(self, seconds: float) -> np.ndarray:
        return self.run(seconds, home=True)


def joint_speeds(path: np.ndarray) -> np.ndarray:
    """Greatest speed of each joint as a fraction of its pace, [7]."""
    result: np.ndarray = np.abs(np.diff(path, axis=0)).max(axis=0) / (PACE * DT)
    return result


@given(start=ANYWHERE, target=ANYWHERE)
@settings(max_examples=60, deadline=None)
def test_the_approach_is_straight_and_slow_until_the_arm_is_near(start: np.ndarray, target: np.ndarray) -> None:
    following, path = JointFollowing(PACE, DT), [start]
    while np.abs(target - path[-1]).max() > NEAR:
        path.append(following.step(target, path[-1], start).q)
        assert len(path) * DT < 1.0 + RAMP + float((np.abs(target - start) / PACE).max())
    gone, way = np.array(path) - start, target - start
    assert np.abs(gone - np.outer(gone @ way, way) / max(way @ way, 1e-12)).max() < 1e-6
    assert len(path) == 1 or (joint_speeds(np.array(path)) <= 1.0 + 1e-6).all()
    np.testing.assert_array_equal(following.step(target, path[-1], path[-1]).q, target)


def test_the_approach_waits_for_an_arm_that_is_kept_from_following() -> None:
    following = JointFollowing(PACE, DT)
    for _ in range(300):
        assert np.abs(following.step(HOME_Q + 0.5, HOME_Q, HOME_Q).q - HOME_Q).max() < LAG + PACE.max() * DT


@settings(max_examples=8, deadline=None)
@given(away=BESIDE)
def test_a_first_pose_far_away_is_approached_slowly_inside_all_limits(away: np.ndarray) -> None:
    leading = Leading(HOME_Q + away, config=ControllerConfig(surroundings=OPEN))
    path = np.vstack([HOME_Q, leading.follows(0.1 + float((np.abs(away) / PACE).max()) + 2.5)])
    far = np.abs(path - leading.leader).max(axis=1) > NEAR
    if far.sum() > 2:
        assert (joint_speeds(path[: int(far.sum())]) <= SLOW).all()
    assert np.abs(path[-1] - leading.leader).max() < 2e-3, "and it gets there"
    assert leading.state is State.TELEOP and leading.is_clean(), leading.judge.broken


def test_an_arm_that_has_caught_up_follows_closely() -> None:
    leading = Leading(HOME_Q + 0.02, config=ControllerConfig(surroundings=OPEN))
    leading.follows(0.5)
    leading.speed = np.array([0.3, 0, 0, 0, 0, 0, 0.8])
    path = leading.follows(1.0)
    assert np.abs(path[-1] - leading.leader).max() < 0.1
    assert (joint_speeds(path) > 1.0).any(), "faster than it approaches"


def caught_up() -> Leading:
    leading = Leading(HOME_Q.copy(), config=ControllerConfig(surroundings=OPEN))
    leading.follows(0.5)
    assert leading.state is State.TELEOP
    return leading


def test_a_leader_that_jumps_is_a_first_pose_again() -> None:
    leading = caught_up()
    leading.leader = HOME_Q + [0, 0, 0, 0, 0, 0, JUMP + 0.5]
    assert (joint_speeds(leading.follows(1.0)) <= SLOW).all() and leading.is_clean()


def test_each_take_over_begins_with_an_approach() -> None:
    leading = caught_up()
    leading.run(1.0, home=False)
    assert leading.state is State.HOLD
    leading.leader = HOME_Q + [(NEAR + JUMP) / 2, 0, 0, 0, 0, 0, 0]
    assert (joint_speeds(leading.follows(0.3)) <= SLOW).all() and leading.state is State.TELEOP


@pytest.mark.parametrize("event", [*FAULTS, Event.STOP, Event.HOLD])
def test_stop_hold_and_every_fault_end_it_until_the_operator_lets_go(event: Event) -> None:
    leading = caught_up()
    leading.speed = np.array([0.0, 0, 0, 0, 0, 0, 0.3])
    leading.follows(0.3)
    controller = leading.controller
    if event in (Event.STOP, Event.HOLD):
        controller.stop() if event is Event.STOP else controller.hold()
    else:
        controller.fault(event)
    path = leading.follows(1.5)
    assert np.ptp(path[round(BRAKES / DT) :], axis=0).max() == 0.0 and leading.state is not State.TELEOP
    if event is Event.STOP:
        assert controller.resume(leading.now)
    still = leading.follows(0.5)
    assert np.ptp(still, axis=0).max() == 0.0, "it goes on streaming: not before they let go once"
    leading.run(0.5, home=False)
    assert np.ptp(leading.follows(0.5), axis=0).max() > 0.0 and leading.state is State.TELEOP and leading.is_clean()


THINGS = st.sampled_from(["lead", "lead", "lead", "turn", "jump", "let go", "stop", "hold", "resume", "fault", "blind"])


@settings(max_examples=25, deadline=None)
@given(st.lists(st.tuples(THINGS, st.floats(0.02, 0.8)), min_size=1, max_size=12), BESIDE, BESIDE)
def test_whatever_happens_it_moves_only_by_a_fresh_target_and_ends_standing(
    things: list[tuple[str, float]], first: np.ndarray, turn: np.ndarray
) -> None:
    leading = Leading(HOME_Q + first)
    for thing, seconds in things:
        leading.speed = 4 * turn if thing == "turn" else np.zeros(JOINTS)
        if thing == "jump":
            leading.leader = HOME_Q + 2 * turn
        elif thing == "fault":
            leading.controller.fault(FAULTS[int(seconds * 100) % len(FAULTS)])
        elif thing in ("stop", "hold"):
            getattr(leading.controller, thing)()
        elif thing == "resume":
            leading.controller.resume(leading.now)
        leading.run(seconds, home=thing != "let go", alive=thing != "blind")
    assert leading.is_clean(), leading.judge.broken
    path = leading.run(1.5, home=False)
    assert np.ptp(path[80:], axis=0).max() == 0.0 and leading.state is not State.TELEOP
