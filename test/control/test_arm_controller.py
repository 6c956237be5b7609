"""One arm's rules, cycle by cycle: `ArmController` alone, on the real model."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.spatial.transform import Rotation

from molmoact_ros.control import arm_controller as rules
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace
from molmoact_ros.control.arm_controller import MAX_TARGET_LEAD_M, MAX_TARGET_LEAD_RAD, ArmConfig, ArmController
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.limiter import Motion
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.supervisor import State
from molmoact_ros.control.teleop import TeleopCommand, TeleopConfig
from molmoact_ros.control.trajectory import Target
from molmoact_ros.robots.franka import OPENING_MAX, SINGLE
from molmoact_ros.utils.paths import robot_model

ROBOT = robot_model()
DT = 0.01
BENT = np.array([0.3, -0.3, -0.4, -2.4, -0.3, 2.2, 0.6])
"""rad: inside the box, with no axis of the hand along one of the base's."""


def new(**config: object) -> ArmController:
    return ArmController(ROBOT, SINGLE, ArmConfig.model_validate(config), DT)


def at(q: np.ndarray, **config: object) -> ArmController:
    """Measured there, standing, nothing wanted."""
    arm = new(**config)
    arm.update(q, 0.05, 0.0, 0.0)
    return arm


def box(low: np.ndarray, high: np.ndarray) -> Surroundings:
    return Surroundings(workspace=Workspace(low=tuple(low), high=tuple(high)))


def hand(arm: ArmController, q: np.ndarray | None = None) -> Pose:
    return arm.kinematics.forward(arm.limiter.motion.q if q is None else q)


def load(arm: ArmController, dx: float = 0.01, gripper: float = 1.0, now: float = 0.0, steps: int = 8) -> None:
    actions = np.zeros((steps, 7))
    actions[:, 0], actions[:, 6] = dx, gripper
    arm.player.load(ActionChunk(actions, 0.1, now), now)


def turned(a: Rotation, b: Rotation) -> np.ndarray:
    """The rotation vector in the base frame that leads from b to a."""
    return (a * b.inv()).as_rotvec()


def test_an_arm_is_what_its_configuration_says() -> None:
    arm = new(mode="naive", teleop=TeleopConfig(timeout=0.7))
    assert arm.player.mode == "naive" and arm.arm is SINGLE
    arm.teleop.twist([0.0] * 6, 1.0)
    assert arm.teleop.active(1.65)


# What is measured


def test_the_first_measurement_is_where_the_arm_stands_and_later_ones_change_no_command() -> None:
    arm = new(agreeing=2)
    assert arm.measured is None and arm.gap() == 0.0 and arm.opening is None and arm.slowed == 0
    arm.update(BENT, 0.05, 10.0, 1.0)
    assert arm.measured is None, "one sample is not believed yet"
    arm.update(BENT, 0.05, 10.1, 1.1)
    np.testing.assert_array_equal(arm.measured, BENT)
    assert arm.measured_at == 10.1 and arm.measurement.heard == 1.1
    np.testing.assert_array_equal(arm.limiter.motion.q, BENT)
    assert arm.player._commanded[-1].now == 10.1
    arm.update(BENT + 0.001, 0.02, 10.2, 1.2)
    np.testing.assert_array_equal(arm.limiter.motion.q, BENT)
    assert arm.measurement.opening == 0.02


def test_an_arm_is_taken_up_where_it_is_measured_unless_it_still_brakes() -> None:
    arm = at(BENT)
    arm.step(State.HOLD, 0.0, 0.0, 1.0)
    arm.update(BENT + 0.01, 0.05, 0.1, 0.1)
    assert arm.gap() == pytest.approx(0.01)
    arm.take_up()
    np.testing.assert_array_equal(arm.limiter.motion.q, BENT + 0.01)
    assert arm.gap() == 0.0, "what was told before is no longer compared"
    arm.limiter.motion = Motion(BENT, np.eye(7)[0] * 0.1, np.zeros(7))
    arm.step(State.HOLD, 0.2, 0.2, 1.0)
    arm.limiter.motion = Motion(BENT, np.eye(7)[0] * 0.1, np.zeros(7))
    arm.take_up()
    np.testing.assert_array_equal(arm.limiter.motion.q, BENT)
    assert arm._sent, "and what it was told is still compared"


