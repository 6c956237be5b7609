"""The last gate before an arm, limit by limit: `Limiter` alone, on the real model."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from molmoact_ros.control.collision import CollisionChecker, Surroundings, Workspace
from molmoact_ros.control.limiter import CAREFUL, CREEP, HEADROOM, Limiter, LimitScaling, Motion
from molmoact_ros.robots.franka import FR3, HOME_Q, PAIR
from molmoact_ros.utils.paths import robot_model

ROBOT = robot_model()
DT = 0.01
OPEN = Surroundings(workspace=Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0)), table=None, self_distance=0.0)
FRACTIONS = LimitScaling(speed=0.5, acceleration=0.8, jerk=0.2, margin=0.1)
SPEED, PUSH, JERK = 0.5 * FR3.velocity_max, np.full(7, 8.0), np.full(7, 1000.0)
LOW, HIGH = FR3.position_min + 0.1, FR3.position_max - 0.1
AXES = np.eye(7)
ZERO = np.zeros(7)


def new(q: np.ndarray = HOME_Q, surroundings: Surroundings = OPEN, fractions: LimitScaling = FRACTIONS) -> Limiter:
    limiter = Limiter(FR3, fractions, CollisionChecker(ROBOT, surroundings), DT)
    limiter.reset(q)
    return limiter


def counted(limiter: Limiter) -> set[str]:
    """Which limits have bitten since this was asked last."""
    assert min(limiter.counts.values()) >= 0
    out = {name for name, count in limiter.counts.items() if count}
    limiter.counts.update(dict.fromkeys(limiter.counts, 0))
    return out


def follow(limiter: Limiter, q: np.ndarray, cycles: int, hand_speed: float = np.inf) -> list[Motion]:
    return [limiter.step(Motion.at_rest(q), hand_speed=hand_speed) for _ in range(cycles)]


# Where it stands, and where it would


def test_a_reset_is_a_stand() -> None:
    limiter = new()
    follow(limiter, HOME_Q + 0.3, 20)
    assert len(limiter.planned(True)) > 3 and limiter._fastest > 0
    limiter.reset(HOME_Q + 0.1)
    np.testing.assert_array_equal(limiter.motion.q, HOME_Q + 0.1)
    np.testing.assert_array_equal(limiter.stop, HOME_Q + 0.1)
    assert not limiter.motion.dq.any() and not limiter.motion.ddq.any() and limiter._fastest == 0.0
    np.testing.assert_array_equal(limiter.planned(True), [HOME_Q + 0.1] * 2)
    np.testing.assert_array_equal(limiter.planned(False), [HOME_Q + 0.1])
    np.testing.assert_array_equal(limiter.step(None).q, HOME_Q + 0.1)


def test_a_stand_is_told_in_numbers_of_its_own() -> None:
    given = HOME_Q.copy()
    motion = Motion.at_rest(given)
    given[:] = 9.0
    np.testing.assert_array_equal(motion.q, HOME_Q)
    assert Motion.at_rest([0] * 7).q.dtype == np.float64  # type: ignore[arg-type]


def test_what_is_planned_is_what_braking_does() -> None:
    limiter = new()
    before = follow(limiter, HOME_Q + 0.3, 20)[-2]
    planned = limiter.planned(True)
    np.testing.assert_array_equal(planned[0], before.q)
    np.testing.assert_array_equal(planned[1:], limiter.planned(False))
    np.testing.assert_array_equal(planned[-1], limiter.stop)
    for q in planned[2:]:
        motion = limiter.step(None)
        np.testing.assert_array_equal(motion.q, q)
    assert not motion.dq.any() and not motion.ddq.any()
    np.testing.assert_array_equal(limiter.step(None).q, planned[-1])


@pytest.mark.parametrize("part", ["q", "dq", "ddq"])
@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_what_is_not_finite_brakes(part: str, bad: float) -> None:
    limiter = new()
    follow(limiter, HOME_Q + 0.3, 20)
    planned = limiter.planned(False)
    values = {"q": HOME_Q, "dq": ZERO, "ddq": ZERO} | {part: np.where(AXES[4] > 0, bad, ZERO)}
    np.testing.assert_array_equal(limiter.step(Motion(**values)).q, planned[1])


def test_braking_is_as_quick_as_the_limits_let_it_be_each_joint_by_itself() -> None:
    limiter = new()
    behind = limiter._braking(Motion(HOME_Q, AXES[6] * 2.0 + AXES[0] * 0.5, ZERO))
    assert behind is not None and len(behind) == int(np.ceil((2.0 / 8 + 8 / 1000) / DT))
    q = np.array([motion.q for motion in behind]) - HOME_Q
    stood = int(np.ceil((0.5 / 8 + 8 / 1000) / DT))
    assert np.ptp(q[stood:, 0]) < 1e-12 and q[stood - 2, 0] < q[-1, 0] - 1e-9
    np.testing.assert_allclose(
        q[-1], AXES[6] * 2.0 * (2.0 / 8 + 8 / 1000) / 2 + AXES[0] * 0.5 * (0.5 / 8 + 0.008) / 2, atol=1e-9
    )
    assert not behind[-1].dq.any() and not behind[-1].ddq.any() and behind[-2].dq[6] > 0
    for a, b in pairwise(behind[:-1]):
        np.testing.assert_allclose(b.q - a.q, (a.dq + b.dq) / 2 * DT, atol=1e-4)
    assert limiter._braking(Motion.at_rest(HOME_Q)) == []


# Toward what is wanted


def test_a_place_is_reached_as_soon_as_the_limits_let_it_and_held() -> None:
    limiter = new()
    path = follow(limiter, HOME_Q + AXES[6] * 0.6 - AXES[0] * 0.1, 60)
    speeds = np.array([motion.dq for motion in path])
    assert speeds[:, 6].max() == pytest.approx(2.19, abs=0.05), "sqrt(0.6 * 8), less the jerk's part"
    # v / a + a / j up, and the same down
    soonest = next(k for k, motion in enumerate(path) if abs(motion.q[6] - HOME_Q[6] - 0.6) < 1e-6)
    assert soonest == pytest.approx((2 * 2.15 / 8 + 2 * 0.008) / DT, abs=3)
    np.testing.assert_allclose(path[-1].q, HOME_Q + AXES[6] * 0.6 - AXES[0] * 0.1, atol=1e-12)
    assert np.abs(path[-1].dq).max() < 1e-12
    far = follow(new(), HOME_Q + AXES[6] * 2.2, 40)
    assert max(motion.dq[6] for motion in far) == pytest.approx(SPEED[6], rel=1e-6)


@pytest.mark.parametrize("push", [0.0, 0.5])
def test_what_moves_on_is_met_and_followed_without_lag(push: float) -> None:
    limiter = new()
    for k in range(80):
        t = k * DT
        wanted = Motion(HOME_Q + AXES[6] * (0.4 * t + push * t * t / 2), AXES[6] * (0.4 + push * t), AXES[6] * push)
        motion = limiter.step(wanted)
    np.testing.assert_allclose(motion.q, wanted.q, atol=1e-6)
    np.testing.assert_allclose(motion.dq, wanted.dq, atol=1e-6)
    np.testing.assert_allclose(motion.ddq, wanted.ddq, atol=1e-4)


@pytest.mark.parametrize("sign", [1, -1])
def test_what_moves_on_too_fast_is_followed_as_fast_as_may_be(sign: int) -> None:
    limiter = new()
    for k in range(60):
        motion = limiter.step(Motion(HOME_Q + sign * AXES[6] * 9 * k * DT, sign * AXES[6] * 9.0, sign * AXES[6] * 99.0))
    assert abs(motion.dq[6]) == pytest.approx(SPEED[6], rel=0.03)


@pytest.mark.parametrize("sign", [1, -1])
def test_nobody_goes_beyond_the_margin_of_a_joints_range(sign: int) -> None:
    end = HIGH if sign > 0 else LOW
    start = HOME_Q.copy()
    start[6] = end[6] - sign * 0.2
    limiter = new(start)
    path = follow(limiter, start + sign * AXES[6] * 0.5, 80)
    assert path[-1].q[6] == pytest.approx(end[6], abs=1e-9) and "position" in counted(limiter)
    assert max(sign * (motion.q[6] - end[6]) for motion in path) <= 1e-6


@pytest.mark.parametrize("sign", [1, -1])
def test_who_is_outside_of_the_range_may_stay_or_come_in_but_not_go_on(sign: int) -> None:
    start = HOME_Q.copy()
    start[6] = (HIGH if sign > 0 else LOW)[6] + sign * 0.05
    limiter = new(start)
    np.testing.assert_allclose(follow(limiter, start, 10)[-1].q, start, atol=1e-12)
    np.testing.assert_allclose(follow(limiter, start + sign * AXES[6] * 0.03, 30)[-1].q, start, atol=1e-9)
    np.testing.assert_allclose(
        follow(limiter, start - sign * AXES[6] * 0.2, 80)[-1].q[6], start[6] - sign * 0.2, atol=1e-6
    )


def test_what_is_not_let_through_goes_slower_and_else_brakes() -> None:
    limiter = new()
    follow(limiter, HOME_Q + 0.3, 20)
    planned, asked = limiter.planned(False), []
    toward = limiter._toward

    def refused(wanted: Motion, limit: np.ndarray, beside: np.ndarray | None) -> None:
        asked.append((wanted, limit, beside))

    limiter._toward = refused  # type: ignore[method-assign]
    wanted = Motion(HOME_Q + 0.3, ZERO + 0.1, ZERO + 0.2)
    beside = np.zeros((1, 7))
    np.testing.assert_array_equal(limiter.step(wanted, beside).q, planned[1])
    (first, fast, _), (second, slow, _) = asked
    assert first is wanted and all(more is beside for *_, more in asked)
    np.testing.assert_array_equal(fast, SPEED)
    np.testing.assert_allclose(slow, CAREFUL * SPEED)
    np.testing.assert_array_equal(second.q, wanted.q)
    assert not second.dq.any() and not second.ddq.any()
    np.testing.assert_array_equal(limiter.planned(True)[0], planned[0])
    limiter._toward = toward  # type: ignore[method-assign]
    limiter.reset(HOME_Q)
    limiter._toward = refused  # type: ignore[method-assign]
    np.testing.assert_array_equal(limiter.step(wanted).q, HOME_Q)


def test_what_ruckig_cannot_plan_is_not_let_through() -> None:
    limiter = new()
    limiter.motion = Motion(HOME_Q, AXES[6] * np.nan, ZERO)
    assert limiter._toward(Motion.at_rest(HOME_Q), SPEED, None) is None
    assert limiter._braking(limiter.motion) is None


# What is counted of a wish


@pytest.mark.parametrize(
    ("q", "dq", "ddq", "name"),
    [
        (HOME_Q, ZERO, ZERO, None),
        (HOME_Q + AXES[6] * 0.0262, ZERO, ZERO, None), (HOME_Q + AXES[6] * 0.0264, ZERO, ZERO, "velocity"),
        (HOME_Q - AXES[6] * 0.0264, AXES[6] * 9, ZERO, "velocity"),
        (HOME_Q, AXES[1] * 0.0799, ZERO, None), (HOME_Q, AXES[1] * 0.0801, ZERO, "acceleration"),
        (HOME_Q, AXES[1] * -0.0801, AXES[1] * 99, "acceleration"),
        (HOME_Q + AXES[0] * 0.0131 * (1 + 5e-7), ZERO, ZERO, None), (HOME_Q, AXES[1] * 0.08 * (1 + 5e-7), ZERO, None),
        (HOME_Q, ZERO, AXES[2] * 10 * (1 + 5e-7), None),  # rounding is no limit
        (HOME_Q, ZERO, AXES[2] * 9.99, None), (HOME_Q, ZERO, AXES[2] * -10.01, "jerk"),
    ],
)  # fmt: skip
def test_what_keeps_a_wish_from_being_reached_is_counted(
    q: np.ndarray, dq: np.ndarray, ddq: np.ndarray, name: str | None
) -> None:
    for start in (ZERO, np.full(7, 0.001)):
        limiter = new()
        limiter.motion = Motion(HOME_Q + start, start * 10, start * 100)
        limiter._note(Motion(q + start, dq + start * 10, ddq + start * 100))
        assert counted(limiter) == ({name} if name else set())
        limiter._note(Motion(q + start, dq + start * 10, ddq + start * 100))
        limiter._note(Motion(q + start, dq + start * 10, ddq + start * 100))
        assert name is None or limiter.counts[name] == 2


@pytest.mark.parametrize(("end", "sign"), [(HIGH, 1), (LOW, -1)])
def test_a_wish_outside_of_the_range_is_counted(end: np.ndarray, sign: int) -> None:
    for joint in range(7):
        q = HOME_Q.copy()
        q[joint] = end[joint]
        limiter = new(q)
        limiter._note(Motion.at_rest(q))
        assert counted(limiter) == set()
        limiter._note(Motion.at_rest(q + sign * AXES[joint] * 1e-6))
        assert counted(limiter) == {"position"}
        assert limiter.counts["position"] == 0


# What is let through


def judged(limiter: Limiter, *motions: Motion) -> set[str]:
    """What these motions break, behind the present one."""
    counted(limiter)
    broken = limiter._breaks(list(motions), None)
    names = counted(limiter)
    assert broken == bool(names)
    return names


@pytest.mark.parametrize("sign", [1, -1])
@pytest.mark.parametrize("joint", range(7))
def test_each_joints_speed_acceleration_and_jerk(joint: int, sign: int) -> None:
    axis, limiter = AXES[joint] * sign, new()
    fast, hard = axis * SPEED[joint], axis * PUSH[joint]
    assert judged(limiter, Motion(HOME_Q, fast, ZERO)) == set()
    assert judged(limiter, Motion(HOME_Q, fast * 1.00001, ZERO)) == {"velocity"}
    limiter.motion = Motion(HOME_Q, ZERO, hard)
    assert judged(limiter, Motion(HOME_Q, ZERO, hard)) == set()
    assert judged(limiter, Motion(HOME_Q, ZERO, hard * 1.00001)) == {"acceleration"}
    limiter.motion = Motion.at_rest(HOME_Q)
    steps = [Motion(HOME_Q, ZERO, axis * by) for by in (4.0, -4.0)]
    assert judged(limiter, *steps) == set()
    assert judged(limiter, steps[0], Motion(HOME_Q, ZERO, axis * -6.001)) == {"jerk"}
    for n in (1, 2):
        limiter = new(fractions=LimitScaling(jerk=0.02, margin=0.1))
        assert judged(limiter, *[Motion(HOME_Q, ZERO, axis * k * 1.001) for k in range(1, n + 1)]) == {"jerk"}
        assert judged(limiter, *[Motion(HOME_Q, ZERO, axis * k * 0.999) for k in range(1, n + 1)]) == set()


@pytest.mark.parametrize("joint", [0, 6])
@pytest.mark.parametrize("side", ["upper", "lower"])
def test_the_fr3s_own_law_of_speed_near_the_ends_of_its_joints(joint: int, side: str) -> None:
    """FCI documentation: near an end a joint may go there more slowly than its fastest, and away at any speed."""
    law, sign = FR3.law, 1 if side == "upper" else -1
    assert law is not None
    q = HOME_Q.copy()
    q[joint] = (FR3.position_max if sign > 0 else FR3.position_min)[joint] - sign * 0.02
    room = abs((law.q_upper if sign > 0 else law.q_lower)[joint] - q[joint])
    allowed = np.sqrt(law.gain[joint] * room) - law.offset[joint]
    limiter = new(q, fractions=LimitScaling(speed=0.5, acceleration=0.8, jerk=0.2, margin=0.0))
    assert 0.05 < allowed < SPEED[joint]
    assert judged(limiter, Motion(q, sign * AXES[joint] * (allowed - 1e-5), ZERO)) == set()
    assert judged(limiter, Motion(q, sign * AXES[joint] * (allowed + 1e-5), ZERO)) == {"velocity"}
    assert judged(limiter, Motion(q, -sign * AXES[joint] * SPEED[joint] * 0.99, ZERO)) == set()


@pytest.mark.parametrize("sign", [1, -1])
def test_the_range_holds_for_who_is_inside_and_outside_of_it(sign: int) -> None:
    end = (HIGH if sign > 0 else LOW)[6]
    for start, border in ((end - sign * 0.1, end), (end + sign * 0.05, end + sign * 0.05)):
        q = HOME_Q.copy()
        q[6] = start
        limiter = new(q)
        q[6] = border
        assert judged(limiter, Motion.at_rest(q), Motion.at_rest(q - sign * AXES[6] * 0.01)) == set()
        assert judged(limiter, Motion.at_rest(q + sign * AXES[6] * 3e-6)) == {"position"}
        assert judged(limiter, Motion.at_rest(q), Motion.at_rest(q + sign * AXES[6] * 3e-6)) == {"position"}


def test_the_hands_speed_is_limited_at_every_cycle() -> None:
    limiter = new()
    guard = CollisionChecker(ROBOT, OPEN)
    steps = [HOME_Q + AXES[0] * by for by in (0.002, 0.006, 0.007)]
    way = np.linalg.norm(np.diff([guard.hand(q) for q in [HOME_Q, *steps]], axis=0), axis=1) / DT
    motions = [Motion.at_rest(q) for q in steps]
    limiter._hand_speed = way[1] * 1.00001
    assert judged(limiter, *motions) == set()
    assert limiter._ahead == pytest.approx(way[1])
    limiter._hand_speed = way[1] * 0.99999
    assert judged(limiter, *motions) == {"cartesian_speed"}
    assert judged(limiter, *motions[:1]) == set() and limiter._ahead == 0.0
    assert judged(limiter, Motion.at_rest(steps[1])) == {"cartesian_speed"}, "nor in the first cycle"
    limiter._fastest = way[1] * 1.00001
    assert judged(limiter, *motions) == set(), "one that was faster already may brake"


@pytest.mark.parametrize(
    ("name", "joint", "surroundings"),
    [
        ("workspace", 0, Surroundings(workspace=Workspace(low=(0.0, -0.1, 0.0), high=(0.9, 0.1, 0.9)), table=None)),
        ("table", 1, Surroundings(workspace=OPEN.workspace, table=0.1)),
    ],
)
def test_the_surroundings_are_kept_and_what_is_broken_becomes_no_worse(
    name: str, joint: int, surroundings: Surroundings
) -> None:
    limiter = new(HOME_Q, surroundings)
    guard = CollisionChecker(ROBOT, surroundings)
    index = list(limiter.counts).index(name) - 5
    way = AXES[joint] * 0.01
    path = [HOME_Q + way * k for k in range(60)]
    worst = [guard.breach(q[None])[0, index] for q in path]
    first = next(k for k, breach in enumerate(worst) if breach > 0)
    limiter.reset(path[first - 1])
    assert judged(limiter, Motion.at_rest(path[first - 1])) == set()
    assert judged(limiter, Motion.at_rest(path[first])) == {name}
    assert judged(limiter, Motion.at_rest(path[first - 1]), Motion.at_rest(path[first])) == {name}
    limiter.reset(path[first])
    assert judged(limiter, Motion.at_rest(path[first - 1]), Motion.at_rest(path[first])) == set()
    assert judged(limiter, Motion.at_rest(path[first - 1]), Motion.at_rest(path[first + 1])) == {name}


def test_an_arm_keeps_clear_of_one_that_comes_nearer_though_it_stands_itself() -> None:
    guard = CollisionChecker(
        ROBOT, Surroundings(workspace=OPEN.workspace, table=None, arm_distance=0.05), PAIR[0], PAIR[1:]
    )
    limiter = Limiter(FR3, FRACTIONS, guard, DT)
    limiter.reset(HOME_Q)
    near = next(
        HOME_Q + AXES[0] * by
        for by in np.arange(0.0, 1.5, 0.02)
        if guard.breach(HOME_Q[None], (HOME_Q + AXES[0] * by)[None])[0, 3] > 0
    )
    stands = [Motion.at_rest(HOME_Q)]
    assert not limiter._breaks(stands, np.array([HOME_Q]))
    assert not limiter._breaks(stands, np.array([HOME_Q, HOME_Q, near - AXES[0] * 0.02]))
    assert limiter._breaks(stands, np.array([HOME_Q, HOME_Q, HOME_Q, near])) and counted(limiter) == {"arm_distance"}
    assert limiter._breaks(stands * 4, np.array([HOME_Q, near])), "and the other's last place stays"
    assert not limiter._breaks(stands * 4, np.array([near, near])), "who is near already becomes no nearer"


# The hand's speed


def test_joints_go_in_proportion_where_the_hand_would_be_too_fast() -> None:
    limiter, guard = new(), CollisionChecker(ROBOT, OPEN)
    wanted = Motion.at_rest(HOME_Q + AXES[0] * 0.008 - AXES[3] * 0.004)
    np.testing.assert_array_equal(limiter._joint_speeds(wanted), SPEED)
    hand = np.linalg.norm(guard.hand(wanted.q) - guard.hand(HOME_Q)) / DT
    limiter._hand_speed = float(hand) / HEADROOM * 1.0001
    np.testing.assert_array_equal(limiter._joint_speeds(wanted), SPEED)
    limiter._hand_speed = float(hand) / 2
    expected = np.array([0.8, 0, 0, 0.4, 0, 0, 0]) * HEADROOM / 2
    np.testing.assert_allclose(limiter._joint_speeds(wanted), np.maximum(expected, CREEP), rtol=1e-9)
    far = Motion.at_rest(HOME_Q + AXES[0] * 5 - AXES[3] * 5)
    eager = AXES[0] * SPEED[0] - AXES[3] * SPEED[3]
    hand = np.linalg.norm(guard.hand(HOME_Q + eager * DT) - guard.hand(HOME_Q)) / DT
    expected = np.maximum(np.abs(eager) * HEADROOM * limiter._hand_speed / hand, CREEP)
    np.testing.assert_allclose(limiter._joint_speeds(far), expected, rtol=1e-9)


@pytest.mark.parametrize("limit", [0.1, 0.3])
def test_the_hand_goes_as_fast_as_it_may_and_no_faster(limit: float) -> None:
    limiter, guard = new(), CollisionChecker(ROBOT, OPEN)
    path = follow(limiter, HOME_Q + AXES[0] * 1.0, 60, hand_speed=limit)
    hands = np.array([guard.hand(motion.q) for motion in path])
    speed = np.linalg.norm(np.diff(hands, axis=0), axis=1) / DT
    assert 0.9 * limit < speed.max() <= limit * (1 + 1e-5)


def test_a_lower_limit_of_the_hands_speed_slows_it_down_without_a_stop() -> None:
    limiter, guard = new(), CollisionChecker(ROBOT, OPEN)
    path = follow(limiter, HOME_Q + AXES[0] * 2.0, 40)
    path += follow(limiter, HOME_Q + AXES[0] * 2.0, 60, hand_speed=0.1)
    hands = np.array([guard.hand(motion.q) for motion in path])
    speed = np.linalg.norm(np.diff(hands, axis=0), axis=1) / DT
    assert speed[38] > 0.3 and 0.08 < speed[-1] <= 0.1 * (1 + 1e-5)
    assert speed[40:].max() <= speed[39] + 1e-3 and speed[40:].min() > 0.05
