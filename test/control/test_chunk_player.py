"""Which chunks are played, from where on, and how one goes on into the next: `ChunkPlayer` alone, without an arm."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.control import chunk_player
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, RefusedChunk, check_chunk, join, split, still
from molmoact_ros.control.chunk_player import BLEND, BLEND_MAX, DECAY, HISTORY, ChunkMode, ChunkPlayer
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.trajectory import ChunkTrajectory, Target
from molmoact_ros.robots.franka import HOME_Q

START = Pose(np.array([0.4, 0.0, 0.3]), Rotation.from_rotvec([2.0, 1.0, -0.5]))
DT = 0.1


def always(pose: Pose) -> Callable[[], Pose]:
    return lambda: pose


def chunk(
    dx: float = 0.02, stamp: float = 0.0, steps: int = 8, space: ActionSpace = ActionSpace.DELTA_EE, **more: float
) -> ActionChunk:
    """A straight way along x: steps, or poses from START on, or a motion of joint 1 from HOME_Q on."""
    actions = np.zeros((steps, space.dimensions))
    way = dx * np.arange(1, steps + 1)
    if space is ActionSpace.JOINT:
        actions[:, :7] = HOME_Q
        actions[:, 0] += way
    elif space is ActionSpace.EE:
        actions[:, :3], actions[:, 3:6] = START.position, START.rotation.as_euler("xyz")
        actions[:, 0] += way
    else:
        actions[:, 0] = dx
    actions[:, -1] = more.get("gripper", 1.0)
    return ActionChunk(actions, more.get("dt", DT), stamp, round(more.get("plan_id", 7)), space)


def player(mode: ChunkMode = "realtime", now: float = 0.0) -> ChunkPlayer:
    out = ChunkPlayer(mode)
    out.reset(START, HOME_Q, now)
    return out


def play(player: ChunkPlayer, now: float, seconds: float, pace: float = 1.0) -> float:
    """Execute for so long, every target at once; the time it is then."""
    for _ in range(round(seconds / 0.01)):
        now += 0.01
        player.advance(0.01 * pace)
        target = player.target()
        player.commanded(always(target.pose or START), HOME_Q if target.joints is None else target.joints, now)
    return now


def x(target: Target) -> float:
    assert target.pose is not None
    return float(target.pose.position[0])


# Which chunks are refused


def changed(chunk: ActionChunk, row: int, column: int, value: float) -> ActionChunk:
    actions = chunk.actions.copy()
    actions[row, column] = value
    return replace(chunk, actions=actions)


NAN = "chunk 7 holds NaN or infinity; check the checkpoint with `molmoact-ros doctor`"
FAST = "chunk 7 is faster than 0.5 m/s or 2.5 rad/s; check the normalisation key and the time of a step"
TURNS = "chunk 7 turns the hand by more than 2.8 rad; check the normalisation key"
GRIPPER = "chunk 7 has a gripper value outside 0..1; check the checkpoint"
SHAPE = "chunk 7 has shape [{}], expected [N, 7]; check the checkpoint"
BEGINS = "chunk 7 begins far from where the arm was at its image; check its frame"


@pytest.mark.parametrize(
    ("bad", "why", "insane"),
    [
        (changed(chunk(), 3, 1, np.nan), NAN, True),
        (replace(chunk(), dt=np.inf), NAN, True),
        (replace(chunk(), stamp=np.nan), NAN, True),
        (chunk(0.0, dt=0.0049), "chunk 7 has steps of 0.0049 s, expected 0.005 to 1 s", True),
        (chunk(0.0, dt=1.01), "chunk 7 has steps of 1.01 s, expected 0.005 to 1 s", True),
        (replace(chunk(), actions=np.zeros((8, 8))), SHAPE.format("8, 8"), True),
        (replace(chunk(), actions=np.zeros((0, 7))), SHAPE.format("0, 7"), True),
        (replace(chunk(), actions=np.zeros(7)), SHAPE.format("7"), True),
        (changed(chunk(), 2, 6, -0.11), GRIPPER, False),
        (changed(chunk(), 2, 6, 1.11), GRIPPER, False),
        (chunk(stamp=0.06), "chunk 7 is stamped 0.06 s in the future; synchronise the clocks", False),
        (chunk(stamp=-0.8), "chunk 7 ended 0.00 s ago; the engine is too slow", False),
        (chunk(stamp=-1.0), "chunk 7 ended 0.20 s ago; the engine is too slow", False),
        (changed(chunk(), 5, 2, 0.051), FAST, False),
        (changed(chunk(), 5, 4, -0.251), FAST, False),
        (changed(chunk(0.0, space=ActionSpace.EE), 7, 1, 0.051), FAST, False),
        (changed(chunk(0.0, space=ActionSpace.JOINT), 7, 6, HOME_Q[6] - 0.251), FAST, False),
        (chunk(-0.051, space=ActionSpace.EE), FAST, False),
    ],
)  # fmt: skip
def test_a_chunk_that_must_not_be_played_is_refused_with_its_reason(bad: ActionChunk, why: str, insane: bool) -> None:
    with pytest.raises(RefusedChunk) as refusal:
        check_chunk(bad, 0.0)
    assert str(refusal.value) == why and refusal.value.insane is insane


@pytest.mark.parametrize(
    "good",
    [
        chunk(0.05), chunk(dt=0.04), chunk(0.002, dt=0.005), chunk(0.01, dt=1.0), chunk(stamp=0.05), chunk(stamp=-0.79),
        changed(chunk(), 0, 6, -0.1), changed(chunk(), 0, 6, 1.1), changed(chunk(), 5, 4, 0.249),
        chunk(0.05, space=ActionSpace.EE), chunk(0.25, space=ActionSpace.JOINT),
        chunk(0.25, space=ActionSpace.JOINT, steps=1),
        chunk(0.0, space=ActionSpace.EE, steps=1), changed(chunk(0.0, space=ActionSpace.JOINT), 4, 7, 0.0),
    ],
)  # fmt: skip
def test_a_chunk_just_within_every_bound_is_played(good: ActionChunk) -> None:
    actions = check_chunk(good, 0.0)
    np.testing.assert_array_equal(actions, good.actions)
    assert actions.dtype == np.float64


@pytest.mark.parametrize("column", [3, 4, 5])
@pytest.mark.parametrize("sign", [1, -1])
def test_one_chunk_does_not_turn_the_hand_farther_than_can_be_told_from_the_other_way_round(
    column: int, sign: int
) -> None:
    actions = np.zeros((14, 7))
    actions[:, column] = sign * 2.79 / 14
    check_chunk(ActionChunk(actions, DT, 0.0, 7), 0.0)
    check_chunk(ActionChunk(np.eye(7)[[column] * 2] * sign * 1.4, 1.0, 0.0, 7), 0.0)
    check_chunk(ActionChunk(np.eye(7)[[3, 4, 5] * 3] * sign * 0.9, 1.0, 0.0, 7), 0.0)  # about each axis by itself
    actions[:, column] = sign * 2.81 / 14
    with pytest.raises(RefusedChunk) as refusal:
        check_chunk(ActionChunk(actions, DT, 0.0, 7), 0.0)
    assert str(refusal.value) == TURNS and not refusal.value.insane


def test_angles_of_a_step_are_about_fixed_axes() -> None:
    """Roll, pitch and yaw of one step: about moving axes they would be a turn of 0.2523 rad, too fast."""
    angles = np.array([0.15, 0.14, 0.15])
    fixed, moving = (Rotation.from_euler(axes, angles).magnitude() for axes in ("xyz", "XYZ"))
    good, bad = (angles, angles * [1, 1, -1]) if fixed < moving else (angles * [1, 1, -1], angles)
    border = (fixed + moving) / 2
    for turn, allowed in ((good, True), (bad, False)):
        chunk = ActionChunk(np.array([[0, 0, 0, *turn, 1.0]]), border / 2.5, 0.0, 7)
        if allowed:
            check_chunk(chunk, 0.0)
        else:
            with pytest.raises(RefusedChunk, match="faster"):
                check_chunk(chunk, 0.0)


def test_absolute_rotations_are_judged_from_step_to_step_whatever_their_angles() -> None:
    turns = [Rotation.from_rotvec([0, 0, angle]) * START.rotation for angle in (0.0, 0.2, 0.4)]
    actions = np.zeros((3, 7))
    actions[:, :3], actions[:, 3:6] = START.position, [turn.as_euler("xyz") for turn in turns]
    check_chunk(ActionChunk(actions, DT, 0.0, 7, ActionSpace.EE), 0.0)
    actions[2, 3:6] = (Rotation.from_rotvec([0, 0, 0.26]) * turns[1]).as_euler("xyz")
    with pytest.raises(RefusedChunk, match="faster"):
        check_chunk(ActionChunk(actions, DT, 0.0, 7, ActionSpace.EE), 0.0)


def aside(metres: float) -> ActionChunk:
    """One absolute pose so far from START."""
    return changed(chunk(0.0, space=ActionSpace.EE, steps=1), 0, 1, metres)


def turned(angle: float, steps: int = 1) -> ActionChunk:
    """Absolute poses that end `angle` rad away from START about the base's y, in equal steps from the first on."""
    actions = np.zeros((steps, 7))
    actions[:, :3] = START.position
    for k in range(steps):
        actions[k, 3:6] = (Rotation.from_rotvec([0, angle * (k + 1) / steps, 0]) * START.rotation).as_euler("xyz")
    return ActionChunk(actions, DT, 0.0, 7, ActionSpace.EE)


