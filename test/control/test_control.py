"""The real player, kinematics, limiter and supervisor on the real arm model."""

from __future__ import annotations

import re
from collections.abc import Callable
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from molmoact_ros.benchmarks.chunk_seams import seams
from molmoact_ros.benchmarks.fuzz import fuzz
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, RefusedChunk, join, split, still
from molmoact_ros.control.chunk_player import BLEND_MAX, ChunkPlayer
from molmoact_ros.control.collision import NAMES, CollisionChecker, Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.control.latency import Latency
from molmoact_ros.control.limit_checker import LimitChecker
from molmoact_ros.control.limiter import Limiter, LimitScaling, Motion
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.supervisor import TRANSITIONS, Event, State, Supervisor
from molmoact_ros.control.teleop import TeleopConfig
from molmoact_ros.robots.franka import FR3, HOME_Q, JOINTS, PANDA, Arm
from molmoact_ros.utils.paths import share

ROBOT = share() / "models" / "fr3" / "fr3.xml"
DT = 0.01
START = Pose(np.array([0.4, 0.0, 0.25]), Rotation.identity())


def always(pose: Pose) -> Callable[[], Pose]:
    return lambda: pose


def chunk(dx: float = 0.01, stamp: float = 0.0, gripper: float = 1.0, plan_id: int = 0) -> ActionChunk:
    actions = np.zeros((8, 7))
    actions[:, 0], actions[:, 6] = dx, gripper
    return ActionChunk(actions, 0.1, stamp, plan_id)


class Playing:
    """A player whose every target is executed at once."""

    def __init__(self, mode: str = "realtime") -> None:
        self.player, self.now = ChunkPlayer(mode), 0.0  # type: ignore[arg-type]
        self.player.reset(START, HOME_Q, 0.0)

    def position(self) -> np.ndarray:
        pose = self.player.target().pose
        assert pose is not None
        return pose.position

    def run(self, seconds: float) -> np.ndarray:
        """The targets' positions [n, 3] m of the next `seconds`."""
        out = []
        for _ in range(round(seconds / DT)):
            self.now += DT
            self.player.advance(DT)
            target = self.player.target()
            assert target.pose is not None
            self.player.commanded(always(target.pose), HOME_Q, self.now)
            out.append(target.pose.position)
        return np.array(out)


def run(controller: Controller, start: float, seconds: float) -> list[np.ndarray]:
    """Commanded joints of the next `seconds`, with an arm that follows at once."""
    out: list[np.ndarray] = []
    arm = controller.arms[0]
    for k in range(round(seconds / DT)):
        now = start + k * DT
        controller.update_joints(arm.limiter.motion.q if arm.measured is not None else HOME_Q, 0.08, now)
        commands = controller.step(now)
        assert commands is not None
        out.append(commands[0].position)
    return out


def started(config: ControllerConfig | None = None) -> Controller:
    controller = Controller(ROBOT, config)
    controller.update_joints(HOME_Q, 0.08, 0.0)
    assert controller.start(0.0)
    return controller


def hand(controller: Controller, q: np.ndarray) -> np.ndarray:
    return controller.arms[0].kinematics.forward(q).position


# Player


def test_what_was_executed_since_the_picture_is_skipped_and_nothing_else() -> None:
    playing = Playing()
    playing.run(1.0)
    playing.player.load(chunk(stamp=0.4), playing.now)  # a late first plan: nothing of it was executed yet
    assert playing.position()[0] == pytest.approx(0.4, abs=1e-9)
    playing.run(0.5)
    taken = playing.now - 0.2
    playing.player.load(chunk(stamp=taken, plan_id=1), playing.now)  # 0.2 s of path were executed since this picture
    playing.run(0.05 + BLEND_MAX)
    assert playing.player.remaining == pytest.approx(0.9 - 0.2 - 0.05 - BLEND_MAX, abs=1e-6)