def test_an_arm_that_moves_by_its_joint_states_is_not_taken_up() -> None:
    arm = at(BENT)
    for k in range(1, 6):
        arm.update(BENT + np.eye(7)[2] * 0.0011 * k, 0.05, k * DT, k * DT)
    assert arm.unsettled() == "the arm still moves by its joint states; wait until it stands"
    arm.limiter.motion = Motion(BENT, np.eye(7)[0] * 0.1, np.zeros(7))
    assert arm.unsettled() == "", "one that still brakes goes on from its commands"
    arm = at(BENT)
    for k in range(1, 6):
        arm.update(BENT + np.eye(7)[2] * 0.0009 * k, 0.05, k * DT, k * DT)
    assert arm.unsettled() == ""


def test_a_hand_outside_of_its_box_is_told_with_its_place() -> None:
    x, y, z = place = hand(at(BENT)).position
    for by, outside in ((0.0099, False), (0.0101, True)):
        arm = at(BENT, surroundings=box(np.array([0.1, -1, 0.01]), np.array([x - by, 1.0, 1.0])))
        said = arm.outside()
        assert bool(said) is outside
    low, high = arm._config.surroundings.workspace.low, arm._config.surroundings.workspace.high
    assert said == (
        f"the hand is outside of its workspace, at x {x:.3f}, y {y:.3f}, z {z:.3f} m; move it inside by "
        f"teleoperation ({low} to {high}), or change workspace_low and workspace_high"
    )
    assert at(BENT, surroundings=box(place - 0.1, place + 0.1)).outside() == ""


def test_the_gap_is_that_to_the_command_of_the_time_of_measuring() -> None:
    arm = at(BENT)
    load(arm, 0.04)
    for k in range(1, 31):
        arm.step(State.POLICY, k * DT, k * DT, 1.0)
    told = list(arm._sent)
    assert [when for when, _ in told] == pytest.approx([k * DT for k in range(1, 31)])
    for k in (10, 20, 29):
        when, q = told[k]
        arm.measurement.joints, arm.measurement.stamps = q - np.eye(7)[1] * 0.02, np.full(7, when)
        assert arm.gap() == pytest.approx(0.02), "as late as it may come"
        arm.measurement.stamps = np.full(7, when + DT / 2)
        assert arm.gap() == pytest.approx(0.02)
    arm.measurement.stamps, arm.measurement.joints = np.full(7, -5.0), told[0][1] + 0.03
    assert arm.gap() == pytest.approx(0.03), "older than what is remembered: the oldest"
    for k in range(31, 100):
        arm.step(State.POLICY, k * DT, k * DT, 1.0)
    assert len(arm._sent) == 60


# Hand-over


def test_settling_forgets_what_was_wanted_and_stays_where_braking_ends() -> None:
    arm = at(BENT)
    load(arm, 0.04)
    for k in range(40):
        arm.step(State.POLICY, k * DT, 0.0, 1.0)
    arm.opening = 0.03
    stop = arm.limiter.stop
    assert np.abs(stop - arm.limiter.motion.q).max() > 1e-3
    arm.settle(7.0)
    assert arm.opening is None and not arm.player.loaded
    np.testing.assert_array_equal(arm._anchor, stop)
    np.testing.assert_array_equal(arm._desired.q, stop)
    assert not arm._desired.dq.any() and not arm._mean.any() and arm._pose is None and arm._target is None
    np.testing.assert_allclose(arm._began, hand(arm, stop).position)
    last = arm.player._commanded[-1]
    assert last.now == 7.0 and last.target.pose is not None
    np.testing.assert_allclose(last.target.pose.position, hand(arm, stop).position)
    np.testing.assert_array_equal(last.target.joints, stop)


def test_missed_cycles() -> None:
    for cycles, braked, cycles_on in ((2, True, 2), (1, False, 0), (2, False, None), (0, False, 0), (0, True, 0)):
        arm = at(BENT)
        load(arm, 0.045)
        for k in range(40):
            arm.step(State.POLICY, k * DT, 0.0, 1.0)
        planned, motion = arm.limiter.planned(False), arm.limiter.motion
        arm.miss(cycles, braked)
        if cycles_on is None:
            np.testing.assert_array_equal(arm.limiter.motion.q, motion.q)
            assert not arm.limiter.motion.dq.any()
        else:
            np.testing.assert_array_equal(arm.limiter.motion.q, planned[cycles_on])
            assert arm.limiter.motion.dq.any()