@pytest.mark.parametrize(
    ("good", "bad"),
    [
        (aside(0.1), aside(0.1001)),
        (turned(0.499), turned(0.501)),
        (turned(2.79, 14), turned(2.81, 14)),
        (chunk(0.5, space=ActionSpace.JOINT, steps=1), chunk(0.501, space=ActionSpace.JOINT, steps=1)),
        (chunk(-0.499, space=ActionSpace.JOINT, steps=1), chunk(-0.501, space=ActionSpace.JOINT, steps=1)),
    ],
)  # fmt: skip
def test_absolute_actions_begin_where_the_arm_was(good: ActionChunk, bad: ActionChunk) -> None:
    player().load(good, 0.0)
    playing = player()
    with pytest.raises(RefusedChunk) as refusal:
        playing.load(bad, 0.0)
    assert str(refusal.value) == BEGINS and not refusal.value.insane and not playing.loaded


def test_steps_may_begin_anywhere_since_they_say_no_place() -> None:
    player().load(chunk(0.05), 0.0)


def test_a_chunk_is_newer_than_the_one_before_and_as_new_as_the_start_of_the_arm() -> None:
    playing = player(now=10.0)
    for stamp in (9.89, 9.8):
        with pytest.raises(RefusedChunk) as refusal:
            playing.load(chunk(stamp=stamp), 10.0)
        assert str(refusal.value) == "chunk 7 was planned before the arm was started; waiting for a newer one"
    playing.load(chunk(stamp=9.91), 10.0)
    for stamp in (9.91, 9.9):
        with pytest.raises(RefusedChunk) as refusal:
            playing.load(chunk(stamp=stamp), 10.0)
        assert str(refusal.value) == "chunk 7 is older than the one being played; dropped"
        assert not refusal.value.insane
    playing.load(chunk(stamp=9.92), 10.0)
    playing.reset(START, HOME_Q, 10.0)
    playing.load(chunk(stamp=9.91), 10.0)
    with pytest.raises(RefusedChunk, match="before the arm was started"):
        ChunkPlayer().load(chunk(), 0.0)


