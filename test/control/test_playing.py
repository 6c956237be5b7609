"""The player executes chunks: what was executed is skipped, seams are smooth, bad chunks are refused."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, RefusedChunk, join, split, still
from molmoact_ros.control.chunk_player import BLEND_MAX
from molmoact_ros.robots.franka import HOME_Q

from .helpers import DT, START, Playing, chunk, hand, run, started


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
