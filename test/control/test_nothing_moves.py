"""What moved an arm that must not: the findings of a safety review, each by its number, on the controller itself."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, RefusedChunk, check_chunk
from molmoact_ros.control.clock_monitor import BACK, JUMP, STILL, ClockMonitor
from molmoact_ros.control.collision import Surroundings, Workspace
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.supervisor import FAULTS, POLICY_FAULTS, Event, State
from molmoact_ros.control.teleop import TeleopConfig, wrong_age
from molmoact_ros.robots.franka import FR3, HOME_Q, OPENING_MAX
from molmoact_ros.utils.paths import share

ROBOT = share() / "models" / "fr3" / "fr3.xml"
DT = 0.01
TURNED = np.array([0.6, -0.3, -0.75, -2.55, -0.35, 2.25, 0.9])
"""rad: inside the box, with an elbow far from home's."""
OPEN = Surroundings(workspace=Workspace(low=(-2.0, -2.0, -2.0), high=(2.0, 2.0, 2.0)))
FORWARD = [0.1, 0.0, 0.0, 0.0, 0.0, 0.0]
Q = st.tuples(*(st.floats(low, high) for low, high in zip(FR3.position_min, FR3.position_max, strict=True))).map(
    np.array
)

_kept: dict[str, Controller] = {}


def controller_at(q: np.ndarray, config: ControllerConfig | None = None) -> Controller:
    controller = Controller(ROBOT, config)
    controller.update_joints(q, 0.08, 0.0)
    return controller


def move_to(controller: Controller, q: np.ndarray, now: float) -> None:
    """Somebody brings the arm there while nobody commands it."""
    controller.hold()
    for k in range(60, 0, -1):  # whatever was before has come to rest, and nobody has spoken meanwhile
        controller.step(now - k * DT)
    controller.update_joints(q, 0.08, now)
    controller.step(now)


class Loop:
    """Cycles of an arm that follows at once. now: ROS time, steady: of the machine, s."""

    def __init__(self, controller: Controller, alive: bool = True) -> None:
        self.controller, self.now, self.steady, self.rate, self.alive = controller, 0.0, 0.0, 1.0, alive
        self.follows = True
        self.stuck = np.asarray(controller.arms[0].measured)

    def run(self, seconds: float, twist: list[float] | None = None) -> np.ndarray:
        """Commanded joints [n, 7] rad of the next `seconds`; a twist is said each cycle."""
        out, controller = [], self.controller
        for _ in range(round(seconds / DT)):
            self.now, self.steady = self.now + DT * self.rate, self.steady + DT
            if self.alive:
                controller.on_engine(self.steady)
            if twist is not None:
                controller.arms[0].teleop.twist(twist, self.steady)
            commands = controller.step(self.now, steady=self.steady)
            assert commands is not None
            sent = self.state in (State.POLICY, State.TELEOP) or commands[0].velocity.any()
            q = commands[0].position if sent else np.asarray(controller.arms[0].measured)  # unasked, it stands
            controller.update_joints(q if self.follows else self.stuck, 0.08, self.now, 0, self.steady)
            out.append(q)
        return np.array(out)

    def chunk(self, dy: float = 0.01, steps: int = 8) -> bool:
        actions = np.zeros((steps, 7))
        actions[:, 1], actions[:, 6] = dy, 1.0
        return self.controller.on_chunk(
            ActionChunk(actions, 0.1, self.now, round(self.now * 1e3) + 1), self.now, self.steady
        )

    @property
    def state(self) -> State:
        return self.controller.supervisor.state


# C1: regularisation and clamping as sources of motion


@pytest.fixture(scope="module")
def anywhere() -> Controller:
    """Without a box, so that it can be started wherever it is."""
    return controller_at(HOME_Q, ControllerConfig(surroundings=OPEN))


