"""The checker sees what the limiter must never let through."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.control.collision import NAMES, CollisionChecker, Surroundings, Workspace
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.limit_checker import LimitChecker
from molmoact_ros.control.limiter import Limiter, LimitScaling, Motion
from molmoact_ros.control.pose import Pose
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS, PANDA, Arm

from .helpers import DT, ROBOT


def test_limits_are_those_of_the_documents() -> None:
    _, high = FR3.velocity_bounds(np.zeros(JOINTS) + HOME_Q)
    np.testing.assert_allclose(high[[0, 4, 6]], [2.62, 5.26, 5.26])
    # Joint 2, 0.1 rad before its end: -0.20 + sqrt(5.17 * (1.7918 - 1.6918)).
    at = HOME_Q.copy()
    at[1] = 1.6918
    assert FR3.velocity_bounds(at)[1][1] == pytest.approx(0.51903, abs=1e-5)
    assert FR3.velocity_bounds(at)[0][1] == pytest.approx(-2.62)
    at[1] = 1.80
    assert FR3.velocity_bounds(at)[1][1] == 0.0
    np.testing.assert_allclose(PANDA.velocity_bounds(at)[1], PANDA.velocity_max)
    assert Arm("left_").joints[0] == "left_fr3_joint1" and Arm("right_").tcp_frame == "right_fr3_hand_tcp"


OPEN_BOX = Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0))


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.lists(st.floats(-4, 5, allow_nan=False) | st.just(float("nan")), min_size=7, max_size=7), max_size=25),
    st.floats(-3, 3),
)
def test_no_wanted_position_ever_breaks_a_limit(wanted: list[list[float]], speed: float) -> None:
    surroundings = Surroundings(workspace=OPEN_BOX)
    limiter = Limiter(FR3, LimitScaling(), CollisionChecker(ROBOT, surroundings), DT)
    limiter.reset(HOME_Q)
    checker = LimitChecker(ROBOT, DT, LimitScaling(), surroundings)
    for target in wanted:
        for _ in range(12):
            motion = limiter.step(Motion(np.array(target), np.full(7, speed), np.full(7, speed)))
            assert not checker.command(motion.q)


def test_the_checker_sees_every_kind_of_breach() -> None:
    checker = LimitChecker(ROBOT, DT, LimitScaling(), Surroundings())
    assert not any(checker.command(HOME_Q) for _ in range(5))
    assert {"velocity", "acceleration", "jerk"} <= set(checker.command(HOME_Q + 0.05))
    assert checker.command(np.full(7, np.nan)) == ["finite"]
    for q, limit in (
        ([0, 1.7, 0, -1.0, 0, 2.7, 0], "table"),
        ([0, -1.0, 0, -3.0, 0, 0.6, 0], "self_collision"),
        ([2.0, -0.2752, 0, -2.5898, 0, 2.3145, 0.7854], "workspace"),
        ([0, -0.2752, 0, -2.5898, 0, 4.6, 0.7854], "position"),
    ):
        assert limit in checker.command(np.array(q, float)), limit


def test_the_guard_misses_nothing_that_exact_distances_show() -> None:
    surroundings = Surroundings()
    guard, checker = CollisionChecker(ROBOT, surroundings), LimitChecker(ROBOT, DT, LimitScaling(), surroundings)
    rng, seen = np.random.default_rng(8), dict.fromkeys(("workspace", "table", "self_collision"), 0)
    joints = rng.uniform(FR3.position_min, FR3.position_max, (4000, 7))
    for q, breaches in zip(joints, guard.breach(joints), strict=True):
        breach, truth = dict(zip(NAMES, breaches, strict=True)), checker._places(q)
        for name in seen:
            assert breach[name] > 0 or name not in truth, f"{name} is missed at {q.tolist()}"
            assert breach[name] < 2e-3 or name in truth, f"{name} is seen where it is kept at {q.tolist()}"
            seen[name] += name in truth
    assert min(seen.values()) > 100


def test_rounding_does_not_add_up_to_a_breach() -> None:
    """Found by `bench fuzz`: creeping along the border, a micrometre deeper each cycle."""
    border = np.array([-1.46240428, -1.12091717, 1.42944247, -3.0121, -2.12188558, 1.76324254, 0.25434042])
    along = np.array([4.472e-5, -2.846e-5, -6.565e-6, 0.0, 3.142e-5, 4.812e-5, -2.697e-5])  # rad a cycle
    surroundings = Surroundings(workspace=OPEN_BOX)
    guard = CollisionChecker(ROBOT, surroundings)
    limiter = Limiter(FR3, LimitScaling(), guard, DT)
    limiter.reset(border - 14 * along)
    assert guard.breach(limiter.motion.q[None])[0, 2] < 1e-6
    for k in range(100):
        limiter.step(Motion(border + (k - 13) * along, along / DT, np.zeros(7)))
    assert guard.breach(limiter.motion.q[None])[0, 2] < 2e-6 and limiter.counts["self_collision"] > 0


def test_an_arm_that_stands_too_low_may_go_up_but_not_down() -> None:
    kinematics, low = Kinematics(ROBOT), HOME_Q
    down = kinematics.forward(HOME_Q)
    for _ in range(300):
        low = kinematics.solve(low, Pose(np.array([0.45, 0.0, 0.008]), down.rotation), DT)
    for z, moves in ((0.004, False), (0.1, True)):
        limiter = Limiter(FR3, LimitScaling(), CollisionChecker(ROBOT, Surroundings()), DT)
        limiter.reset(low)
        wanted = low
        for _ in range(100):
            wanted = kinematics.solve(wanted, Pose(np.array([0.45, 0.0, z]), down.rotation), DT)
            limiter.step(Motion.at_rest(wanted))
        rise = kinematics.forward(limiter.motion.q).position[2] - kinematics.forward(low).position[2]
        assert rise > 0.05 if moves else abs(rise) < 2e-4
        assert moves or limiter.counts["table"] > 0