def test_a_slowed_arm_skips_less_than_the_clock_says() -> None:
    playing = Playing()
    playing.player.load(chunk(stamp=0.0), 0.0)
    for _ in range(30):
        playing.now += DT
        playing.player.advance(DT / 2)
        playing.player.commanded(lambda: START, HOME_Q, playing.now)
    playing.player.load(chunk(stamp=0.1, plan_id=1), playing.now)
    assert playing.player.remaining == pytest.approx(0.9 - 0.1, abs=1e-6)


def test_a_seam_keeps_position_and_speed_and_the_end_is_held() -> None:
    playing = Playing()
    playing.player.load(chunk(0.01, stamp=0.0), 0.0)
    before = playing.run(0.5)
    playing.player.load(chunk(-0.01, stamp=0.3, plan_id=1), playing.now)
    after = playing.run(2.0)
    path = np.vstack([before, after])
    speed = np.diff(path, axis=0) / DT
    assert np.abs(np.diff(speed, axis=0)).max() < 0.1, "no jump of the speed, which changes by 0.2 m/s"
    np.testing.assert_allclose(after[-1], after[-50], atol=1e-12)
    assert playing.player.remaining == 0 and np.abs(speed[-1]).max() == 0


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.floats(-0.02, 0.02), min_size=6, max_size=6), st.floats(0.0, 0.4), st.floats(0.05, 0.8),
    st.sampled_from([ActionSpace.DELTA_EE, ActionSpace.EE]),
)  # fmt: skip
def test_no_seam_jumps(moves: list[float], late: float, after: float, space: ActionSpace) -> None:
    playing = Playing()
    playing.player.load(chunk(moves[0], stamp=0.0), 0.0)
    first = playing.run(after)
    actions = np.zeros((8, 7))
    actions[:, :3], actions[:, 3:6] = moves[:3], np.array(moves[3:]) * 5
    stamp = max(0.005, playing.now - late)
    if space is ActionSpace.EE:
        there = playing.player._at(stamp).target.pose
        assert there is not None
        actions[:, :3] = there.position + np.cumsum(actions[:, :3], axis=0)
    playing.player.load(ActionChunk(actions, 0.1, stamp, 1, space), playing.now)
    speed = np.diff(np.vstack([first, playing.run(1.5)]), axis=0) / DT
    assert np.abs(np.diff(speed, axis=0)).max() < 0.2


def test_modes_differ_as_they_should() -> None:
    jumps = {}
    for mode in ("realtime", "naive", "ensemble"):
        playing = Playing(mode)
        playing.player.load(chunk(0.01, stamp=0.0), 0.0)
        before = playing.run(0.5)
        playing.player.load(chunk(-0.01, stamp=0.3, plan_id=1), playing.now)
        speed = np.diff(np.vstack([before, playing.run(0.5)]), axis=0) / DT
        jumps[mode] = float(np.abs(np.diff(speed, axis=0)).max())
    assert jumps["realtime"] < 0.5 * min(jumps["naive"], jumps["ensemble"])


def test_joint_actions_are_played_as_they_are() -> None:
    controller = started()
    actions = np.zeros((8, 8))
    actions[:, :7] = HOME_Q + np.linspace(0.02, 0.16, 8)[:, None] * [1, 0, 0, 0, 0, 0, -1]
    assert controller.on_chunk(ActionChunk(actions, 0.1, 0.0, space=ActionSpace.JOINT), 0.0)
    np.testing.assert_allclose(run(controller, 0.0, 1.5)[-1], actions[-1, :7], atol=1e-6)


def test_absolute_actions_bring_the_hand_where_they_say() -> None:
    controller = started()
    pose = controller.arms[0].kinematics.forward(HOME_Q)
    goal = pose.position + [0.06, 0.05, -0.04]
    actions = np.zeros((8, 7))
    actions[:, :3] = np.linspace(pose.position, goal, 9)[1:]
    actions[:, 3:6] = pose.rotation.as_euler("xyz")
    assert controller.on_chunk(ActionChunk(actions, 0.1, 0.0, space=ActionSpace.EE), 0.0), controller.last_refusal
    assert np.linalg.norm(hand(controller, run(controller, 0.0, 1.6)[-1]) - goal) < 1e-3