@settings(max_examples=60, deadline=None)
@given(q=Q, how=st.sampled_from(["start", "resume", "zero twist", "gripper word", "chunk of zeros"]))
def test_c1_without_a_plan_nothing_moves_wherever_the_arm_is(anywhere: Controller, q: np.ndarray, how: str) -> None:
    now = anywhere.supervisor.__dict__.setdefault("clock", 0.0) + 10.0
    anywhere.supervisor.__dict__["clock"] = now
    move_to(anywhere, q, now)
    loop = Loop(anywhere)
    loop.now = loop.steady = now
    if how in ("start", "resume"):
        assert getattr(anywhere, how)(now), anywhere.refusal
    elif how == "gripper word":
        anywhere.arms[0].teleop.gripper(0.02, now)
    elif how == "chunk of zeros":
        assert anywhere.start(now) and loop.chunk(0.0), anywhere.last_refusal
    path = loop.run(0.4, twist=[0.0] * 6 if how == "zero twist" else None)
    assert loop.state in (State.POLICY, State.TELEOP) or how == "gripper word"
    assert np.abs(path - q).max() <= (1e-4 if how == "chunk of zeros" else 0.0)


def test_c1_an_elbow_far_from_home_stays_where_it_is() -> None:
    controller = controller_at(TURNED)
    assert controller.resume(0.0), controller.refusal
    loop = Loop(controller)
    assert np.abs(loop.run(1.5) - TURNED).max() == 0.0


def test_c1_the_end_of_a_chunk_is_held_without_drift() -> None:
    controller = controller_at(TURNED)
    assert controller.start(0.0)
    loop = Loop(controller)
    loop.run(0.1)
    assert loop.chunk(0.01)
    loop.run(1.8)
    assert np.abs(np.diff(loop.run(0.5), axis=0)).max() == 0.0
    assert loop.state is State.POLICY