# Commands


@pytest.mark.parametrize("state", [State.IDLE, State.HOLD, State.STOPPED])
def test_who_is_nobodys_stands_whatever_is_loaded_and_said(state: State) -> None:
    arm = at(BENT)
    load(arm, 0.04)
    arm.teleop.twist([0.1] * 6, 0.0)
    for k in range(20):
        command = arm.step(state, k * DT, 0.0, 1.0)
        np.testing.assert_array_equal(command.position, BENT)


def test_a_command_holds_the_motion_its_period_and_the_opening_that_is_wanted_or_measured() -> None:
    arm = at(BENT)
    load(arm, 0.04)
    command = arm.step(State.HOLD, 0.0, 0.0, 1.0)
    assert command.opening == 0.05 and command.period == DT
    for k in range(1, 20):
        command = arm.step(State.POLICY, k * DT, 0.0, 1.0)
    motion = arm.limiter.motion
    assert command.opening == OPENING_MAX
    for told, is_so in zip(
        (command.position, command.velocity, command.acceleration), (motion.q, motion.dq, motion.ddq), strict=True
    ):
        np.testing.assert_array_equal(told, is_so)
        assert told.any()
    last = arm.player._commanded[-1]
    assert last.now == 19 * DT and last.target.pose is not None
    np.testing.assert_array_equal(last.target.joints, motion.q)
    np.testing.assert_allclose(last.target.pose.position, hand(arm).position)
    arm.opening = 0.0
    assert arm.step(State.HOLD, 1.0, 0.0, 1.0).opening == 0.0, "shut is an opening, too"


def test_the_fastest_that_the_hand_may_be_is_whose_it_is() -> None:
    asked: list[float] = []
    arm = at(BENT, cartesian_speed=0.3, teleop=TeleopConfig(linear=0.2))
    step = arm.limiter.step

    def listened(wanted: Motion | None, beside: np.ndarray | None = None, hand_speed: float = np.inf) -> Motion:
        asked.append(hand_speed)
        return step(wanted, beside, hand_speed)

    arm.limiter.step = listened  # type: ignore[method-assign]
    for state in (State.POLICY, State.TELEOP, State.HOLD):
        arm.step(state, 0.0, 0.0, 1.0)
    assert asked == [0.3, 0.2, np.inf]


def test_a_policy_plays_at_the_pace_it_is_given_and_not_without_a_plan() -> None:
    arm = at(BENT)
    np.testing.assert_array_equal(arm.step(State.POLICY, 0.0, 0.0, 1.0).position, BENT)
    assert arm.opening is None
    load(arm, 0.04)
    arm.step(State.POLICY, DT, 0.0, 0.25)
    assert arm.player.time == pytest.approx(DT / 4)


# Fingers


@pytest.mark.parametrize(
    ("before", "value", "after"),
    [
        (None, 0.51, OPENING_MAX), (None, 0.5, 0.0), (None, 0.49, 0.0),
        (OPENING_MAX, 0.4, OPENING_MAX), (OPENING_MAX, 0.39, 0.0), (OPENING_MAX, 0.0, 0.0),
        (0.0, 0.6, 0.0), (0.0, 0.61, OPENING_MAX), (0.0, 1.0, OPENING_MAX), (0.03, 0.5, 0.03),
        (OPENING_MAX, -0.1, 0.0),
    ],
)  # fmt: skip
def test_fingers_open_and_close_beyond_the_middle_only(before: float | None, value: float, after: float) -> None:
    arm = at(BENT)
    load(arm, 0.0, gripper=value)
    arm.opening = before
    arm.step(State.POLICY, 0.0, 0.0, 1.0)
    assert arm.opening == after


def test_a_persons_fingers_are_theirs_and_stay_when_nothing_more_is_said() -> None:
    arm = at(BENT)
    arm.teleop.gripper(0.03, 1.0)
    assert arm.step(State.TELEOP, 0.0, 1.0, 1.0).opening == 0.03
    arm.teleop.twist([0.0] * 6, 1.1)
    assert arm.step(State.TELEOP, 0.0, 1.1, 1.0).opening == 0.03
    np.testing.assert_array_equal(arm.limiter.motion.q, BENT)


