"""Two arms: the same controller with a list of two, one plan, one supervisor, and a distance that is kept."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.benchmarks.fuzz import CROWDED, fuzz
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace
from molmoact_ros.control.collision import CollisionChecker, Surroundings
from molmoact_ros.control.controller import Controller
from molmoact_ros.control.limit_checker import DistanceChecker, LimitChecker
from molmoact_ros.control.supervisor import State
from molmoact_ros.robots.franka import HOME_Q, PAIR
from molmoact_ros.utils.paths import robot_model

ROBOT = robot_model()
DT = 0.01


def started() -> Controller:
    controller = Controller(ROBOT, arms=PAIR)
    for number in (0, 1):
        controller.update_joints(HOME_Q, 0.08, 0.0, number)
    assert controller.start(0.0)
    return controller


def chunk(left: np.ndarray, right: np.ndarray, stamp: float, plan_id: int = 0) -> ActionChunk:
    """Eight equal steps: hand displacements [3] m of each arm, grippers open."""
    actions = np.zeros((8, 14))
    actions[:, :3], actions[:, 3:6], actions[:, 12:] = left, right, 1.0
    return ActionChunk(actions, 0.1, stamp, plan_id)


def cycle(controller: Controller, now: float, deaf: int | None = None) -> np.ndarray:
    """One cycle of arms that follow at once, except for arm `deaf`, which says nothing; the joints [14] rad."""
    commands = controller.step(now)
    assert commands is not None
    for number, command in enumerate(commands):
        if number != deaf:
            controller.update_joints(command.position, 0.08, now, number)
    return np.concatenate([command.position for command in commands])


def hands(controller: Controller) -> np.ndarray:
    """Where the hands are told to be, each in its base frame, [2, 3] m."""
    return np.array([arm.kinematics.forward(arm.limiter.motion.q).position for arm in controller.arms])


def test_each_arm_does_its_part_of_one_plan() -> None:
    controller = started()
    before = hands(controller)
    left, right = np.array([0.01, 0.0, -0.01]), np.array([0.0, -0.01, 0.01])
    assert controller.on_chunk(chunk(left, right, 0.0), 0.0), controller.last_refusal
    for k in range(150):
        cycle(controller, k * DT)
    np.testing.assert_allclose(hands(controller) - before, 8 * np.array([left, right]), atol=2e-3)


def test_a_plan_is_played_by_both_arms_or_none() -> None:
    controller = started()
    pose = controller.arms[0].kinematics.forward(HOME_Q)
    place, turn = np.tile(pose.position, (4, 1)), np.tile(pose.rotation.as_euler("xyz"), (4, 1))
    far, grippers = place + [0, 0.2, 0], np.zeros((4, 2))
    bad, good = np.hstack([place, far, turn, turn, grippers]), np.hstack([place, place, turn, turn, grippers])
    assert not controller.on_chunk(ActionChunk(bad, 0.1, 0.0, space=ActionSpace.EE), 0.01)
    assert "begins far" in controller.last_refusal and not controller.arms[0].player.loaded
    assert controller.on_chunk(ActionChunk(good, 0.1, 0.0, space=ActionSpace.EE), 0.01)


def test_arms_wait_for_each_other() -> None:
    """A plan is one: where the right arm can go on at a quarter of the speed only, so does the left one."""
    controller = started()
    controller.arms[1].pace = lambda: 0.25  # type: ignore[method-assign]
    before = hands(controller)
    assert controller.on_chunk(chunk(np.array([0.01, 0, 0]), np.array([0.01, 0, 0]), 0.0), 0.0)
    for k in range(60):
        cycle(controller, k * DT)
    moved = (hands(controller) - before)[:, 0]
    assert moved[0] == pytest.approx(moved[1], abs=1e-3) and 0.001 < moved[0] < 0.03


@pytest.mark.parametrize("deaf", [0, 1])
def test_one_arms_fault_holds_both(deaf: int) -> None:
    controller = started()
    step = np.array([0.015, 0, 0])
    for k in range(60):
        if k % 20 == 0:
            assert controller.on_chunk(chunk(step, step, k * DT, k), k * DT)
        cycle(controller, k * DT)
    assert all(arm.limiter.motion.dq.any() for arm in controller.arms)
    for k in range(60, 120):
        cycle(controller, k * DT, deaf=deaf)
    assert controller.supervisor.state is State.HOLD and "stale" in controller.supervisor.reason
    assert not any(arm.limiter.motion.dq.any() for arm in controller.arms)


def test_a_person_moves_one_arm_while_the_other_stands() -> None:
    controller = started()
    before = hands(controller)
    for k in range(80):
        controller.arms[1].teleop.twist([0, 0, 0.1, 0, 0, 0], k * DT)
        cycle(controller, k * DT)
    assert controller.supervisor.state is State.TELEOP
    assert controller.supervisor.reason.endswith(": right_twist")
    rise = (hands(controller) - before)[:, 2]
    assert abs(rise[0]) < 1e-6 and rise[1] == pytest.approx(0.08, abs=0.02)


def test_the_guard_measures_the_distance_between_arms_as_the_checker_does() -> None:
    surroundings, between = Surroundings(arm_distance=0.1), DistanceChecker(ROBOT, PAIR)
    guard = CollisionChecker(ROBOT, surroundings, PAIR[0], PAIR[1:])
    rng, near = np.random.default_rng(5), 0
    for _ in range(60):
        q = np.tile(HOME_Q, 2) + rng.uniform(-0.4, 0.4, 14)
        q[0], q[7] = rng.uniform(-0.9, -0.3), rng.uniform(0.3, 0.9)  # towards each other
        distance = between.distance(q, 0.1)
        breach = guard.breach(q[None, :7], q[None, 7:])[0, 3]
        if distance > 0:  # inside each other, MuJoCo's two ways differ
            assert breach == pytest.approx(0.1 - distance, abs=1e-4)
            near += distance < 0.1
        else:
            assert breach >= 0.1
    assert near > 10


def test_an_arm_tells_the_next_one_where_it_was_and_where_it_goes_cycle_by_cycle() -> None:
    """Where one is *now* beside where the other *was* is a pair that never is, and no breach to make allowance for."""
    controller = started()
    limiter = controller.arms[0].limiter
    assert controller.on_chunk(chunk(np.array([0.02, 0, 0]), np.array([0.02, 0, 0]), 0.0), 0.0)
    for k in range(20):
        ahead = limiter.planned(False)
        cycle(controller, k * DT)
        told = limiter.planned(True)
        np.testing.assert_array_equal(told[0], ahead[0])
        np.testing.assert_array_equal(told[1], limiter.motion.q)
    assert len(told) > 5 and (told[1] != told[0]).any()


@pytest.mark.parametrize("seed", range(3))
def test_arms_driven_at_each_other_never_touch(seed: int) -> None:
    """Chunks that push the hands together, people at one arm, stops: every limit holds at every cycle."""
    controller, rng = started(), np.random.default_rng(seed)
    config = controller.config
    between = DistanceChecker(ROBOT, PAIR)
    checkers = [LimitChecker(ROBOT, DT, config.fractions, config.surroundings, arm) for arm in PAIR]
    kept, closest, push = config.surroundings.arm_distance, np.inf, np.zeros((2, 3))
    for k in range(900):
        now = k * DT
        if k % 75 == 0:
            push = rng.normal(0, 0.008, (2, 3)) + [[0, -0.02, 0], [0, 0.02, 0]]
        if k % 25 == 0:
            controller.on_chunk(chunk(push[0], push[1], now, k), now)
        if 300 <= k < 360:
            controller.arms[seed % 2].teleop.twist([0, 0.25 * (2 * (seed % 2) - 1), 0, 0, 0, 0], now)
        if rng.random() < 0.005:
            controller.stop()
        if rng.random() < 0.1:
            controller.resume(now)
        q = cycle(controller, now)
        closest = min(closest, between.distance(q, 1.0))
        assert closest > kept - 1e-5, f"{closest:.4f} m at cycle {k}"
        for checker, part in zip(checkers, np.split(q, 2), strict=True):
            assert not checker.command(part)
    assert controller.counts["arm_distance"] > 0 and closest < kept + 0.01, "they were really driven together"


def test_nonsense_for_two_arms_never_breaks_a_limit() -> None:
    result = fuzz(ROBOT, 8000, seed=2, arms=CROWDED)
    print(f"{result.actions} actions, seed {result.seed}: {result.cycles} cycles, broken {result.broken}")
    assert result.played > 20 and result.moving > result.cycles / 4 and result.counts["arm_distance"] > 0
    assert not any(result.broken.values()), result.broken
