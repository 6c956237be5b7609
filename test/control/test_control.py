"""The real player, kinematics, limiter and supervisor on the real arm model."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from molmoact_ros.control.chunk_player import ActionChunk, ChunkPlayer, RefusedChunk
from molmoact_ros.control.controller import Controller
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.limiter import Limiter
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.supervisor import TRANSITIONS, Event, State, Supervisor
from molmoact_ros.paths import share
from molmoact_ros.robots.franka import ACCELERATION_MAX, HOME_Q, POSITION_MAX, POSITION_MIN, VELOCITY_MAX

ROBOT = share() / "models" / "fr3" / "fr3.xml"
DT = 0.02
START = Pose(np.array([0.4, 0.0, 0.25]), Rotation.identity())


def chunk(dx: float = 0.01, stamp: float = 0.0, gripper: float = 1.0, plan_id: int = 0) -> ActionChunk:
    actions = np.zeros((8, 7))
    actions[:, 0], actions[:, 6] = dx, gripper
    return ActionChunk(actions, 0.1, stamp, plan_id)


def run(controller: Controller, start: float, seconds: float) -> list[np.ndarray]:
    out: list[np.ndarray] = []
    for k in range(round(seconds / DT)):
        now = start + k * DT
        controller.update_joints(HOME_Q if not out else out[-1], 0.08, now)
        command = controller.step(now)
        assert command is not None
        out.append(command.q)
    return out


def started() -> Controller:
    controller = Controller(ROBOT)
    controller.update_joints(HOME_Q, 0.08, 0.0)
    assert controller.start(0.0)
    return controller


def test_a_late_chunk_goes_on_where_it_should_be() -> None:
    player = ChunkPlayer()
    player.reset(START, 0.0)
    player.load(chunk(0.01, stamp=0.0), now=0.35)
    pose, _ = player.target(0.35 + 0.2)  # after the blend
    assert pose.position[0] == pytest.approx(0.4 + 0.01 * 5.5)


def test_a_new_chunk_is_blended_in_without_a_jump_and_the_end_is_held() -> None:
    player = ChunkPlayer()
    player.reset(START, 0.0)
    player.load(chunk(0.02, stamp=0.0), now=0.1)
    before, _ = player.target(0.5)
    player.load(chunk(-0.02, stamp=0.3, plan_id=1), now=0.5)
    after, _ = player.target(0.5)
    np.testing.assert_allclose(before.position, after.position, atol=1e-9)
    last, _ = player.target(1.1)
    np.testing.assert_allclose(player.target(9.0)[0].position, last.position)
    assert player.remaining(2.0) < 0


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (ActionChunk(np.zeros((8, 6)), 0.1, 0.0), "shape"),
        (ActionChunk(np.zeros((0, 7)), 0.1, 0.0), "shape"),
        (ActionChunk(np.full((8, 7), np.nan), 0.1, 0.0), "NaN"),
        (ActionChunk(np.zeros((8, 7)), float("inf"), 0.0), "NaN"),
        (ActionChunk(np.full((8, 7), 0.9), 0.1, 0.0), "farther"),
        (ActionChunk(np.zeros((8, 7)), 0.1, 5.0), "future"),
        (ActionChunk(np.zeros((8, 7)), 0.1, -5.0), "ago"),
        (ActionChunk(np.zeros((8, 7)), 0.0, 0.0), "steps of"),
    ],
)
def test_a_bad_chunk_is_refused_with_its_reason_and_changes_nothing(bad: ActionChunk, why: str) -> None:
    player = ChunkPlayer()
    player.reset(START, 0.0)
    player.load(chunk(), now=0.05)
    before = player.target(0.4)[0].position
    with pytest.raises(RefusedChunk, match=why):
        player.load(bad, now=0.1)
    np.testing.assert_array_equal(player.target(0.4)[0].position, before)


def test_an_older_chunk_never_replaces_a_newer_one() -> None:
    player = ChunkPlayer()
    player.reset(START, 0.0)
    player.load(chunk(stamp=0.2), now=0.3)
    with pytest.raises(RefusedChunk, match="older"):
        player.load(chunk(stamp=0.1), now=0.3)


def test_kinematics_reaches_a_target_within_a_millimetre() -> None:
    kinematics = Kinematics(ROBOT)
    rng, q = np.random.default_rng(3), HOME_Q
    down = kinematics.forward(HOME_Q).rotation
    for _ in range(5):
        target = Pose(rng.uniform([0.38, -0.25, 0.05], [0.65, 0.25, 0.35]), down)
        for _ in range(150):
            q = kinematics.solve(q, target, DT)
        reached = kinematics.forward(q)
        assert np.linalg.norm(reached.position - target.position) < 1e-3
        assert (reached.rotation * down.inv()).magnitude() < 0.02


@settings(max_examples=60, deadline=None)
@given(
    st.lists(st.lists(st.floats(-4, 5, allow_nan=False) | st.just(float("nan")), min_size=7, max_size=7), max_size=40)
)
def test_no_wanted_position_ever_breaks_a_limit(wanted: list[list[float]]) -> None:
    limiter, q, dq = Limiter(), HOME_Q.copy(), np.zeros(7)
    for target in wanted:
        for _ in range(12):
            q_next, dq_next = limiter.step(q, dq, np.array(target), DT)
            assert np.all(np.abs(dq_next) <= VELOCITY_MAX + 1e-9)
            assert np.all(np.abs(dq_next - dq) <= ACCELERATION_MAX * DT + 1e-9)
            assert np.all((q_next >= POSITION_MIN) & (q_next <= POSITION_MAX))
            q, dq = q_next, dq_next


def test_every_state_answers_every_event_as_the_table_says() -> None:
    for state in State:
        for event in Event:
            supervisor = Supervisor()
            supervisor.state = state
            supervisor.on(event)
            assert supervisor.state is TRANSITIONS.get((state, event), state)
    assert all(TRANSITIONS[(state, Event.STOP)] is State.STOPPED for state in State)
    assert (State.STOPPED, Event.START) not in TRANSITIONS


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
    moved = controller.kinematics.forward(path[-1]).position - controller.kinematics.forward(HOME_Q).position
    assert moved[0] == pytest.approx(0.16, abs=0.004)
    held = run(controller, 1.3, 0.5)
    assert np.abs(np.array(held) - held[-1]).max() < 2e-3


def test_a_silent_policy_holds_the_arm_until_it_is_started_again() -> None:
    controller = started()
    assert controller.on_chunk(chunk(0.02, stamp=0.0), 0.0)
    run(controller, 0.0, 0.8 + controller.config.silence_deadline + 0.1)
    assert controller.supervisor.state is State.HOLD
    late = 0.8 + controller.config.silence_deadline + 0.1
    assert not controller.on_chunk(chunk(0.02, stamp=late), late)
    assert controller.start(late)
    assert controller.on_chunk(chunk(0.02, stamp=late), late)


def test_a_stop_is_latched_and_only_resume_lifts_it() -> None:
    controller = started()
    controller.on_chunk(chunk(0.02, stamp=0.0), 0.0)
    run(controller, 0.0, 0.3)
    controller.stop()
    stopped = run(controller, 0.3, 0.6)
    assert np.abs(stopped[-1] - stopped[-10]).max() < 1e-6
    assert not controller.start(0.9)
    assert controller.resume(0.9)


def test_stale_joints_hold_the_arm() -> None:
    controller = started()
    controller.on_chunk(chunk(0.02, stamp=0.0), 0.0)
    for k in range(20):
        controller.step(k * DT)
    assert controller.supervisor.state is State.HOLD


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-0.03, 0.03), min_size=24, max_size=24), st.booleans())
def test_no_chunk_takes_the_hand_out_of_the_workspace(values: list[float], close: bool) -> None:
    controller = started()
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 6] = np.array(values).reshape(8, 3) * 1.6, float(close)
    controller.on_chunk(ActionChunk(actions * [1, 1, 1, 1, 1, 1, 1], 0.1, 0.0), 0.0)
    box = controller.config.workspace
    for q in run(controller, 0.0, 1.0):
        position = controller.kinematics.forward(q).position
        assert np.all(position > np.array(box.low) - 0.01) and np.all(position < np.array(box.high) + 0.01)