# Pace


@pytest.mark.parametrize(("lag", "pace"), [(0.0, 1.0), (0.05, 1.0), (0.075, 0.75), (0.1, 0.5), (0.15, 0.0), (0.4, 0.0)])
@pytest.mark.parametrize("sign", [1, -1])
def test_path_time_waits_for_an_arm_that_lags_behind(lag: float, pace: float, sign: int) -> None:
    arm = at(BENT)
    arm._desired = Motion.at_rest(BENT + sign * lag * np.eye(7)[3])
    assert arm.pace() == pytest.approx(pace)


def test_path_time_is_slower_where_the_hand_would_be_too_fast() -> None:
    arm = at(BENT, cartesian_speed=0.1)
    assert arm.pace() == 1.0, "without a plan"
    load(arm, 0.04)
    arm.player.time = 0.4
    assert arm.pace() == pytest.approx(0.25, rel=0.02)
    load(arm, 0.005, now=0.001)
    arm.player.time = 0.4
    assert arm.pace() == 1.0


def test_the_arm_is_slowed_down_near_a_singularity() -> None:
    dexterity = at(BENT).kinematics.dexterity(BENT)
    for below, ease, slowed in (
        (0.0, 1.0, 0), (dexterity / 2, 1.0, 0), (dexterity, 1.0, 0), (dexterity * 2, 0.5, 1), (dexterity * 100, 0.2, 1),
    ):  # fmt: skip
        arm = at(BENT, slow_below=below, slowest=0.2)
        assert arm.pace() == pytest.approx(ease) and arm.slowed == slowed
        arm._desired = Motion.at_rest(BENT + 0.1 * np.eye(7)[3])
        assert arm.pace() == pytest.approx(ease / 2), "and by a lag besides"


@pytest.mark.parametrize("part", [1.0, 0.25])
def test_a_twist_is_slowed_down_near_a_singularity(part: float) -> None:
    arm = at(BENT, slow_below=at(BENT).kinematics.dexterity(BENT) / part, slowest=0.1)
    before = hand(arm)
    after = arm._pulled(before, np.array([0.2, 0, 0, 0, 0.5, 0]))
    np.testing.assert_allclose(after.position - before.position, [0.002 * part, 0, 0], atol=1e-12)
    np.testing.assert_allclose(turned(after.rotation, before.rotation), [0, 0.005 * part, 0], atol=1e-12)


# A person's twist


@pytest.mark.parametrize("in_tool", [True, False])
def test_a_twist_is_in_the_frame_that_is_said(in_tool: bool) -> None:
    arm = at(BENT)
    pose = hand(arm)
    frame = pose.rotation if in_tool else Rotation.identity()
    assert np.abs(turned(pose.rotation, Rotation.identity())).min() > 0.05, "no axis is one of the base's"
    arm.teleop.twist([0.02, -0.05, 0.03, 0.1, 0.2, -0.1], 0.0, in_tool)
    pose = arm._pulled(pose, np.array([0.02, -0.05, 0.03, 0.1, 0.2, -0.1]))
    np.testing.assert_allclose(pose.position - hand(arm).position, frame.apply([2e-4, -5e-4, 3e-4]), atol=1e-12)
    np.testing.assert_allclose(turned(pose.rotation, hand(arm).rotation), frame.apply([1e-3, 2e-3, -1e-3]), atol=1e-9)


def test_a_twist_moves_the_hand_as_it_says() -> None:
    for in_tool in (False, True):
        arm = at(BENT)
        before = hand(arm)
        frame = before.rotation if in_tool else Rotation.identity()
        for k in range(60):
            arm.teleop.twist([0.03, 0.05, -0.04, 0.2, -0.1, 0.15], k * DT, in_tool)
            arm.step(State.TELEOP, k * DT, k * DT, 1.0)
        moved = hand(arm).position - before.position
        along = frame.apply([0.03, 0.05, -0.04])
        if not in_tool:
            np.testing.assert_allclose(moved / np.linalg.norm(moved), along / np.linalg.norm(along), atol=0.05)
            turn = turned(hand(arm).rotation, before.rotation)
            np.testing.assert_allclose(turn / np.linalg.norm(turn), np.array([4, -2, 3]) / np.sqrt(29), atol=0.05)
        assert np.linalg.norm(moved) == pytest.approx(0.6 * np.sqrt(0.005), rel=0.15)