# Sharing out and putting together


def test_each_arm_gets_its_own_columns() -> None:
    row = np.arange(14.0)[None]
    left, right = split(ActionChunk(row, DT, 1.5, 4), 2)
    np.testing.assert_array_equal(left.actions, [[0, 1, 2, 6, 7, 8, 12]])
    np.testing.assert_array_equal(right.actions, [[3, 4, 5, 9, 10, 11, 13]])
    assert (left.dt, left.stamp, left.plan_id, left.space) == (DT, 1.5, 4, ActionSpace.DELTA_EE)
    np.testing.assert_array_equal(join([left.actions, right.actions], ActionSpace.EE), row)
    row = np.arange(16)[None]
    left, right = split(ActionChunk(row, DT, 1.5, 4, ActionSpace.JOINT), 2)
    np.testing.assert_array_equal(left.actions, [[*range(7), 14]])
    np.testing.assert_array_equal(right.actions, [[*range(7, 14), 15]])
    assert left.actions.dtype == np.float64
    np.testing.assert_array_equal(join([left.actions, right.actions], ActionSpace.JOINT), row)


@pytest.mark.parametrize("shape", [(3, 7), (3, 15), (0, 14), (14,), (2, 3, 14)])
def test_what_cannot_be_shared_out_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(RefusedChunk) as refusal:
        split(ActionChunk(np.zeros(shape), DT, 0.0, 7), 2)
    assert str(refusal.value) == f"chunk 7 has shape {list(shape)}, expected [N, 14]; check the checkpoint"
    assert refusal.value.insane


