"""The real controller moves, holds and stops the real arm model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limit_checker import LimitChecker
from molmoact_ros.control.supervisor import Event, State
from molmoact_ros.control.teleop import TeleopConfig
from molmoact_ros.robots.franka import HOME_Q

from .helpers import DT, ROBOT, chunk, hand, run, started


def test_nothing_is_commanded_before_the_first_joint_states() -> None:
    controller = Controller(ROBOT)
    assert controller.step(0.0) is None
    assert not controller.start(0.0)


def test_chunks_move_nothing_until_somebody_starts_the_arm() -> None:
    controller = Controller(ROBOT)
    controller.update_joints(HOME_Q, 0.08, 0.0)
    assert not controller.on_chunk(chunk(0.02), 0.05)
    assert np.allclose(run(controller, 0.1, 0.5)[-1], HOME_Q)


def test_the_arm_follows_a_chunk_and_then_holds() -> None:
    controller = started()
    run(controller, 0.0, 0.1)
    assert controller.on_chunk(chunk(0.02, stamp=0.1), 0.1)
    path = run(controller, 0.1, 1.2)
    assert hand(controller, path[-1])[0] - hand(controller, HOME_Q)[0] == pytest.approx(0.16, abs=0.002)
    held = run(controller, 1.3, 0.5)
    assert np.abs(np.array(held) - held[-1]).max() < 2e-3


def test_a_silent_policy_holds_the_arm_until_it_is_started_again() -> None:
    controller = started()
    assert controller.on_chunk(chunk(0.02, stamp=0.0), 0.0)
    late = 0.8 + controller.config.silence_deadline + 0.1
    run(controller, 0.0, late)
    assert controller.supervisor.state is State.HOLD
    assert not controller.on_chunk(chunk(0.02, stamp=late), late)
    assert controller.start(late)
    assert controller.on_chunk(chunk(0.02, stamp=late), late)


def test_a_plan_that_waits_for_approval_is_no_silence_but_a_dead_engine_is() -> None:
    controller = started()
    assert controller.on_chunk(chunk(0.02, stamp=0.0), 0.0)
    now = 0.0
    while now < 10.0:  # far beyond every silence
        run(controller, now, 0.1)
        now += 0.1
        controller.on_engine(now, pending=True)
    assert controller.supervisor.state is State.POLICY
    before = hand(controller, controller.arms[0].limiter.motion.q)
    assert controller.on_chunk(chunk(0.02, stamp=now), now), "the plan, released"
    assert hand(controller, run(controller, now, 0.8)[-1])[0] > before[0] + 0.05
    controller.on_engine(now + 0.8, pending=True)
    run(controller, now + 0.8, controller.config.engine_deadline + 0.1)
    assert controller.supervisor.state is State.HOLD and controller.supervisor.reason == Event.ENGINE_SILENT.value


def test_a_stop_is_latched_and_only_resume_lifts_it() -> None:
    controller = started()
    controller.on_chunk(chunk(0.02, stamp=0.0), 0.0)
    run(controller, 0.0, 0.3)
    controller.stop()
    stopped = run(controller, 0.3, 0.6)
    assert np.abs(stopped[-1] - stopped[20]).max() == 0, "at rest within 0.2 s"
    assert not controller.start(0.9)
    controller.arms[0].teleop.twist([0.1, 0, 0, 0, 0, 0], 0.9)
    assert np.abs(run(controller, 0.9, 0.1)[-1] - stopped[-1]).max() == 0, "nor does an operator's hand"
    assert controller.resume(1.0)


@pytest.mark.parametrize(
    ("event", "deadline"),
    [
        (Event.JOINTS_STALE, 0.1), (Event.NOT_FOLLOWING, 0.6), (Event.ENGINE_SILENT, 1.0), (Event.ENGINE_FAULT, 1.0),
        (Event.CAMERA_STALE, 1.0), (Event.CHUNK_INSANE, 0.0), (Event.CLOCK_JUMPED, 0.0), (Event.LATE, 0.0),
        (Event.POLICY_SILENT, 2.6),
    ],
)  # fmt: skip
def test_each_fault_holds_in_motion_within_its_deadline(event: Event, deadline: float) -> None:
    controller = started()
    period = 0.4  # of chunks
    held_at = None
    fault = 1.0
    stuck = None
    for k in range(500):
        now = k * DT
        faulty = now >= fault
        if k % round(period / DT) == 0 and not (faulty and event is Event.POLICY_SILENT):
            controller.on_chunk(chunk(0.012 * (-1) ** (k // 160), stamp=now, plan_id=k), now)
        if not (faulty and event is Event.ENGINE_SILENT) and k % 10 == 0:
            reason = "out of memory" if faulty and event is Event.ENGINE_FAULT else ""
            controller.on_engine(now, reason, now - fault if faulty and event is Event.CAMERA_STALE else 0.0)
        q = controller.arms[0].limiter.motion.q if k else HOME_Q
        stuck = q if stuck is None or not faulty else stuck
        if not (faulty and event is Event.JOINTS_STALE):
            controller.update_joints(stuck if event is Event.NOT_FOLLOWING else q, 0.08, now)
        if faulty and event is Event.CHUNK_INSANE:
            controller.on_chunk(ActionChunk(np.full((8, 7), np.nan), 0.1, now), now)
        if faulty and event in (Event.CLOCK_JUMPED, Event.LATE):
            controller.fault(event)
        controller.step(now)
        if held_at is None and controller.supervisor.state is State.HOLD:
            held_at = now
            assert faulty and controller.supervisor.reason.startswith(event.value)
    assert held_at is not None
    if event is not Event.NOT_FOLLOWING:  # which shows only as the arm is told to move
        assert held_at - fault <= deadline + 0.12
    assert not controller.arms[0].limiter.motion.dq.any(), "and it stands until somebody says go"


def test_a_person_takes_over_in_mid_motion_within_50_ms_and_hands_back_within_all_limits() -> None:
    config = ControllerConfig(teleop=TeleopConfig(hand_back=True))
    controller = started(config)
    checker = LimitChecker(ROBOT, DT, config.fractions, config.surroundings)
    person, states, path = controller.arms[0].teleop, [], []
    for k in range(300):
        now = k * DT
        if k % 40 == 0:
            controller.on_chunk(chunk(0.012 if k < 160 else -0.012, stamp=now, plan_id=k), now)
        if 70 <= k < 150:
            person.twist([0.0, 0.15, 0.0, 0.0, 0.0, 0.0], now)
        (q,) = run(controller, now, DT)
        assert not checker.command(q)
        states.append(controller.supervisor.state)
        path.append(hand(controller, q))
    assert states[69] is State.POLICY and states[70] is State.TELEOP
    assert path[75][1] - path[70][1] > 0.001, "moves as told 50 ms after the first word"
    assert path[150][1] - path[70][1] == pytest.approx(0.12, abs=0.02)
    assert states[150 + 25] is State.POLICY and np.abs(path[-1] - path[180]).max() > 0.01, "the policy goes on"


def test_a_person_who_pushes_against_the_border_can_turn_back_at_once() -> None:
    controller = started()
    person = controller.arms[0].teleop
    heights = []
    for k in range(500):
        person.twist([0, 0, -0.2 if k < 300 else 0.2, 0, 0, 0], k * DT)
        (q,) = run(controller, k * DT, DT)
        heights.append(hand(controller, q)[2])
    assert 0.0119 < heights[299] < 0.0135, "at the border"
    assert heights[330] > heights[299] + 0.02 and heights[-1] > 0.3


def test_letting_go_holds_unless_the_policy_was_to_go_on() -> None:
    controller = started()
    controller.arms[0].teleop.twist([0.0, 0.1, 0.0, 0.0, 0.0, 0.0], 0.0)
    run(controller, 0.0, 0.1)
    assert controller.supervisor.state is State.TELEOP
    assert not controller.on_chunk(chunk(stamp=0.1), 0.1)
    assert not controller.start(0.1), "nor does an instruction take the arm out of an operator's hand"
    still = run(controller, 0.1, 1.0)
    assert controller.supervisor.state is State.HOLD
    assert np.abs(still[-1] - still[-20]).max() == 0
    assert controller.resume(1.1)


def test_a_persons_joints_gripper_and_dead_mans_switch() -> None:
    controller = started(ControllerConfig(teleop=TeleopConfig(deadman=True)))
    person, goal = controller.arms[0].teleop, HOME_Q + [0.3, 0, 0, 0, 0, 0, 0]
    person.joints(goal, 0.0)
    run(controller, 0.0, 0.05)
    assert controller.supervisor.state is State.POLICY, "nobody holds the switch"
    for k in range(150):
        now = 0.05 + k * DT
        person.deadman(True, now)
        person.joints(goal, now)
        person.gripper(0.03, now)
        (q,) = run(controller, now, DT)
    np.testing.assert_allclose(q, goal, atol=1e-6)
    assert controller.arms[0].opening == pytest.approx(0.03)
    person.deadman(False, now)
    run(controller, now, 0.05)
    assert controller.supervisor.state is State.HOLD


def test_nonsense_of_a_person_changes_nothing() -> None:
    person = started().arms[0].teleop
    assert not person.twist([np.nan] * 6, 0.0) and not person.twist([0.0] * 5, 0.0)
    assert not person.joints([np.inf] * 7, 0.0) and not person.gripper(np.nan, 0.0)
    assert not person.active(0.0)
    assert person.twist([100.0, 0, 0, 0, 0, 0], 0.0)
    twist = person.wish(0.0).twist
    assert twist is not None and np.linalg.norm(twist[:3]) == pytest.approx(0.25)


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-0.03, 0.03), min_size=24, max_size=24), st.booleans())
def test_no_chunk_takes_the_hand_out_of_the_workspace(values: list[float], close: bool) -> None:
    controller = started()
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 6] = np.array(values).reshape(8, 3) * 1.6, float(close)
    controller.on_chunk(ActionChunk(actions, 0.1, 0.0), 0.0)
    box = controller.config.surroundings.workspace
    for q in run(controller, 0.0, 1.0):
        position = hand(controller, q)
        assert np.all(position > np.array(box.low) - 1e-6) and np.all(position < np.array(box.high) + 1e-6)