@pytest.mark.parametrize(
    ("away", "goes"), [(MAX_TARGET_LEAD_M - 0.0011, True), (MAX_TARGET_LEAD_M - 0.0009, False), (0.3, False)]
)
def test_a_twists_target_runs_ahead_of_the_hand_no_further_than_its_leash(away: float, goes: bool) -> None:
    arm = at(BENT)
    pose = hand(arm)
    ahead = Pose(pose.position + [0, away, 0], pose.rotation)
    pulled = arm._pulled(ahead, np.array([0, 0.1, 0, 0, 0, 0.3]))
    np.testing.assert_allclose(pulled.position - ahead.position, [0, 0.001 * goes, 0], atol=1e-9)
    np.testing.assert_allclose(turned(pulled.rotation, ahead.rotation), [0, 0, 0.003], atol=1e-9)
    back = arm._pulled(ahead, np.array([0, -0.1, 0, 0, 0, 0]))
    np.testing.assert_allclose(back.position - ahead.position, [0, -0.001, 0], atol=1e-9)


@pytest.mark.parametrize(
    ("away", "goes"), [(MAX_TARGET_LEAD_RAD - 0.0031, True), (MAX_TARGET_LEAD_RAD - 0.0029, False), (0.8, False)]
)
def test_a_twists_target_turns_ahead_of_the_hand_no_further_than_its_leash(away: float, goes: bool) -> None:
    arm = at(BENT)
    pose = hand(arm)
    ahead = Pose(pose.position, Rotation.from_rotvec([0, 0, away]) * pose.rotation)
    pulled = arm._pulled(ahead, np.array([0, 0.1, 0, 0, 0, 0.3]))
    np.testing.assert_allclose(turned(pulled.rotation, ahead.rotation), [0, 0, 0.003 * goes], atol=1e-9)
    np.testing.assert_allclose(pulled.position - ahead.position, [0, 0.001, 0], atol=1e-9)
    back = arm._pulled(ahead, np.array([0, 0, 0, 0, 0, -0.3]))
    np.testing.assert_allclose(turned(back.rotation, ahead.rotation), [0, 0, -0.003], atol=1e-9)


def test_one_that_cannot_be_followed_stays_on_its_leash_while_it_is_pulled() -> None:
    arm = at(BENT)
    pose = start = hand(arm)
    for _ in range(400):
        pose = arm._pulled(pose, np.array([0.25, 0, 0, 0, 0, 1.0]))
    assert MAX_TARGET_LEAD_M - 0.003 < np.linalg.norm(pose.position - start.position) <= MAX_TARGET_LEAD_M
    assert MAX_TARGET_LEAD_RAD - 0.011 < np.linalg.norm(turned(pose.rotation, start.rotation)) <= MAX_TARGET_LEAD_RAD


def test_a_person_who_rests_has_the_arm_brake_and_begins_anew_where_it_stands() -> None:
    arm = at(BENT)
    for k in range(30):
        arm.teleop.twist([0.2, 0, 0, 0, 0, 0], k * DT)
        arm.step(State.TELEOP, k * DT, k * DT, 1.0)
    stop = arm.limiter.stop
    assert arm._from_operator(TeleopCommand(twist=np.zeros(6))) is None and arm._pose is None
    np.testing.assert_array_equal(arm._desired.q, stop)
    wanted = arm._from_operator(TeleopCommand(twist=np.array([0, 0.1, 0, 0, 0, 0])))
    assert wanted is not None and arm._pose is not None
    np.testing.assert_allclose(arm._pose.position, hand(arm, stop).position + [0, 0.001, 0], atol=1e-9)
    np.testing.assert_array_equal(arm._began, arm._pose.position)
    assert np.linalg.norm(wanted.q - stop) < 0.01