@pytest.mark.parametrize(
    ("bad", "why"),
    [
        (ActionChunk(np.zeros((8, 6)), 0.1, 0.0), "shape"),
        (ActionChunk(np.zeros((0, 7)), 0.1, 0.0), "shape"),
        (ActionChunk(np.zeros((8, 7)), 0.1, 0.0, space=ActionSpace.JOINT), "shape"),
        (ActionChunk(np.full((8, 7), np.nan), 0.1, 0.0), "NaN"),
        (ActionChunk(np.zeros((8, 7)), float("inf"), 0.0), "NaN"),
        (ActionChunk(np.full((8, 7), 0.9), 0.1, 0.0), "faster"),
        (ActionChunk(np.array([[0, 0, 0, 0.2, 0, 0, 0]] * 16), 0.1, 0.0), "turns"),
        (ActionChunk(np.full((8, 7), 0.2), 0.1, 0.0, space=ActionSpace.EE), "begins far"),
        (ActionChunk(np.zeros((8, 7)), 0.1, 5.0), "future"),
        (ActionChunk(np.zeros((8, 7)), 0.1, -5.0), "ago"),
        (ActionChunk(np.zeros((8, 7)), 0.0, 0.0), "steps of"),
    ],
)
def test_a_bad_chunk_is_refused_with_its_reason_and_changes_nothing(bad: ActionChunk, why: str) -> None:
    playing = Playing()
    playing.player.load(chunk(stamp=-0.001), now=0.05)
    before = playing.player.target(0.3).pose
    with pytest.raises(RefusedChunk, match=why):
        playing.player.load(bad, now=0.1)
    after = playing.player.target(0.3).pose
    assert before is not None and after is not None
    np.testing.assert_array_equal(after.position, before.position)


def test_an_older_chunk_never_replaces_a_newer_one() -> None:
    playing = Playing()
    playing.player.load(chunk(stamp=0.2), now=0.3)
    with pytest.raises(RefusedChunk, match="older"):
        playing.player.load(chunk(stamp=0.1), now=0.3)


def test_a_plan_for_two_arms_holds_translations_then_rotations_then_grippers() -> None:
    actions = np.arange(28, dtype=float).reshape(2, 14)
    left, right = split(ActionChunk(actions, 0.1, 0.0), 2)
    np.testing.assert_array_equal(left.actions[0], [0, 1, 2, 6, 7, 8, 12])
    np.testing.assert_array_equal(right.actions[0], [3, 4, 5, 9, 10, 11, 13])
    with pytest.raises(RefusedChunk, match="shape"):
        split(ActionChunk(actions, 0.1, 0.0), 1)
    left, right = split(ActionChunk(np.arange(16.0)[None], 0.1, 0.0, space=ActionSpace.JOINT), 2)
    np.testing.assert_array_equal(left.actions[0], [*range(7), 14])
    np.testing.assert_array_equal(right.actions[0], [*range(7, 14), 15])
    for space, width in ((ActionSpace.DELTA_EE, 7), (ActionSpace.EE, 7), (ActionSpace.JOINT, 8)):
        parts = [np.random.default_rng(n).normal(size=(3, width)) for n in (0, 1)]
        again = split(ActionChunk(join(parts, space), 0.1, 0.0, space=space), 2)
        np.testing.assert_array_equal([chunk.actions for chunk in again], parts)
    (alone,) = split(ActionChunk(actions[:, :7], 0.1, 0.0), 1)
    np.testing.assert_array_equal(alone.actions, actions[:, :7])


def test_a_still_plan_moves_nothing_and_leaves_the_fingers() -> None:
    for arms in (1, 2):
        actions = np.random.default_rng(arms).normal(size=(8, 7 * arms))
        for part, before in zip(
            split(ActionChunk(still(actions), 0.1, 0.0), arms), split(ActionChunk(actions, 0.1, 0.0), arms), strict=True
        ):
            assert not part.actions[:, :6].any() and (part.actions[:, 6] == before.actions[-1, 6]).all()


