"""The controller's rules one by one: who may move the arms, what holds them, what is said; each in a few cycles."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import pytest

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limiter import Motion
from molmoact_ros.control.supervisor import Event, State
from molmoact_ros.control.teleop import TeleopConfig
from molmoact_ros.robots.franka import HOME_Q, OPENING_MAX, PAIR, SINGLE, Arm
from molmoact_ros.utils.paths import robot_model

ROBOT = robot_model()
DT = 1 / 64
"""s, so that times add up without rounding."""
FORWARD = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
AWAY = 1000.0
"""s by which ROS time is ahead of the steady clock here: each is to be used where it belongs."""


class Loop:
    """One or two arms that follow at once. `at`: steady time, s."""

    def __init__(self, arms: int = 1, teleop: TeleopConfig | None = None, **config: object) -> None:
        teleop = teleop or TeleopConfig(timeout=0.25)
        settings = ControllerConfig.model_validate({"rate": 64.0, **config, "teleop": teleop})
        self.controller = Controller(ROBOT, settings) if arms == 1 else Controller(ROBOT, settings, PAIR)
        self.at, self.deaf = 0.0, [False] * arms
        self.told = [HOME_Q] * arms
        self.beats = True
        self.hear()

    @property
    def now(self) -> float:
        """ROS time."""
        return self.at + AWAY

    @property
    def state(self) -> State:
        return self.controller.supervisor.state

    @property
    def reason(self) -> str:
        return self.controller.supervisor.reason

    def hear(self) -> None:
        for n, q in enumerate(self.told):
            if not self.deaf[n]:
                self.controller.update_joints(q, 0.05, self.now, n, self.at)

    def cycle(self, missed: int = 0, follow: bool = True, braked: bool = True) -> np.ndarray:
        """One cycle; the joints told [7 n] rad."""
        self.at += DT
        if self.beats:
            self.controller.on_engine(self.at)
        if follow:
            self.hear()
        commands = self.controller.step(self.now, missed, self.at, braked)
        assert commands is not None
        if follow:
            self.told = [command.position for command in commands]
        return np.concatenate([command.position for command in commands])

    def run(self, seconds: float, say: Callable[[], object] | None = None) -> np.ndarray:
        out = []
        for _ in range(round(seconds / DT)):
            if say:
                say()
            out.append(self.cycle())
        return np.array(out)

    def twist(self, twist: list[float] | None = None, arm: int = 0) -> None:
        """Somebody says so at the cycle that comes."""
        self.controller.arms[arm].teleop.twist(FORWARD if twist is None else twist, self.at + DT)

    def start(self) -> bool:
        return self.controller.start(self.now, self.at)

    def resume(self) -> bool:
        return self.controller.resume(self.now, self.at)

    def chunk(self, dy: float = 0.01, steps: int = 8, dt: float = 0.125, plan_id: int = 3) -> ActionChunk:
        arms = len(self.controller.arms)
        actions = np.zeros((steps, 7 * arms))
        actions[:, 1], actions[:, 6 * arms :] = dy, 1.0
        return ActionChunk(actions, dt, self.now, plan_id)

    def play(self, dy: float = 0.01, steps: int = 8, dt: float = 0.125) -> bool:
        return self.controller.on_chunk(self.chunk(dy, steps, dt), self.now, self.at)

    def moving(self, dy: float = 0.01) -> Loop:
        """A policy moves the arm."""
        assert self.start() and self.play(dy), self.controller.last_refusal
        self.run(0.25)
        assert self.state is State.POLICY and self.controller.arms[0].limiter.motion.dq.any()
        return self


# What is known of the arms


def test_no_arm_is_commanded_before_every_arm_is_known() -> None:
    controller = Controller(ROBOT, arms=PAIR)
    controller.update_joints(HOME_Q, 0.08, 0.0, 0)
    assert controller.step(0.0) is None
    assert not controller.start(0.0) and "no joint states came; start the robot" in controller.refusal
    controller.update_joints(HOME_Q, 0.08, 0.0, 1)
    assert controller.step(0.0) is not None and controller.start(0.0)


def test_without_a_steady_clock_ros_time_is_both() -> None:
    controller = Controller(ROBOT)
    controller.update_joints(HOME_Q, 0.08, 5.0)
    assert controller.start(5.05), controller.refusal
    actions = np.zeros((8, 7))
    assert controller.on_chunk(ActionChunk(actions, 0.1, 5.05), 5.05)
    assert controller.arms[0].measurement.heard == 5.0 and controller._chunk_since == 5.05
    assert controller.step(5.09) is not None and controller.supervisor.state is State.POLICY
    controller.stop()
    assert controller.resume(5.1) and controller.resume(5.1) and controller._moving_since == 5.1
    controller.step(5.2)
    why = "joint states have stopped: none came for 0.2 s"
    assert controller.supervisor.reason == f"{Event.JOINTS_STALE.value}: {why}"


@pytest.mark.parametrize(
    ("stamp", "heard", "why"),
    [
        (0.0, 0.0, ""), (-0.125, 0.0, ""), (0.125, 0.0, ""), (0.0, -0.125, ""),
        (-0.15, 0.0, "are 0.1 s old: check the clocks of the computers"),
        (0.15, 0.0, "are 0.1 s in the future: check the clocks of the computers"),
        (30.0, 0.0, "are 30.0 s in the future: check the clocks of the computers"),
        (0.0, -0.16, "have stopped: none came for 0.2 s"),
        (-AWAY - 1, 0.0, "are stamped 0; their driver has to stamp them with the time of the measurement"),
        (1.7e9, 0.0, "are stamped by another clock: set use_sim_time alike for every node"),
    ],
)  # fmt: skip
def test_joint_states_that_are_old_or_from_the_future_start_nothing(stamp: float, heard: float, why: str) -> None:
    controller = Controller(ROBOT, ControllerConfig(joints_deadline=0.125, joint_states="/joint_states"))
    controller.update_joints(HOME_Q, 0.08, AWAY + 1 + stamp, 0, 1 + heard)
    assert controller.start(AWAY + 1, 1.0) is not bool(why)
    assert controller.refusal == (f"joint states on /joint_states {why}" if why else "")


def test_why_joint_states_are_refused_is_said() -> None:
    controller = Controller(ROBOT, arms=PAIR)
    controller.update_joints(HOME_Q, 0.08, 0.0, 0)
    controller.update_joints(HOME_Q + 9, 0.08, 0.0, 1)
    assert not controller.start(0.0)
    why = "joint 1 is told to be at 9.00 rad, outside of the robot's range"
    assert controller.refusal == f"right_joint states are not believed: {why}"
    assert controller.notes(0.0, 0.0) == [f"right_joint states: {why}"]


@pytest.mark.parametrize("mover", ["policy", "person"])
@pytest.mark.parametrize("deaf", [0, 1])
def test_one_of_two_arms_that_says_nothing_holds_both(deaf: int, mover: str) -> None:
    loop = Loop(2)
    if mover == "policy":
        loop.moving()
    say = loop.twist if mover == "person" else None
    loop.run(0.25, say)
    assert loop.state is (State.POLICY if mover == "policy" else State.TELEOP)
    loop.deaf[deaf] = True
    loop.run(0.25, say)
    assert loop.state is State.HOLD and loop.reason.startswith(f"{Event.JOINTS_STALE.value}: ")


@pytest.mark.parametrize("ahead", [0.2, -0.2])
@pytest.mark.parametrize("mover", ["policy", "person"])
def test_stamps_from_the_future_hold_as_old_ones_do(mover: str, ahead: float) -> None:
    loop = Loop()
    if mover == "policy":
        loop.moving()
    say = loop.twist if mover == "person" else None
    loop.run(0.25, say)
    for _ in range(3):
        if say:
            say()
        loop.at += DT
        loop.controller.update_joints(loop.told[0], 0.05, loop.now + ahead, 0, loop.at)
        loop.controller.step(loop.now, 0, loop.at)
    assert loop.state is State.HOLD and loop.reason.startswith(f"{Event.JOINTS_STALE.value}: ")


@pytest.mark.parametrize("stuck", [0, 1])
def test_one_of_two_arms_that_does_not_follow_holds_both(stuck: int) -> None:
    loop = Loop(2, following=0.05)
    assert loop.start()
    actions = np.zeros((8, 14))
    actions[:, 1 + 3 * stuck], actions[:, 12:] = 0.03 * (1 - 2 * stuck), 1.0
    assert loop.controller.on_chunk(ActionChunk(actions, 0.125, loop.now, 1), loop.now, loop.at)
    where = loop.told[stuck]
    for _ in range(60):
        loop.told[stuck] = where
        loop.cycle()
    assert loop.state is State.HOLD and loop.reason.startswith(f"{Event.NOT_FOLLOWING.value}: 0.0")
    assert loop.reason.endswith(" rad behind")


def test_an_arm_as_far_behind_as_is_allowed_goes_on() -> None:
    loop = Loop(following=0.5).moving()
    arm = loop.controller.arms[0]
    for gap, state in ((0.5, State.POLICY), (0.5000001, State.HOLD)):
        arm.gap = lambda gap=gap: gap  # type: ignore[method-assign,misc]
        loop.cycle()
        assert loop.state is state


# Chunks


def test_a_chunk_is_refused_with_its_reason_while_nobody_started_the_arm() -> None:
    loop = Loop()
    assert not loop.play() and loop.controller.last_refusal == "the arm is in idle: start or resume it first"
    assert loop.controller.refused == 0, "that is no fault of the chunk"
    bad = replace(loop.chunk(), actions=np.zeros((8, 6)))
    assert not loop.controller.on_chunk(bad, loop.now, loop.at)
    assert loop.controller.refused == 1 and "shape" in loop.controller.last_refusal
    loop.controller.refuse("it is for another arm")
    assert loop.controller.refused == 2 and loop.controller.last_refusal == "it is for another arm"
    assert loop.controller.counts["refused"] == 2


@pytest.mark.parametrize(("actions", "insane"), [(np.full((8, 7), np.nan), True), (np.full((8, 7), 0.9), False)])
def test_nonsense_holds_the_arm_and_a_chunk_that_is_only_too_fast_is_passed_over(
    actions: np.ndarray, insane: bool
) -> None:
    loop = Loop().moving()
    assert not loop.controller.on_chunk(ActionChunk(actions, 0.1, loop.now, 4), loop.now, loop.at)
    assert loop.controller.refused == 1
    if insane:
        assert loop.state is State.HOLD
        assert loop.reason == f"{Event.CHUNK_INSANE.value}: {loop.controller.last_refusal}"
    else:
        assert loop.state is State.POLICY and "faster" in loop.controller.last_refusal


def test_a_chunk_from_the_future_is_refused_by_ros_time() -> None:
    loop = Loop()
    assert loop.start()
    late = replace(loop.chunk(), stamp=loop.now + 0.06)
    assert not loop.controller.on_chunk(late, loop.now, loop.at) and "future" in loop.controller.last_refusal
    assert loop.controller.on_chunk(replace(late, stamp=loop.now + 0.04), loop.now, loop.at)


def test_a_plan_is_taken_by_all_arms_or_none() -> None:
    loop = Loop(2)
    assert loop.start()
    hands = [arm.kinematics.forward(HOME_Q) for arm in loop.controller.arms]
    row = np.concatenate([
        hands[0].position, hands[1].position + [0, 0.3, 0],
        *(hand.rotation.as_euler("xyz") for hand in hands), [1.0, 1.0],
    ])  # fmt: skip
    bad = ActionChunk(np.tile(row, (4, 1)), 0.1, loop.now, 5, ActionSpace.EE)
    assert not loop.controller.on_chunk(bad, loop.now, loop.at) and "begins far" in loop.controller.last_refusal
    assert not any(arm.player.loaded for arm in loop.controller.arms)


def test_a_plan_that_nobody_approved_is_not_played_and_one_that_was_only_once() -> None:
    loop = Loop(approve=True)
    assert loop.start()
    chunk = loop.chunk(plan_id=9)
    assert not loop.controller.on_chunk(chunk, loop.now, loop.at) and "approved" in loop.controller.last_refusal
    loop.controller.consent.show(chunk)
    assert loop.controller.consent.approve(9) == ""
    assert loop.controller.on_chunk(chunk, loop.now, loop.at), loop.controller.last_refusal
    again = replace(chunk, stamp=loop.now + 0.01)
    assert not loop.controller.on_chunk(again, loop.now, loop.at) and "approved" in loop.controller.last_refusal


# Who may start


def test_a_start_and_a_resume_begin_and_what_goes_on_goes_on() -> None:
    for go in ("start", "resume"):
        loop = Loop()
        assert getattr(loop, go)() and loop.state is State.POLICY and loop.controller.refusal == ""
        loop.at += 1.0
        assert getattr(loop, go)(), "an instruction more changes nothing"
        assert loop.controller._moving_since == loop.at, "but silence is counted from it"
        assert loop.controller.refusal == ""


def test_a_stop_is_left_by_a_reset_alone() -> None:
    loop = Loop().moving()
    loop.controller.stop("at the panel")
    assert loop.state is State.STOPPED and loop.reason == f"{Event.STOP.value}: at the panel"
    assert not loop.start()
    assert loop.controller.refusal == "the arm is stopped; resume it (the reset of a stop) first"
    assert loop.resume() and loop.state is State.HOLD and loop.controller.refusal == ""
    assert loop.reason == f"{Event.RESUME.value}: the stop is reset"
    loop.controller.stop()
    assert loop.reason == Event.STOP.value, "nobody said why"


def test_a_stop_that_is_reset_within_a_cycle_still_asks_a_person_to_let_go() -> None:
    loop = Loop()
    loop.run(0.125, loop.twist)
    loop.controller.stop()
    assert loop.resume() and loop.state is State.HOLD
    loop.run(0.5, loop.twist)
    assert loop.state is State.HOLD


def test_what_moves_or_is_outside_is_not_taken_up() -> None:
    loop = Loop()
    for k in range(10):
        loop.at += DT
        loop.controller.update_joints(HOME_Q + 0.005 * k, 0.05, loop.now, 0, loop.at)
    assert not loop.start() and "still moves" in loop.controller.refusal
    loop = Loop()
    loop.told = [HOME_Q + [1.5, 0, 0, 0, 0, 0, 0]]
    loop.controller = Controller(ROBOT)
    loop.hear()
    assert not loop.start() and "outside of its workspace" in loop.controller.refusal


def test_a_level_refuses_for_as_long_as_it_lasts() -> None:
    loop = Loop()
    for detail in ("reflex", ""):
        loop.controller.fault(Event.ROBOT_STOPPED, detail, lasts=True)
        said = f"{Event.ROBOT_STOPPED.value}: reflex" if detail else Event.ROBOT_STOPPED.value
        assert not loop.start() and loop.controller.refusal == said
    loop.controller.clear(Event.ROBOT_STOPPED)
    loop.controller.clear(Event.ROBOT_STOPPED)
    loop.controller.fault(Event.LATE, "once")
    assert loop.start(), "what happened once refuses nothing"


def test_a_fault_that_is_watched_lasts_for_as_long_as_it_has_a_reason() -> None:
    loop = Loop()
    assert loop.start()
    loop.controller.level(Event.ROBOT_STOPPED, "reflex")
    assert loop.state is State.HOLD and loop.reason == f"{Event.ROBOT_STOPPED.value}: reflex"
    loop.controller.level(Event.SECOND_CONTROLLER, "")
    assert not loop.resume() and loop.controller.refusal == f"{Event.ROBOT_STOPPED.value}: reflex"
    loop.controller.level(Event.ROBOT_STOPPED, "")
    assert loop.resume()


def test_joint_states_by_name_are_as_old_as_their_arrival() -> None:
    loop = Loop()
    names, values = [*SINGLE.joints, *SINGLE.fingers], [*HOME_Q, 0.02, 0.02]
    loop.controller.update_joint_state(names, values, loop.now, loop.at)
    assert loop.controller.wrong_joints(loop.now, loop.at) == ""
    assert "none came for 1.0 s" in loop.controller.wrong_joints(loop.now + 1.0, loop.at + 1.0)
    loop.controller.update_joint_state(names, values, loop.now + 1.0)
    assert loop.controller.wrong_joints(loop.now + 1.0, loop.now + 1.0) == "", "without an arrival the stamp counts"


def test_a_stream_from_before_the_controller_is_followed_only_after_its_time_and_a_pause() -> None:
    loop = Loop()
    loop.controller.expect_silence(1.0)
    loop.run(0.5)
    loop.run(0.25, loop.twist)
    assert loop.state is State.IDLE, "it came too early"
    loop.run(0.3125)
    assert loop.at > 1.0
    loop.run(0.125, loop.twist)
    assert loop.state is State.TELEOP


def test_a_person_who_moves_the_arm_is_not_interrupted() -> None:
    loop = Loop()
    assert loop.start()
    loop.run(0.125, loop.twist)
    assert loop.state is State.TELEOP and loop.reason == f"{Event.TELEOP.value}: twist"
    for go in (loop.start, loop.resume):
        assert not go()
        assert loop.controller.refusal == "an operator moves the arm; wait until they have let go"
    loop.run(0.125, lambda: loop.twist([0.0] * 6))
    assert loop.state is State.TELEOP and not loop.start(), "an instruction takes no arm out of a hand that rests"
    assert loop.controller.refusal == "an operator moves the arm; wait until they have let go"
    assert loop.resume() and loop.state is State.POLICY, "but who rests may hand back"
    loop.run(0.5, lambda: loop.twist([0.0] * 6))
    assert loop.state is State.POLICY, "and going on to rest takes nothing back"
    loop.run(0.125, loop.twist)
    assert loop.state is State.TELEOP, "moving does"


def test_a_zero_twist_takes_over_what_was_not_handed_back_just_now() -> None:
    loop = Loop().moving()
    loop.run(2 * DT, lambda: loop.twist([0.0] * 6))
    assert loop.state is State.TELEOP


def test_who_handed_back_and_let_go_takes_over_by_a_zero_twist_again() -> None:
    loop = Loop()
    loop.run(0.125, lambda: loop.twist([0.0] * 6))
    assert loop.resume()
    loop.run(0.5)
    loop.run(2 * DT, lambda: loop.twist([0.0] * 6))
    assert loop.state is State.TELEOP


@pytest.mark.parametrize(
    ("took", "hand_back", "after"),
    [
        ("policy", True, State.POLICY), ("policy", False, State.HOLD), ("hold", True, State.HOLD),
        ("idle", True, State.HOLD),
    ],
)  # fmt: skip
def test_the_arm_goes_back_to_the_policy_only_if_it_was_taken_from_it(took: str, hand_back: bool, after: State) -> None:
    loop = Loop(teleop=TeleopConfig(timeout=0.25, hand_back=hand_back))
    if took == "policy":
        loop.moving()
    elif took == "hold":
        loop.moving()
        loop.controller.hold()
        loop.run(0.5)
    loop.run(0.25, loop.twist)
    assert loop.state is State.TELEOP
    loop.run(0.5)
    assert loop.state is after
    assert loop.reason == (Event.HANDED_BACK if after is State.POLICY else Event.TELEOP_SILENT).value


@pytest.mark.parametrize("how", ["joints", "level", "stop", "fault", "hold"])
def test_a_stream_that_went_on_while_it_could_not_move_the_arm_does_not_do_so_later(how: str) -> None:
    loop = Loop()
    controller = loop.controller
    if how == "joints":
        loop.deaf = [True]
        loop.at += 1.0
    elif how == "level":
        controller.fault(Event.SECOND_CONTROLLER, "x", lasts=True)
    elif how == "stop":
        controller.stop()
    elif how == "fault":
        loop.run(0.125, loop.twist)
        controller.fault(Event.LATE)
    else:
        loop.run(0.125, loop.twist)
        controller.hold()
    loop.run(0.125, loop.twist)
    assert loop.state is not State.TELEOP
    (note,) = controller.notes(loop.now, loop.at)
    why = {"joints": " (joint states have stopped: none came for 1.1 s)",
           "level": f" ({Event.SECOND_CONTROLLER.value}: x)"}  # fmt: skip
    assert note == f"an operator's hand is not followed until they let go once{why.get(how, '')}"
    loop.deaf = [False]
    controller.clear(Event.SECOND_CONTROLLER)
    if how == "stop":
        assert loop.resume()
    loop.run(0.5, loop.twist)
    assert loop.state is not State.TELEOP
    loop.run(0.5)
    assert controller.notes(loop.now, loop.at) == []
    loop.run(0.125, loop.twist)
    assert loop.state is State.TELEOP and controller.notes(loop.now, loop.at) == []


def test_a_person_takes_up_no_arm_that_still_moves_but_takes_over_from_a_policy_in_motion() -> None:
    loop = Loop()
    q = HOME_Q.copy()
    for _ in range(12):
        q = q + 0.005
        loop.told = [q]
        loop.twist()
        loop.cycle(follow=True)
        loop.told = [q]
    assert loop.state is State.IDLE
    loop.run(0.25, loop.twist)
    assert loop.state is State.TELEOP, "once it stands"
    loop = Loop().moving()
    loop.twist()
    loop.cycle()
    assert loop.state is State.TELEOP


def test_it_is_said_who_moves_which_arm() -> None:
    loop = Loop(2)
    loop.twist(arm=1)
    loop.controller.arms[0].teleop.gripper(0.02, loop.at + DT)
    loop.cycle()
    assert loop.reason == f"{Event.TELEOP.value}: left_gripper, right_twist"


# Where motion begins


@pytest.mark.parametrize("how", ["start", "resume", "person"])
@pytest.mark.parametrize("rested", ["idle", "hold", "stopped"])
def test_motion_begins_where_the_arm_is_found(rested: str, how: str) -> None:
    loop = Loop()
    if rested != "idle":
        loop.moving()
        (loop.controller.hold if rested == "hold" else loop.controller.stop)()
        loop.run(0.5)
    moved = loop.told[0] + 0.015  # somebody brought it there
    for _ in range(12):
        loop.told = [moved]
        loop.cycle()
    loop.told = [moved]
    if rested == "stopped":
        assert loop.resume() and loop.state is State.HOLD
    if how == "person":
        loop.twist([0.0] * 6)
    else:
        assert getattr(loop, how)(), loop.controller.refusal
    np.testing.assert_array_equal(loop.cycle(), moved)
    assert loop.state in (State.POLICY, State.TELEOP)


def test_a_hand_over_in_motion_goes_on_from_the_commands() -> None:
    loop = Loop().moving()
    motion = loop.controller.arms[0].limiter.motion
    loop.told = [loop.told[0] + 0.01]  # the measurement differs, as in motion it does
    loop.twist([0.0] * 6)
    q = loop.cycle()
    assert loop.state is State.TELEOP
    assert np.abs(q - motion.q - motion.dq * DT).max() < 2e-3


def test_a_person_who_hands_back_at_rest_does_so_where_the_arm_was_told_to_be() -> None:
    """Sagging or noise of the joint states is no step of the commands; nor is a late measurement motion."""
    loop = Loop()
    loop.run(0.25, lambda: loop.twist([0.0] * 6))
    for k in range(1, 8):
        loop.twist([0.0] * 6)
        loop.told = [HOME_Q + 0.003 * k]
        loop.cycle()
    loop.told = [HOME_Q + 0.003 * 8]
    loop.hear()
    arm = loop.controller.arms[0]
    assert arm.measurement.speed > 0.1 and arm.unsettled()
    assert loop.resume() and loop.state is State.POLICY, loop.controller.refusal
    np.testing.assert_array_equal(arm.limiter.motion.q, HOME_Q)


def test_a_hand_over_forgets_the_plan_and_the_fingers() -> None:
    loop = Loop().moving()
    arm = loop.controller.arms[0]
    loop.cycle()
    assert arm.opening == OPENING_MAX and arm.player.loaded
    loop.run(0.125, lambda: loop.twist([0.0] * 6))
    assert arm.opening is None and not arm.player.loaded
    assert loop.controller._chunk_due == -np.inf and loop.controller._chunk_since is None
    assert loop.controller._moving_since == loop.at - 0.125 + DT


# Missed cycles


@pytest.mark.parametrize(("missed", "braked"), [(0, True), (1, True), (3, True), (1, False), (3, False)])
def test_missed_cycles_are_braked_or_stood_through(missed: int, braked: bool) -> None:
    loop = Loop().moving(0.05)
    limiter = loop.controller.arms[0].limiter
    motion, escape = limiter.motion, limiter.planned(False)
    q = loop.cycle(missed, braked=braked)
    assert loop.state is State.POLICY
    np.testing.assert_array_equal(limiter.planned(True)[0], escape[min(missed, len(escape) - 1) if braked else 0])
    if missed > 1 and not braked:
        assert np.abs(q - motion.q).max() < 0.2 * 5000 * DT**3 + 1e-6, "from a stand"
    elif missed < 2:
        assert np.abs(q - motion.q).max() > 4e-3, "it moves on"


def test_by_default_no_cycle_was_missed_and_arms_brake_in_those_that_were() -> None:
    for missed in (0, 2):
        loop = Loop().moving(0.05)
        limiter = loop.controller.arms[0].limiter
        escape = limiter.planned(False)
        loop.at += DT
        loop.hear()
        if missed:
            loop.controller.step(loop.now, missed, steady=loop.at)
        else:
            loop.controller.step(loop.now, steady=loop.at)
        np.testing.assert_array_equal(limiter.planned(True)[0], escape[missed])


# What holds a policy


@pytest.mark.parametrize("chunks", [True, False])
def test_a_silent_policy_holds_counted_from_the_end_of_its_last_plan(chunks: bool) -> None:
    loop = Loop(silence_deadline=0.5)
    assert loop.start() and (not chunks or loop.play(steps=2))
    began = 0.25 if chunks else 0.0  # until the plan is over
    loop.run(began + 0.5)
    assert loop.state is State.POLICY
    loop.cycle()
    assert loop.state is State.HOLD and loop.reason == Event.POLICY_SILENT.value


def test_a_plan_that_waits_for_approval_is_no_silence() -> None:
    loop = Loop(silence_deadline=0.5)
    assert loop.start()
    loop.run(0.375)
    loop.controller.on_engine(loop.at, pending=True)
    loop.run(0.5)
    assert loop.state is State.POLICY
    loop.cycle()
    assert loop.state is State.HOLD


def test_chunks_need_an_engine_that_beats() -> None:
    loop = Loop(engine_deadline=0.5)
    loop.beats = False
    assert loop.start()
    loop.run(0.75)
    assert loop.state is State.POLICY, "without chunks none is missed that was never heard"
    assert loop.play(0.001, steps=8, dt=0.25)
    loop.run(0.25)
    assert loop.controller.on_chunk(loop.chunk(0.001, 8, 0.25), loop.now, loop.at), loop.controller.last_refusal
    loop.run(0.25)
    assert loop.state is State.POLICY
    loop.cycle()
    assert loop.state is State.HOLD and loop.reason == Event.ENGINE_SILENT.value, "counted from the first chunk"


@pytest.mark.parametrize("chunks", [True, False])
def test_an_engine_that_was_heard_and_falls_silent_holds(chunks: bool) -> None:
    loop = Loop(engine_deadline=0.5)
    loop.run(0.25)
    assert loop.start() and (not chunks or loop.play(0.001, steps=8, dt=0.25))
    loop.run(0.25)
    loop.beats = False
    loop.run(0.5)
    assert loop.state is State.POLICY
    loop.cycle()
    assert loop.state is State.HOLD and loop.reason == Event.ENGINE_SILENT.value


def test_an_engine_that_was_silent_before_the_start_gets_its_time_anew() -> None:
    loop = Loop(engine_deadline=0.5)
    loop.cycle()
    loop.beats = False
    loop.run(2.0)
    assert loop.start() and loop.controller.heard == loop.at
    loop.run(0.5)
    assert loop.state is State.POLICY


def test_an_engine_that_tells_of_nothing_but_faults_holds() -> None:
    loop = Loop(engine_deadline=0.5)
    loop.beats = False
    loop.run(0.125, lambda: loop.controller.on_engine(loop.at))
    assert loop.start()
    bad = lambda: loop.controller.on_engine(loop.at, "out of memory")  # noqa: E731
    loop.run(0.5, bad)
    loop.controller.on_engine(loop.at)
    loop.run(0.5, bad)
    assert loop.state is State.POLICY, "it was well in between"
    loop.run(2 * DT, bad)
    assert loop.state is State.HOLD and loop.reason == f"{Event.ENGINE_FAULT.value}: out of memory"


@pytest.mark.parametrize(("age", "state"), [(0.5, State.POLICY), (0.501, State.HOLD)])
def test_old_pictures_hold(age: float, state: State) -> None:
    loop = Loop(camera_deadline=0.5)
    loop.beats = False
    assert loop.start()
    loop.run(DT, lambda: loop.controller.on_engine(loop.at, camera_age=age))
    assert loop.state is state and (state is State.POLICY or loop.reason == Event.CAMERA_STALE.value)


def test_the_operator_is_asked_for_where_that_is_configured() -> None:
    loop = Loop(presence_timeout=0.25)
    loop.at = 100.0
    loop.hear()
    assert not loop.start()
    assert loop.controller.refusal == (
        "no operator is present: nothing is heard on the controller's presence topic (presence_timeout)"
    )
    loop.controller.on_presence(loop.at - 0.25)
    assert loop.start()
    loop.controller.on_presence(loop.at)
    loop.run(0.25)
    assert loop.state is State.POLICY
    loop.cycle()
    assert loop.state is State.HOLD and loop.reason == Event.OPERATOR_ABSENT.value
    loop = Loop()
    assert loop.start()
    loop.run(0.5)
    assert loop.state is State.POLICY, "by default nobody has to be there"


def test_what_a_policy_does_wrong_does_not_take_the_arm_out_of_a_persons_hand() -> None:
    loop = Loop(silence_deadline=0.25, engine_deadline=0.25, camera_deadline=0.25, presence_timeout=0.25)
    loop.cycle()
    loop.beats = False
    loop.controller.on_engine(loop.at, "broken", 9.0)
    loop.run(1.0, loop.twist)
    assert loop.state is State.TELEOP


def test_the_age_of_pictures_that_nobody_tells_is_none() -> None:
    loop = Loop(camera_deadline=0.5)
    assert loop.start()
    loop.run(0.125)
    assert loop.state is State.POLICY


def test_a_fault_while_nobodys_hand_is_there_asks_nobody_to_let_go() -> None:
    loop = Loop().moving()
    loop.controller.fault(Event.LATE)
    assert loop.controller.notes(loop.now, loop.at) == []


def test_an_arm_that_nobody_moves_is_not_slowed_down() -> None:
    loop = Loop(slow_below=9.0)
    loop.run(0.125)
    assert loop.controller.counts["singularity"] == 0
    assert loop.start()
    loop.cycle()
    assert loop.controller.counts["singularity"] == 1


# Two arms beside each other, and counts


def test_arms_go_at_the_pace_of_the_slower_one() -> None:
    loop = Loop(2)
    loop.moving()
    loop.controller.arms[1].pace = lambda: 0.25  # type: ignore[method-assign]
    before = [arm.player.time for arm in loop.controller.arms]
    loop.cycle()
    for arm, time in zip(loop.controller.arms, before, strict=True):
        assert arm.player.time - time == pytest.approx(0.25 * DT)


def test_arms_are_told_what_the_others_plan() -> None:
    loop = Loop(2)
    assert loop.start()
    actions = np.zeros((8, 14))
    actions[:, 1], actions[:, 12:] = 0.03, 1.0
    assert loop.controller.on_chunk(ActionChunk(actions, 0.125, loop.now, 1), loop.now, loop.at)
    loop.run(0.25)
    first, second = loop.controller.arms
    np.testing.assert_array_equal(loop.controller._beside(1), first.limiter.planned(True))
    np.testing.assert_array_equal(loop.controller._beside(0), second.limiter.planned(False))
    assert len(first.limiter.planned(True)) > len(second.limiter.planned(True))
    assert Loop().controller._beside(0) is None


def test_each_step_is_told_what_the_others_plan() -> None:
    loop = Loop(2).moving()
    first, second = loop.controller.arms
    told: list[np.ndarray | None] = []
    step = second.limiter.step

    def listened(wanted: Motion | None, beside: np.ndarray | None = None, hand_speed: float = np.inf) -> Motion:
        told.append(beside)
        return step(wanted, beside, hand_speed)

    second.limiter.step = listened  # type: ignore[method-assign]
    loop.cycle()
    (beside,) = told
    assert beside is not None
    np.testing.assert_array_equal(beside, first.limiter.planned(True))


def test_plans_of_different_length_are_put_beside_each_other_and_their_last_place_stays() -> None:
    loop = Loop(2)
    arms = [*PAIR, Arm("third_", base=(0.0, 1.2, 0.0, 0.0))]
    loop.controller, loop.told, loop.deaf = Controller(ROBOT, arms=arms), [HOME_Q] * 3, [False] * 3
    loop.hear()
    assert loop.start()
    actions = np.zeros((8, 21))
    actions[:, 0], actions[:, 6] = 0.01, 0.04
    assert loop.controller.on_chunk(ActionChunk(actions, 0.125, loop.now, 1), loop.now, loop.at)
    loop.run(0.125)
    for number in range(3):
        others = [n for n in range(3) if n != number]
        plans = [loop.controller.arms[n].limiter.planned(n < number) for n in others]
        beside = loop.controller._beside(number)
        assert beside is not None and len(beside) == max(map(len, plans)) > min(map(len, plans))
        for k, row in enumerate(beside):
            np.testing.assert_array_equal(row, np.concatenate([plan[min(k, len(plan) - 1)] for plan in plans]))


def test_counts_are_of_all_arms() -> None:
    loop = Loop(2)
    for arm in loop.controller.arms:
        arm.limiter.counts["table"] += 2
        arm.slowed += 3
    counts = loop.controller.counts
    assert counts["table"] == 4 and counts["singularity"] == 6 and counts["refused"] == 0
    assert counts["velocity"] == 0