def test_a_still_chunk_keeps_the_last_fingers() -> None:
    actions = np.arange(42.0).reshape(3, 14)
    np.testing.assert_array_equal(still(actions), [[0.0] * 12 + [40, 41]] * 3)
    np.testing.assert_array_equal(still(actions[:, :7]), [[0.0] * 6 + [34]] * 3)


# Playing


def test_without_a_chunk_the_arm_stays_where_it_was_told_to_be_and_time_stands_still() -> None:
    playing = player()
    assert not playing.loaded and playing.remaining == -np.inf and playing.hand_speed == 0.0
    playing.advance(1.0)
    assert playing.time == 0.0 and x(playing.target()) == x(playing.target(0.5)) == 0.4
    playing.commanded(lambda: replace(START, position=START.position + 0.1), HOME_Q, 0.1)
    target = playing.target()
    assert x(target) == 0.5 and target.gripper is None and target.joints is None


def test_time_goes_on_to_the_end_of_the_path_and_no_further() -> None:
    playing = player()
    playing.load(chunk(0.02), 0.0)
    assert playing.loaded and playing.remaining == pytest.approx(0.9)
    playing.advance(0.3)
    assert playing.time == pytest.approx(0.3) and playing.remaining == pytest.approx(0.6)
    assert playing.hand_speed == pytest.approx(0.2, rel=1e-2)
    assert x(playing.target(0.2)) == pytest.approx(0.5, abs=1e-3)
    assert x(playing.target(5.0)) == pytest.approx(0.56), "what is ahead ends with the path"
    playing.advance(5.0)
    assert playing.time == pytest.approx(0.9) and playing.remaining == 0.0
    playing.advance(5.0)
    assert playing.time == pytest.approx(0.9) and x(playing.target()) == pytest.approx(0.56)


def test_a_player_joins_chunks_in_real_time_unless_told_otherwise() -> None:
    assert ChunkPlayer().mode == "realtime"


def test_joints_given_at_a_hand_over_are_kept_as_they_were() -> None:
    playing, joints = ChunkPlayer(), HOME_Q.copy()
    playing.reset(START, joints, 0.0)
    joints[:] = 9.0
    playing.load(chunk(0.1, space=ActionSpace.JOINT), 0.0)
    np.testing.assert_allclose(np.asarray(playing.target().joints), HOME_Q)


def test_a_late_chunk_goes_on_behind_what_was_executed_since_its_picture() -> None:
    playing = player()
    playing.load(chunk(0.02), 0.0)
    taken = play(playing, 0.0, 0.2, pace=0.5)
    there = x(playing.target())
    now = play(playing, taken, 0.2, pace=0.5)  # 0.1 s of the path
    playing.load(chunk(0.02, stamp=taken), now)
    assert playing.remaining == pytest.approx(0.9 - 0.1, abs=1e-9)
    play(playing, now, 2.0)
    assert x(playing.target()) == pytest.approx(there + 0.16, abs=1e-9)