def test_a_persons_joints_are_wanted_as_they_are_once_the_arm_is_near() -> None:
    arm, near = at(BENT), BENT + 0.05
    arm._from_operator(TeleopCommand(twist=np.array([0, 0.1, 0, 0, 0, 0])))
    wanted = arm._from_operator(TeleopCommand(joints=near, opening=0.02))
    assert wanted is not None and arm.opening == 0.02 and arm._pose is None
    np.testing.assert_array_equal(wanted.q, near)
    assert not wanted.dq.any() and not wanted.ddq.any()


# The box


def test_what_is_outside_of_the_box_is_brought_to_its_border_and_counted() -> None:
    place = hand(at(BENT)).position
    arm = at(BENT, surroundings=box(place - 0.05, place + 0.05))
    for way, clipped in (([0.04, -0.04, 0.0], [0.04, -0.04, 0.0]), ([0.06, 0.0, -0.2], [0.05, 0.0, -0.05])):
        count = arm.limiter.counts["workspace"]
        pose = arm._inside(Pose(place + way, hand(arm).rotation), place)
        np.testing.assert_allclose(pose.position, place + clipped, atol=1e-12)
        assert arm.limiter.counts["workspace"] - count == (way != clipped)
        assert pose.rotation is not None and np.abs(turned(pose.rotation, hand(arm).rotation)).max() < 1e-9


def test_the_box_reaches_as_far_as_where_the_hand_was() -> None:
    place = hand(at(BENT)).position
    arm = at(BENT, surroundings=box(place - 0.05, place + 0.05))
    start = place + [0.08, -0.08, 0.0]
    for way, clipped in (([0.07, -0.07, 0.0], [0.07, -0.07, 0.0]), ([0.09, -0.09, 0.06], [0.08, -0.08, 0.05])):
        pose = arm._inside(Pose(place + way, hand(arm).rotation), start)
        np.testing.assert_allclose(pose.position, place + clipped, atol=1e-12)


def test_a_twist_moves_no_hand_out_of_the_box_and_not_back_out_once_it_came_in() -> None:
    place = hand(at(BENT)).position
    arm = at(BENT, surroundings=box(place + [-0.05, -0.05, -0.2], place + [-0.01, 0.05, 0.05]))  # 10 mm outside
    for way in (-0.5, 0.5):
        for _ in range(2):
            arm._from_operator(TeleopCommand(twist=np.array([way, 0, 0, 0, 0, 0])))
        assert arm._pose is not None
        np.testing.assert_allclose(arm._pose.position, place + [-0.01, 0, 0], atol=1e-12)


# What is wanted of the joints


def test_wanted_joints_carry_the_speed_and_acceleration_at_which_they_change() -> None:
    arm = at(BENT)
    places = [BENT + np.eye(7)[1] * by for by in (0.001, 0.004, 0.009)]
    wanted = [arm._track(Target(joints=q)) for q in places]
    for q, motion, speed, push in zip(places, wanted, (0.1, 0.3, 0.5), (10.0, 20.0, 20.0), strict=True):
        np.testing.assert_array_equal(motion.q, q)
        np.testing.assert_allclose(motion.ddq, np.eye(7)[1] * push, atol=1e-9)
        np.testing.assert_allclose(motion.dq, np.eye(7)[1] * (speed + push * DT / 2), atol=1e-9)
        assert not motion.dq[[0, 2, 3, 4, 5, 6]].any()
    assert arm._target is None, "joints say no place of the hand"


def test_a_wanted_pose_is_solved_for_from_the_last_wanted_joints() -> None:
    arm = at(BENT)
    pose = hand(arm)
    for k in range(1, 11):
        wanted = arm._track(Target(pose=Pose(pose.position + [0.0005 * k, 0, 0], pose.rotation)))
        assert arm._target is not None
        np.testing.assert_allclose(arm._target[0], pose.position + [0.0005 * k, 0, 0])
    np.testing.assert_allclose(hand(arm, wanted.q).position, pose.position + [0.005, 0, 0], atol=2e-4)
    np.testing.assert_array_equal(arm._desired.q, wanted.q)