def test_latency_leaves_the_warm_up_out_and_shrugs_at_outliers() -> None:
    latency = Latency()
    latency.add_sample(9.0)
    assert np.isnan(latency.seconds)
    for seconds in (0.1, 0.12, 5.0, 0.11):
        latency.add_sample(seconds)
    assert latency.seconds == pytest.approx(0.115)
    latency.restart()
    latency.add_sample(9.0)
    assert latency.seconds == pytest.approx(0.115)


# Kinematics and limits


def test_kinematics_reaches_a_target_within_a_millimetre() -> None:
    kinematics = Kinematics(ROBOT)
    rng, q = np.random.default_rng(3), HOME_Q
    down = kinematics.forward(HOME_Q).rotation
    for _ in range(5):
        target = Pose(rng.uniform([0.38, -0.25, 0.05], [0.65, 0.25, 0.35]), down)
        for _ in range(250):
            q = kinematics.solve(q, target, DT)
        reached = kinematics.forward(q)
        assert np.linalg.norm(reached.position - target.position) < 1e-3
        assert (reached.rotation * down.inv()).magnitude() < 0.02


def test_a_stretched_arm_is_near_a_singularity() -> None:
    kinematics = Kinematics(ROBOT)
    stretched = np.array([0.0, 0.5, 0.0, -0.16, 0.0, 1.8, 0.0])
    assert kinematics.dexterity(HOME_Q) > 0.15 > 0.06 > kinematics.dexterity(stretched)


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


def test_nonsense_never_breaks_a_limit() -> None:
    result = fuzz(ROBOT, 6000, seed=11)
    print(f"{result.actions} actions, seed {result.seed}: {result.cycles} cycles, broken {result.broken}")
    assert result.played > 50 and result.refused > 100 and result.moving > result.cycles / 4
    assert not any(result.broken.values()), result.broken


def test_our_seams_are_the_smoothest_and_as_exact_as_any() -> None:
    rows = {(row.mode, row.latency): row for row in seams(ROBOT, (0.0, 0.2), seconds=6.0)}
    assert all(row.within_limits for row in rows.values())
    for latency in (0.0, 0.2):
        ours, naive = rows["realtime", latency], rows["naive", latency]
        assert ours.jerk < 0.5 * min(naive.jerk, rows["ensemble", latency].jerk)
        assert ours.mean_error < min(naive.mean_error, rows["ensemble", latency].mean_error) + 0.5  # mm


# Supervisor


def test_every_state_answers_every_event_as_the_table_says() -> None:
    for state, event in product(State, Event):
        supervisor = Supervisor()
        supervisor.state = state
        supervisor.on(event)
        assert supervisor.state is TRANSITIONS.get((state, event), state)
    assert all(TRANSITIONS[(state, Event.STOP)] is State.STOPPED for state in State)
    lifts = {event for (state, event), after in TRANSITIONS.items() if state is State.STOPPED and after is not state}
    assert lifts == {Event.RESUME}


def test_the_documents_table_is_the_codes() -> None:
    text = (Path(__file__).parents[2] / "docs" / "safety.md").read_text()
    text = text.split("## Transitions")[1].split("## Deadlines")[0]
    rows = re.findall(r"^\| ([A-Z_]+) \|(.+)\|$", text, re.MULTILINE)
    header = next(cells for name, cells in re.findall(r"^\| (event) \|(.+)\|$", text, re.MULTILINE))
    states = [State[cell.strip()] for cell in header.split("|")]
    assert set(states) == set(State)
    told = {}
    for name, cells in rows:
        for state, cell in zip(states, cells.split("|"), strict=False):
            if cell.strip() not in ("", "-"):
                told[state, Event[name]] = State[cell.strip()]
    assert told == TRANSITIONS
    assert {name for name, _ in rows} == {event.name for event in Event}


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
    assert np.abs(run(controller, 0.9, 0.1)[-1] - stopped[-1]).max() == 0, "nor does a person's hand"
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


# A person's hand


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
    assert not controller.start(0.1), "nor does an instruction take the arm out of a person's hand"
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