def test_c1_the_elbow_moves_only_as_the_hand_does() -> None:
    """A twist so small that the hand hardly moves is no reason for an elbow to go anywhere."""
    controller = controller_at(TURNED)
    loop = Loop(controller)
    loop.run(1.0, twist=[0.0, 0.1, 0.0, 0.0, 0.0, 0.3])  # away from where the elbow was anchored
    path = loop.run(1.0, twist=[1e-6, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert np.abs(path[-1] - path[30]).max() < 1e-4


@settings(max_examples=25, deadline=None)
@given(q=Q, twist=st.lists(st.floats(-0.2, 0.2), min_size=6, max_size=6))
@example(q=np.array([1.0, 0.0, 2.0, -0.5, 1.0, 1.0, 0.0]), twist=[0.0, 0.0, 0.0, 0.0, 0.0, 0.125])
@example(q=np.array([-1.5, 0.0, 1.0, -1.5, 0.0, 0.5625, 0.0]), twist=[0.0, 0.0, 0.0, 0.125, 0.1875, 0.0])
def test_c1_the_box_draws_no_hand_inside(q: np.ndarray, twist: list[float]) -> None:
    """Outside of it START is refused, and an operator's twist moves the hand as they say, never by itself."""
    controller = _kept.setdefault("boxed", controller_at(HOME_Q))
    now = controller.__dict__.setdefault("clock", 0.0) + 10.0
    controller.__dict__["clock"] = now
    move_to(controller, q, now)
    hand = controller.arms[0].kinematics.forward
    outside = controller.config.surroundings.workspace.outside(hand(q).position)
    started = controller.start(now)
    assert started == (outside <= 0.01), controller.refusal
    assert started or "outside of its workspace" in controller.refusal
    loop = Loop(controller)
    loop.now = loop.steady = now
    assert np.abs(loop.run(0.2) - q).max() == 0.0
    path = loop.run(0.3, twist=twist)
    way = np.linalg.norm(hand(path[-1]).position - hand(q).position)
    # In a singularity a small turn asks for large motions of joints that cancel each other, and they come one by one.
    # At the end of a joint's range the other joints turn the hand, and it cannot stay in its place meanwhile.
    room = np.minimum(q - FR3.position_min, FR3.position_max - q).min()
    is_hard = controller.arms[0].kinematics.dexterity(q) < 0.02 or room < 0.1
    asked = np.linalg.norm(twist[:3]) * 0.3 + np.linalg.norm(twist[3:]) * 0.3 * 0.05
    assert way <= asked + (0.05 if is_hard else 0.01)
    assert controller.config.surroundings.workspace.outside(hand(path[-1]).position) <= outside + 1e-4


# C2: an edge against a level


@pytest.mark.parametrize(
    ("event", "moving", "goes_on"),
    list(product([*FAULTS, Event.HOLD, Event.STOP], [State.POLICY, State.TELEOP, State.HOLD], [True, False])),
)
def test_c2_a_fault_holds_whoever_moves_the_arm_and_whether_or_not_their_stream_goes_on(
    event: Event, moving: State, goes_on: bool
) -> None:
    loop = Loop(controller_at(HOME_Q))
    controller = loop.controller
    if moving is State.POLICY:
        assert controller.start(0.0)
        assert loop.chunk(0.02)
        loop.run(0.3)
    elif moving is State.TELEOP:
        loop.run(0.3, twist=FORWARD)
    else:
        controller.hold()
    assert loop.state is moving or moving is State.HOLD
    twist = FORWARD if goes_on else None
    if event is Event.STOP:
        controller.stop()
    elif event is Event.HOLD:
        controller.hold()
    else:
        controller.fault(event)
    if moving is State.HOLD and event is not Event.STOP:
        loop.run(0.01, twist=None)  # nobody was there at that time: it counts for nobody later
        return
    path = loop.run(1.5, twist=twist)
    assert loop.state is (State.STOPPED if event is Event.STOP else State.HOLD)
    assert np.abs(np.diff(path[40:], axis=0)).max() == 0.0, "and it stays, however long the stream goes on"
    if event is not Event.STOP and goes_on:
        assert any("let go" in note for note in controller.notes(loop.now, loop.steady))
        loop.run(controller.config.teleop.timeout + 0.05)
        loop.run(0.3, twist=FORWARD)
        assert loop.state is State.TELEOP, "who has let go once moves the arm again"


def test_c2_a_blocked_arm_is_held_in_a_persons_hand() -> None:
    loop = Loop(controller_at(HOME_Q))
    loop.run(0.2, twist=FORWARD)
    loop.follows, loop.stuck = False, np.asarray(loop.controller.arms[0].measured)
    path = loop.run(4.0, twist=[0.2, 0.0, 0.0, 0.0, 0.0, 0.0])
    assert loop.state is State.HOLD and np.abs(path[-1] - path[-100]).max() == 0.0
    assert np.abs(path[-1] - loop.stuck).max() < loop.controller.config.following + 0.1


def test_c2_a_stream_that_went_on_through_a_stop_does_not_move_the_arm_after_the_reset() -> None:
    loop = Loop(controller_at(HOME_Q))
    loop.run(0.3, twist=FORWARD)
    loop.controller.stop()
    loop.run(0.5, twist=FORWARD)
    assert loop.controller.resume(loop.now, loop.steady) and loop.state is State.HOLD
    loop.run(0.3, twist=FORWARD)
    assert loop.state is State.HOLD


# C3: a robot that stopped by itself


def test_c2_a_controller_that_was_kept_from_running_takes_its_own_deafness_for_no_silence() -> None:
    loop = Loop(controller_at(HOME_Q))
    loop.run(0.6, FORWARD)
    assert loop.state is State.TELEOP
    loop.now, loop.steady = loop.now + 0.8, loop.steady + 0.8  # the person's words of that time were not heard
    loop.controller.fault(Event.LATE, "by 0.80 s")
    loop.run(DT)
    assert loop.state is State.HOLD
    stood = loop.run(1.0, FORWARD)
    assert loop.state is State.HOLD and not np.ptp(stood[30:], axis=0).any()
    loop.run(0.3)
    loop.run(0.1, FORWARD)
    assert loop.state is State.TELEOP, "they have let go once"


def test_c2_a_stream_that_went_on_before_the_controller_was_started_does_not_move_the_arm() -> None:
    loop = Loop(controller_at(HOME_Q))
    loop.controller.expect_silence(1.0)
    loop.run(0.5)  # its sender is not discovered yet
    assert not np.ptp(loop.run(2.0, FORWARD), axis=0).any() and loop.state is State.IDLE
    loop.run(0.3)
    loop.run(0.1, FORWARD)
    assert loop.state is State.TELEOP


def test_c3_a_robot_that_stopped_by_itself_holds_and_nothing_goes_on_when_it_is_recovered() -> None:
    loop = Loop(controller_at(HOME_Q))
    controller = loop.controller
    assert controller.start(0.0) and loop.chunk(0.02)
    loop.run(0.3)
    controller.fault(Event.ROBOT_STOPPED, "cartesian_reflex", lasts=True)
    loop.run(0.5)
    assert loop.state is State.HOLD and "cartesian_reflex" in controller.supervisor.reason
    assert not controller.start(loop.now, loop.steady) and "cartesian_reflex" in controller.refusal
    loop.run(0.5, twist=FORWARD)
    assert loop.state is State.HOLD, "nor does an operator move it"
    controller.clear(Event.ROBOT_STOPPED)
    path = loop.run(0.5, twist=FORWARD)
    assert loop.state is State.HOLD and np.abs(np.diff(path, axis=0)).max() == 0.0
    loop.run(0.3)
    assert controller.start(loop.now, loop.steady), controller.refusal


# C5: words without a time


@given(st.floats(-1e6, 1e6), st.floats(0.05, 2.0))
def test_c5_only_a_fresh_word_counts(age: float, timeout: float) -> None:
    assert (wrong_age(age, timeout) == "") == (-0.05 <= age <= timeout)


def test_c5_a_word_of_unknown_age_does_not_count() -> None:
    assert wrong_age(float("nan"), 0.2)


# H1: deadlines by a clock that nobody sets


def test_h1_one_word_moves_the_arm_for_one_timeout_while_the_ros_clock_stands_still() -> None:
    loop = Loop(controller_at(HOME_Q))
    loop.rate = 0.0
    loop.run(0.05, twist=FORWARD)
    path = loop.run(2.0)
    assert loop.state is State.HOLD and np.abs(path[-1] - path[60]).max() == 0.0


def test_h1_a_clock_that_runs_through_the_same_time_again_revives_no_hand() -> None:
    loop = Loop(controller_at(HOME_Q))
    loop.run(0.1, twist=FORWARD)
    loop.run(1.0)
    loop.now -= 1.0
    path = loop.run(0.5)
    assert loop.state is State.HOLD and np.abs(np.diff(path, axis=0)).max() == 0.0


@pytest.mark.parametrize("what", ["joints", "engine", "chunks", "frozen stamps"])
def test_h1_silence_counts_while_the_ros_clock_stands_still(what: str) -> None:
    loop = Loop(controller_at(HOME_Q), alive=what != "engine")
    controller = loop.controller
    assert controller.start(0.0) and loop.chunk(0.005, steps=8)
    loop.rate = 0.0 if what != "frozen stamps" else 1.0
    for _ in range(500):
        if what in ("joints", "frozen stamps"):
            loop.now, loop.steady = loop.now + DT * loop.rate, loop.steady + DT
            if what == "frozen stamps":
                controller.update_joints(controller.arms[0].limiter.motion.q, 0.08, 0.0, 0, loop.steady)
            controller.on_engine(loop.steady)
            controller.step(loop.now, steady=loop.steady)
        else:
            loop.run(DT)
    assert loop.state is State.HOLD


@given(st.floats(0.3, 3.0), st.floats(-0.0009, 0.0009))
def test_h1_a_clock_that_is_slewed_is_followed(seconds: float, slew: float) -> None:
    watch = ClockMonitor(simulated=False)
    assert not any(watch.check_clocks(1e9 + k * DT * (1 + slew), k * DT) for k in range(round(seconds / DT)))


@given(st.sampled_from([True, False]), st.floats(0, 1), st.floats(0, 1e9))
def test_h1_a_clock_that_stands_still_or_goes_back_is_noticed(simulated: bool, ran: float, began: float) -> None:
    watch, k = ClockMonitor(simulated), 0
    for k in range(round(ran / DT) + 1):
        assert watch.check_clocks(began + k * DT, k * DT) == ""
    frozen = began + k * DT
    looks = [watch.check_clocks(frozen, (k + n) * DT) for n in range(1, 60)]
    assert any(looks) and looks.index(next(filter(None, looks))) * DT <= max(STILL, JUMP) + 2 * DT
    back = ClockMonitor(simulated)
    back.check_clocks(1000.0, 0.0)
    assert back.check_clocks(1000.0 - BACK - 0.1, DT)


@given(st.floats(0.03, 0.5))
def test_h1_drift_of_a_real_clock_adds_up(rate: float) -> None:
    for sign in (1, -1):
        watch = ClockMonitor(simulated=False)
        assert any(watch.check_clocks(k * DT * (1 + sign * rate), k * DT) for k in range(round(2 * JUMP / rate / DT)))


# H2, H3: where motion begins


@settings(max_examples=30, deadline=None)
@given(
    st.lists(st.floats(-0.05, 0.05), min_size=7, max_size=7), st.sampled_from(["start", "resume", "twist", "joints"]),
    st.booleans(),
)  # fmt: skip
def test_h2_the_first_command_is_the_measurement(moved: list[float], how: str, stopped: bool) -> None:
    controller = _kept.setdefault("h2", controller_at(HOME_Q, ControllerConfig(surroundings=OPEN)))
    now = controller.__dict__.setdefault("clock", 0.0) + 10.0
    controller.__dict__["clock"] = now
    q, loop = HOME_Q + moved, Loop(controller)
    move_to(controller, HOME_Q, now - 5.0)
    if stopped:
        controller.stop()
        move_to(controller, q, now)
        controller.resume(now)
        assert controller.supervisor.state is State.HOLD
    else:
        move_to(controller, q, now)
    loop.now = loop.steady = now
    if how in ("start", "resume"):
        assert getattr(controller, how)(now), controller.refusal
        path = loop.run(0.05)
        assert np.abs(path - q).max() == 0.0
    else:
        loop.run(DT)
        loop.now, loop.steady = loop.now + DT, loop.steady + DT
        say = controller.arms[0].teleop
        say.twist(FORWARD, loop.steady) if how == "twist" else say.joints(HOME_Q, loop.steady)
        commands = controller.step(loop.now, steady=loop.steady)
        assert commands is not None and controller.supervisor.state is State.TELEOP
        # One cycle from rest: jerk * dt^3 is what can be travelled.
        assert np.abs(commands[0].position - q).max() < 0.2 * 5000 * DT**3 + 1e-6


def test_c2_a_device_that_streams_zeros_has_paused() -> None:
    """As a space mouse's driver does: its stick is released. In motion it has not."""
    for still, followed in (([0.0] * 6, True), ([0.0, 0.05, 0.0, 0.0, 0.0, 0.0], False)):
        controller = controller_at(HOME_Q)
        loop = Loop(controller)
        controller.expect_silence(0.5)
        loop.run(1.0, twist=still)
        path = loop.run(0.5, twist=[0.0, 0.1, 0.0, 0.0, 0.0, 0.0])
        assert (np.abs(path[-1] - path[0]).max() > 1e-3) == followed


@settings(max_examples=25, deadline=None)
@given(
    q=Q,
    until=st.floats(0.0, 1.0),
    stream=st.lists(
        st.tuples(st.sampled_from(["silent", "zero", "moving"]), st.floats(0.05, 0.6)), min_size=1, max_size=6
    ),
)
def test_c2_no_stream_moves_an_arm_before_it_has_paused(
    q: np.ndarray, until: float, stream: list[tuple[str, float]]
) -> None:
    """From anywhere, whatever was sent before: the pause is silence or zeros of a timeout, behind what was expected."""
    controller = _kept.setdefault("paused", controller_at(HOME_Q))
    now = controller.__dict__.setdefault("clock", 0.0) + 10.0
    controller.__dict__["clock"] = now
    move_to(controller, q, now)
    loop, timeout = Loop(controller), controller.config.teleop.timeout
    loop.now = loop.steady = now
    loop.run(0.5)  # nobody was there
    controller.expect_silence(loop.steady + until)
    expected, since = loop.steady + until - timeout, -np.inf  # since: the last request for motion
    for kind, seconds in stream:
        began = loop.steady
        paused = began - max(expected, since) >= timeout - 2 * DT
        path = loop.run(seconds, twist={"silent": None, "zero": [0.0] * 6, "moving": FORWARD}[kind])
        if paused and kind == "moving":
            return  # from here on the stream may be followed
        assert np.abs(path - q).max() == 0.0, (kind, began - now)
        since = loop.steady if kind == "moving" else since


def test_h3_what_no_fr3_can_measure_is_not_believed_and_not_commanded() -> None:
    controller = Controller(ROBOT, ControllerConfig(agreeing=3))
    for k in range(10):
        controller.update_joints(np.zeros(7), 0.08, k * DT)
    assert controller.step(0.1) is None and not controller.start(0.1)
    assert "joint 4" in controller.refusal


def test_h3_the_first_joints_and_those_that_jump_are_believed_when_they_agree() -> None:
    controller = Controller(ROBOT, ControllerConfig(agreeing=3))
    wrong = HOME_Q + 0.4
    for k, q in enumerate([wrong, HOME_Q, wrong, HOME_Q]):
        controller.update_joints(q, 0.08, k * DT)
    assert controller.arms[0].measured is None, "two publishers that differ are no measurement"
    for k in range(4, 8):
        controller.update_joints(HOME_Q, 0.08, k * DT)
    np.testing.assert_array_equal(controller.arms[0].measured, HOME_Q)
    controller.update_joints(wrong, 0.08, 0.08)
    np.testing.assert_array_equal(controller.arms[0].measured, HOME_Q)
    assert "jump" in controller.arms[0].measurement.refused
    for k in range(9, 12):
        controller.update_joints(wrong, 0.08, k * DT)
    np.testing.assert_array_equal(controller.arms[0].measured, wrong)


def test_h3_what_was_not_believed_is_told_and_starts_nothing_for_a_while() -> None:
    """Of two robots on one topic the first is believed; that there is another is known between its samples, too."""
    controller = Controller(ROBOT, ControllerConfig(agreeing=3))
    for k in range(100):
        other = k % 2 and 5 < k < 20
        controller.update_joints(HOME_Q + 0.4 * bool(other), 0.08, k * DT)
        controller.step(k * DT)
        if 7 < k < 60:
            assert any("jump" in note for note in controller.notes(k * DT, k * DT))
            assert not controller.start(k * DT) and "not believed" in controller.refusal
    np.testing.assert_array_equal(controller.arms[0].measured, HOME_Q)
    assert not controller.notes(100 * DT, 100 * DT) and controller.start(99 * DT)


def test_h3_one_wrong_sample_in_motion_neither_moves_nor_holds_the_arm() -> None:
    loop = Loop(controller_at(HOME_Q, ControllerConfig(agreeing=3)))
    controller = loop.controller
    for k in range(4):
        controller.update_joints(HOME_Q, 0.08, k * DT, 0, k * DT)
    loop.now = loop.steady = 0.03
    assert controller.start(0.03, 0.03) and loop.chunk(0.02)
    before = loop.run(0.3)
    controller.update_joints(before[-1] + 0.5, 0.08, loop.now, 0, loop.steady)
    after = loop.run(0.2)
    assert loop.state is State.POLICY and np.abs(np.diff(np.vstack([before[-1:], after]), axis=0)).max() < 0.03


# H4: a stall where nothing brakes behind the last message


@pytest.mark.parametrize("missed", [1, 2, 6, 20])
def test_h4_after_a_stall_an_arm_that_stood_goes_on_from_where_it_was_told_to_be(missed: int) -> None:
    loop = Loop(controller_at(HOME_Q))
    controller = loop.controller
    assert controller.start(0.0) and loop.chunk(0.03)
    last, speed = loop.run(0.4)[-1], controller.arms[0].limiter.motion.dq.copy()
    loop.now, loop.steady = loop.now + (missed + 1) * DT, loop.steady + (missed + 1) * DT
    controller.update_joints(last, 0.08, loop.now, 0, loop.steady)
    commands = controller.step(loop.now, missed, loop.steady, braked=False)
    assert commands is not None and np.abs(speed).max() > 0.1
    step = np.abs(commands[0].position - last)
    limit = np.abs(speed) * DT + 1e-3 if missed == 1 else np.full(7, 0.2 * 5000 * DT**3 + 1e-6)
    assert (step <= limit).all(), "no step that the time without messages had made larger"


# H6: a latched stop


def test_h6_a_reset_leads_to_hold_and_only_then_something_starts() -> None:
    loop = Loop(controller_at(HOME_Q))
    controller = loop.controller
    controller.stop("test")
    assert not controller.start(0.0) and "stopped" in controller.refusal
    assert controller.resume(0.0) and loop.state is State.HOLD
    assert not loop.chunk(), "chunks are refused while it holds"
    assert controller.resume(0.0) and loop.state is State.POLICY


# H8: limits of a chunk by the second


@pytest.mark.parametrize("dt", [0.02, 0.05, 0.1, 0.5])
@pytest.mark.parametrize("space", [ActionSpace.DELTA_EE, ActionSpace.JOINT])
def test_h8_a_step_is_judged_by_its_speed(dt: float, space: ActionSpace) -> None:
    actions = np.zeros((4, space.dimensions))
    for factor, good in ((0.99, True), (1.02, False)):
        if space is ActionSpace.JOINT:
            actions[:, 0] = np.arange(4) * 2.5 * dt * factor
        else:
            actions[:, 0] = 0.5 * dt * factor
        chunk = ActionChunk(actions.copy(), dt, 0.0, 1, space)
        if good:
            check_chunk(chunk, 0.0)
        else:
            with pytest.raises(RefusedChunk, match="faster"):
                check_chunk(chunk, 0.0)


@given(st.integers(0, 2), st.floats(0.02, 0.5), st.floats(0.1, 4))
def test_h8_rotations_are_judged_by_their_speed(axis: int, dt: float, factor: float) -> None:
    actions = np.zeros((1, 7))
    actions[0, 3 + axis] = 2.5 * dt * factor
    turns = Rotation.from_euler("xyz", actions[0, 3:6]).magnitude()
    chunk = ActionChunk(actions, dt, 0.0)
    if turns <= 2.5 * dt and abs(actions[0, 3 + axis]) < 2.8:
        check_chunk(chunk, 0.0)
    elif turns > 2.5 * dt * 1.001:
        with pytest.raises(RefusedChunk):
            check_chunk(chunk, 0.0)


# M2 to M8


@pytest.mark.parametrize("how", ["policy", "joint target", "twist"])
def test_m2_the_hand_keeps_to_its_speed_whoever_moves_it(how: str) -> None:
    config = ControllerConfig(cartesian_speed=0.2, surroundings=OPEN, teleop=TeleopConfig(linear=0.15))
    loop = Loop(controller_at(HOME_Q, config))
    controller, person = loop.controller, loop.controller.arms[0].teleop
    path = [HOME_Q]
    if how == "policy":
        assert controller.start(0.0)
    for k in range(200):
        if how == "policy" and k % 40 == 0:
            assert loop.chunk(0.045 if k < 80 else -0.045), controller.last_refusal
        elif how == "joint target":
            person.joints(HOME_Q + [1.2, 0.3, 0, 0.5, 0, 0, 0], loop.steady)
        path.extend(loop.run(DT, twist=[0.0, 5.0, 0.0, 0.0, 0.0, 2.0] if how == "twist" else None))
    hands = np.array([controller.arms[0].kinematics.forward(q).position for q in path])
    speed = np.linalg.norm(np.diff(hands, axis=0), axis=1) / DT
    limit = 0.2 if how == "policy" else 0.15
    assert 0.8 * limit < speed.max() <= limit * (1 + 1e-5)


def test_m3_a_gripper_value_that_wavers_about_the_middle_changes_nothing() -> None:
    loop = Loop(controller_at(HOME_Q))
    controller, arm = loop.controller, loop.controller.arms[0]
    assert controller.start(0.0)
    openings = []
    for k, value in enumerate([1.0, 0.55, 0.45, 0.41, 0.39, 0.45, 0.59, 0.61, 0.5]):
        actions = np.zeros((2, 7))
        actions[:, 6] = value
        loop.run(0.1)
        assert controller.on_chunk(ActionChunk(actions, 0.1, loop.now, k), loop.now, loop.steady), (
            controller.last_refusal
        )
        loop.run(0.05)
        openings.append(arm.opening)
    assert openings == [OPENING_MAX] * 4 + [0.0] * 3 + [OPENING_MAX] * 2


def test_m4_only_what_was_shown_and_approved_is_played() -> None:
    loop = Loop(controller_at(HOME_Q, ControllerConfig(approve=True)))
    controller = loop.controller
    assert controller.start(0.0)
    actions = np.zeros((8, 7))
    actions[:, 1], actions[:, 6] = 0.01, 1.0

    def plan(number: int, more: float = 0.0, stamp: float = 0.0) -> ActionChunk:
        return ActionChunk(actions + [0, more, 0, 0, 0, 0, 0], 0.1, stamp, number)

    assert not controller.on_chunk(plan(1), 0.0) and "not approved" in controller.last_refusal
    assert controller.consent.approve(1), "nothing was shown under that number"
    controller.consent.show(plan(1))
    assert not controller.consent.approve(1)
    assert not controller.on_chunk(plan(1, 0.001), 0.0) and "not what was shown" in controller.last_refusal
    assert not controller.on_chunk(plan(2), 0.0)
    assert controller.on_chunk(plan(1, stamp=0.001), 0.01), controller.last_refusal
    assert not controller.on_chunk(plan(1, stamp=0.02), 0.02), "an approval is for one time"
    controller.consent.show(plan(3))
    controller.consent.show(plan(4))
    assert "plan 4" in controller.consent.approve(3), "it was replaced before anybody approved it"
    assert not controller.consent.approve(4)
    controller.consent.show(plan(4, 0.002))
    assert not controller.on_chunk(plan(4, stamp=0.03), 0.03), "it was shown anew after the approval"
    still = np.zeros((8, 7))
    assert controller.on_chunk(ActionChunk(still, 0.1, 0.04, 0), 0.04), "to rest needs nobody's word"


def test_m5_a_policy_moves_the_arm_only_while_an_operator_is_there() -> None:
    loop = Loop(controller_at(HOME_Q, ControllerConfig(presence_timeout=0.5)))
    controller = loop.controller
    assert not controller.start(0.0) and "operator" in controller.refusal
    controller.on_presence(0.0)
    assert controller.start(0.0) and loop.chunk()
    loop.run(0.4)
    assert loop.state is State.POLICY
    loop.run(0.2)
    assert loop.state is State.HOLD and controller.supervisor.reason == Event.OPERATOR_ABSENT.value
    controller.on_presence(loop.steady)
    loop.run(0.2)
    assert loop.state is State.HOLD, "who comes back has to say go"


@pytest.mark.parametrize(
    "wrong",
    [
        {"low": (0.75, -0.45, 0.0), "high": (0.25, 0.45, 0.7)}, {"low": (0.25, float("nan"), 0.0)},
        {"high": (float("inf"), 0.45, 0.7)}, {"low": (0.3, 0.0, 0.1), "high": (0.3, 0.1, 0.2)},
    ],
)  # fmt: skip
def test_m8_a_box_is_a_box(wrong: dict[str, tuple[float, ...]]) -> None:
    with pytest.raises(ValueError, match="low|finite|box"):
        Workspace.model_validate(wrong)


@pytest.mark.parametrize(
    "name",
    [
        "joints_deadline",
        "silence_deadline",
        "engine_deadline",
        "camera_deadline",
        "following",
        "rate",
        "cartesian_speed",
    ],
)
@pytest.mark.parametrize("value", [float("inf"), float("nan"), 0.0, -1.0, 1e9])
def test_m8_deadlines_and_limits_are_finite(name: str, value: float) -> None:
    with pytest.raises(ValueError, match=name):
        ControllerConfig.model_validate({name: value})


def test_chunks_without_a_heartbeat_hold() -> None:
    loop = Loop(controller_at(HOME_Q), alive=False)
    controller = loop.controller
    assert controller.start(0.0)
    loop.run(0.05)
    assert loop.chunk(0.005, steps=20)
    loop.run(controller.config.engine_deadline + 0.1)
    assert loop.state is State.HOLD and controller.supervisor.reason == Event.ENGINE_SILENT.value


def test_every_fault_of_the_policy_holds_while_it_plays() -> None:
    loop = Loop(controller_at(HOME_Q))
    for event in POLICY_FAULTS:
        loop.controller.hold()
        loop.run(0.6)
        assert loop.controller.start(loop.now, loop.steady), loop.controller.refusal
        loop.controller.fault(event)
        assert loop.state is State.HOLD