def test_a_naive_player_begins_each_chunk_anew_where_it_is() -> None:
    playing = player("naive")
    playing.load(chunk(0.02), 0.0)
    now = play(playing, 0.0, 0.4)
    here = x(playing.target())
    playing.load(chunk(0.02, stamp=now - 0.2), now)
    assert playing.remaining == pytest.approx(0.9) and x(playing.target()) == pytest.approx(here)


def test_commands_are_remembered_for_three_seconds() -> None:
    """In sixty-fourths of a second, which add up without rounding."""
    playing = player()
    for k in range(1, 321):
        playing.commanded(lambda: START, HOME_Q, k / 64)
    long, now = chunk(0.0, steps=60, dt=0.125), 5.0
    playing.prepare(replace(long, stamp=now - HISTORY - 0.125), now)
    with pytest.raises(RefusedChunk, match="before the arm was started"):
        playing.prepare(replace(long, stamp=now - HISTORY - 0.125 - 1 / 128), now)


def test_a_chunk_begins_at_the_newest_command_that_its_picture_can_show() -> None:
    playing = player()
    for k in range(1, 4):
        playing.commanded(always(replace(START, position=START.position + [0.1 * k, 0, 0])), HOME_Q, k / 10)
    for stamp, at in ((0.3, 0.7), (0.2, 0.6), (0.25, 0.6), (0.199, 0.5), (-0.05, 0.4)):
        anchor = playing.prepare(chunk(stamp=stamp), 0.3).anchor
        assert x(anchor) == pytest.approx(at), stamp


def test_how_late_chunks_come_is_noted() -> None:
    playing = player(now=0.0)
    playing.load(chunk(stamp=0.0), 0.1)  # the first one is left out: warm-up
    playing.load(chunk(stamp=0.3), 0.5)
    assert playing.latency.seconds == pytest.approx(0.2)


# Seams


@pytest.mark.parametrize("space", [ActionSpace.DELTA_EE, ActionSpace.JOINT])
def test_a_new_chunk_goes_on_with_place_speed_and_acceleration_of_the_old_one(space: ActionSpace) -> None:
    playing = player()
    playing.load(chunk(0.04, steps=4, space=space), 0.0)
    now = play(playing, 0.0, 0.38)  # where it slows down already
    h = 0.0005

    def values(ahead: float) -> np.ndarray:
        target = playing.target(ahead)
        if target.joints is not None:
            return target.joints
        assert target.pose is not None
        turn = (target.pose.rotation * START.rotation.inv()).as_rotvec()
        return np.concatenate([target.pose.position, turn])

    before = [values(k * h) for k in range(3)]
    new = chunk(0.04, stamp=now - 0.1, space=space)
    if space is ActionSpace.JOINT:
        new.actions[:, 0] += 0.15
        new.actions[:, 3] += 0.02 * np.arange(8)
    else:
        new.actions[:, 3:6] = [0.05, -0.1, 0.02]
    playing.load(new, now)
    after = [values(k * h) for k in range(3)]
    np.testing.assert_allclose(after[0], before[0], atol=1e-12)
    speeds = [(4 * v[1] - 3 * v[0] - v[2]) / (2 * h) for v in (before, after)]
    np.testing.assert_allclose(speeds[1], speeds[0], atol=5e-3)
    bends = [(v[0] - 2 * v[1] + v[2]) / h**2 for v in (before, after)]
    assert bends[0][0] < -1.5
    np.testing.assert_allclose(bends[1], bends[0], atol=0.5)
    path = playing.prepare(replace(new, stamp=now - 0.0999), now)
    end, reached = path.at(path.end), playing.target(9.0)
    if space is ActionSpace.JOINT:
        np.testing.assert_allclose(np.asarray(reached.joints), np.asarray(end.joints), atol=1e-9)
    else:
        assert x(reached) == pytest.approx(x(end), abs=1e-9), "and the gap is closed"