def test_the_elbow_goes_to_its_anchor_while_the_hand_goes_where_it_is_told() -> None:
    ends = []
    for anchor in (BENT, BENT + [0.3, 0, 0.3, 0, 0.3, 0, 0]):
        arm = at(BENT)
        pose, arm._anchor = hand(arm), anchor
        for k in range(1, 101):
            wanted = arm._track(Target(pose=Pose(pose.position + [0, 0.0005 * k, 0], pose.rotation)))
        np.testing.assert_allclose(hand(arm, wanted.q).position, pose.position + [0, 0.05, 0], atol=2e-3)
        ends.append(wanted.q)
    near, far = (float(np.linalg.norm(q - anchor)) for q in reversed(ends))
    assert near < far - 1e-3


def test_the_elbow_tends_to_its_anchor_in_proportion_to_what_the_hand_does() -> None:
    arm = at(BENT)
    pose = hand(arm)
    arm._anchor = BENT + 0.1
    np.testing.assert_array_equal(arm._posture(pose), BENT)
    for by, turn, part in (
        (0.0, 0.0, 0.0), (0.002, 0.0, 0.06), (0.0, 0.02, 0.12), (0.002, 0.02, 0.18), (0.03, 0.0, 0.9), (0.3, 0.5, 1.0),
    ):  # fmt: skip
        moved = Pose(pose.position + [0, by, 0], Rotation.from_rotvec([0, 0, turn]) * pose.rotation)
        arm._posture(pose)  # the cycle before
        np.testing.assert_allclose(arm._posture(moved), BENT + 0.1 * part, atol=1e-7)


def test_the_end_of_a_path_is_striven_for_until_it_is_reached_or_for_half_a_second() -> None:
    arm = at(BENT)
    pose = hand(arm)

    def end(metres: float, radians: float = 0.0) -> Pose:
        return Pose(pose.position + [metres, 0, 0], Rotation.from_rotvec([radians, 0, 0]) * pose.rotation)

    assert not arm._is_finishing(end(0.9e-4)) and not arm._is_finishing(end(0.0, 0.9e-3))
    assert arm._is_finishing(end(1.1e-4)) and arm._is_finishing(end(0.0, 1.1e-3))
    assert arm._finishing == pytest.approx(4 * DT)
    arm = ArmController(ROBOT, SINGLE, ArmConfig(), 1 / 64)
    arm.update(BENT, 0.05, 0.0, 0.0)
    assert all(arm._is_finishing(end(0.01)) for _ in range(32)), "for half a second"
    assert not arm._is_finishing(end(0.01)), "and no longer"


def test_the_end_that_is_striven_for_is_that_inside_of_the_box() -> None:
    place = hand(at(BENT)).position
    arm = at(BENT, surroundings=box(place - [0.1, 0.1, 0.1], place + [0.0, 0.1, 0.1]))
    assert not arm._is_finishing(Pose(place + [0.1, 0, 0], hand(arm).rotation)), "it is at the border already"


def test_at_the_end_of_a_path_the_arm_rests() -> None:
    arm = at(BENT)
    load(arm, 0.01, steps=2)
    for k in range(60):
        arm.step(State.POLICY, k * DT, 0.0, 1.0)
    rest = arm._desired
    assert arm.player.remaining == 0.0 and arm._finishing == rules.FINISHING
    for k in range(60, 70):
        arm.step(State.POLICY, k * DT, 0.0, 1.0)
        np.testing.assert_array_equal(arm._desired.q, rest.q)
        assert not arm._desired.dq.any() and not arm._desired.ddq.any() and not arm._mean.any()
    assert np.linalg.norm(hand(arm, rest.q).position - hand(arm, BENT).position - [0.02, 0, 0]) < 2e-4
    load(arm, 0.01, now=0.7)
    arm.step(State.POLICY, 0.71, 0.0, 1.0)
    assert arm._finishing == 0.0, "the next plan has its own end"


def test_joints_at_the_end_of_a_path_are_held_as_they_are() -> None:
    arm = at(BENT)
    actions = np.tile([*(BENT + 0.02), 1.0], (2, 1))
    arm.player.load(ActionChunk(actions, 0.1, 0.0, space=ActionSpace.JOINT), 0.0)
    for k in range(80):
        command = arm.step(State.POLICY, k * DT, 0.0, 1.0)
    np.testing.assert_allclose(command.position, BENT + 0.02, atol=1e-9)
    assert arm._finishing == 0.0