@pytest.mark.parametrize(("gap", "seconds"), [(0.01, BLEND), (0.06, 0.4), (0.5, BLEND_MAX)])
def test_a_wide_gap_closes_in_more_time_than_a_small_one(gap: float, seconds: float) -> None:
    """Joints that are told to go back to where they are, plus a gap: the new path stands still, only the gap closes."""
    playing = player()
    playing.load(chunk(0.0, space=ActionSpace.JOINT, steps=20), 0.0)
    now = play(playing, 0.0, 0.05)
    new = chunk(0.0, stamp=now, space=ActionSpace.JOINT, steps=20)
    new.actions[:, 2] += gap
    new.actions[0, 2] = HOME_Q[2]
    new = replace(new, actions=new.actions)
    a = chunk_player._difference(playing.target(), Target(joints=HOME_Q + [0, 0, gap, 0, 0, 0, 0]), ActionSpace.JOINT)
    assert a[2] == pytest.approx(-gap)
    path = ChunkTrajectory(
        new.actions, ActionSpace.JOINT, DT, playing.time - 0.5, Target(joints=HOME_Q + [0, 0, gap, 0, 0, 0, 0])
    )
    path.at = lambda time: Target(joints=HOME_Q + [0, 0, gap, 0, 0, 0, 0], gripper=1.0)  # type: ignore[method-assign]
    playing.take_chunk(new, path, now)

    def left(ahead: float) -> float:
        joints = playing.target(ahead).joints
        assert joints is not None
        return float(abs(joints[2] - HOME_Q[2] - gap))

    assert left(0.0) == pytest.approx(gap)
    assert left(seconds * 0.5) == pytest.approx(gap / 2, rel=1e-6)
    assert left(seconds - 0.01) > gap * 1e-6 and left(seconds + 1e-6) == 0.0


def test_between_hand_and_joints_nothing_is_blended() -> None:
    for first, second in ((ActionSpace.DELTA_EE, ActionSpace.JOINT), (ActionSpace.JOINT, ActionSpace.DELTA_EE)):
        playing = player()
        playing.load(chunk(0.02, space=first), 0.0)
        now = play(playing, 0.0, 0.3)
        new = chunk(0.02, stamp=now, space=second)
        path = playing.prepare(new, now)
        playing.take_chunk(new, path, now)
        for ahead in (0.0, 0.1):
            mine, its = playing.target(ahead), path.at(playing.time + ahead)
            assert (mine.joints is None) == (its.joints is None)
            if mine.joints is not None:
                np.testing.assert_array_equal(mine.joints, its.joints)
            else:
                assert x(mine) == x(its)


def test_the_first_chunk_and_one_after_a_hand_over_blend_from_where_the_arm_stands() -> None:
    playing = player()
    playing.load(chunk(0.03), 0.0)
    now = play(playing, 0.0, 0.3)
    playing.load(chunk(-0.03, stamp=now), now)
    playing.reset(START, HOME_Q, now)
    assert x(playing.target()) == 0.4
    playing.load(chunk(0.0, stamp=now + 0.01), now)
    assert x(playing.target()) == pytest.approx(0.4) and x(playing.target(0.2)) == pytest.approx(0.4)


def test_what_is_left_of_a_gap_is_the_polynomial_that_ends_at_rest() -> None:
    gap, whole = np.array([[0.2, -0.1], [0.5, 0.3], [-2.0, 1.0]]), 0.4
    times = np.linspace(0.0, whole, 12)
    values = np.array([chunk_player._quintic(gap, t, whole) for t in times])
    for column in range(2):
        fit = np.polynomial.Polynomial.fit(times, values[:, column], 5).convert()
        np.testing.assert_allclose(fit(times), values[:, column], atol=1e-10)
        np.testing.assert_allclose([fit.deriv(n)(0.0) if n else fit(0.0) for n in range(3)], gap[:, column], atol=1e-7)
        np.testing.assert_allclose([fit.deriv(n)(whole) if n else fit(whole) for n in range(3)], 0.0, atol=1e-7)


def test_a_difference_leads_from_the_one_to_the_other() -> None:
    turn = Rotation.from_rotvec([0.1, 0.2, -0.3])
    a, b = Target(Pose(START.position + [0, 0.1, 0], turn * START.rotation)), Target(START)
    by = chunk_player._difference(a, b, ActionSpace.EE)
    np.testing.assert_allclose(by, [0, 0.1, 0, 0.1, 0.2, -0.3], atol=1e-12)
    moved = chunk_player._moved(replace(b, gripper=0.3), by)
    assert moved.pose is not None and a.pose is not None and moved.gripper == 0.3
    np.testing.assert_allclose(moved.pose.position, a.pose.position)
    np.testing.assert_allclose(moved.pose.rotation.as_matrix(), a.pose.rotation.as_matrix())
    joints = chunk_player._moved(Target(joints=HOME_Q, gripper=0.2), np.full(7, 0.1))
    np.testing.assert_allclose(np.asarray(joints.joints), HOME_Q + 0.1)
    assert joints.pose is None and joints.gripper == 0.2


# Temporal ensemble


def test_an_ensemble_weighs_the_oldest_plan_most_and_takes_the_newest_gripper() -> None:
    angles, places = [0.0, 0.3, 0.8], [0.0, 0.1, 0.4]
    targets = [
        Target(Pose(START.position + [p, 0, 0], Rotation.from_rotvec([0, 0, a]) * START.rotation), gripper=p)
        for a, p in zip(angles, places, strict=True)
    ]
    weights = np.exp(-DECAY * np.arange(3))
    mean = chunk_player._mean(targets)
    assert mean.pose is not None and mean.gripper == 0.4
    assert x(mean) == pytest.approx(0.4 + np.average(places, weights=weights), abs=1e-12)
    turn = (mean.pose.rotation * START.rotation.inv()).as_rotvec()
    angle = np.arctan2(np.average(np.sin(angles), weights=weights), np.average(np.cos(angles), weights=weights))
    np.testing.assert_allclose(turn, [0, 0, angle], atol=1e-6)
    mixed = [targets[0], Target(joints=HOME_Q, gripper=0.1), Target(joints=HOME_Q + 0.1, gripper=0.2)]
    mean = chunk_player._mean(mixed)
    np.testing.assert_allclose(
        np.asarray(mean.joints), HOME_Q + np.average([0.0, 0.1], weights=weights[1:]), atol=1e-12
    )
    assert mean.gripper == 0.2
    mean = chunk_player._mean([mixed[1], targets[1], targets[2]])
    assert x(mean) == pytest.approx(0.4 + np.average([0.1, 0.4], weights=weights[1:]), abs=1e-12)


def test_an_ensemble_keeps_the_plans_that_hold_for_this_moment() -> None:
    playing = player("ensemble")
    playing.load(chunk(0.04, steps=3), 0.0)  # until 0.4
    now = play(playing, 0.0, 0.2)
    here = x(playing.target())
    playing.load(chunk(0.0, stamp=now, gripper=0.25), now)  # stands where the hand is now
    assert playing.target().gripper == 0.25, "from its first moment on"
    old = 0.4 + 0.12
    w = np.exp(-DECAY)
    assert x(playing.target(0.2)) == pytest.approx((old + w * here) / (1 + w), abs=1e-6), "at the end of the old one"
    assert x(playing.target(0.21)) == pytest.approx(here), "behind it"
    assert x(playing.target(9.0)) == pytest.approx(here)
    late = player("ensemble")
    late.load(chunk(0.04), 0.0)
    late.time = 5.0
    assert x(late.target()) == pytest.approx(0.72), "behind them all: the newest one's end"
    for k in range(1, 12):
        playing.load(chunk(0.0, stamp=now + k * 1e-3), now)
    assert len(playing._paths) == 8
    realtime = player()
    for k in range(3):
        realtime.load(chunk(0.0, stamp=k * 1e-3), 0.0)
    assert len(realtime._paths) == 1
