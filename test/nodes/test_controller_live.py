"""What moved an arm that must not, on the controller's own process: findings of a safety review, each by its number."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.serialization import serialize_message
from sensor_msgs.msg import JointState
from std_msgs.msg import Empty, Float64
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import ActionChunk, Deadman, GripperOpening, SafetyStatus
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.ros import conversions, qos
from molmoact_ros.srv import ApprovePlan

from .cell import Cell, TestRobot, cell
from .conftest import Peer

TURNED = np.array([0.6, -0.3, -0.75, -2.55, -0.35, 2.25, 0.9])
"""rad: inside the box, with an elbow far from home's."""
OUTSIDE = np.array([1.5, *HOME_Q[1:]])
"""rad: the hand is to the left of the box."""
HOUR = 3600.0
STALL = 0.3
"""s without a command at most, on a machine that does other things besides; 0.01 is what there should be."""
SIDEWAYS = [0.0, 0.1, 0.0]


@pytest.fixture(scope="module")
def main(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    with cell(tmp_path_factory.mktemp("logs"), unnorm_keys=["", "checked"]) as made:
        yield made


@pytest.fixture
def arm(main: Cell) -> Iterator[Cell]:
    """The controller in HOLD, its arm at home."""
    main.stand()
    main.said[:-1] = []
    yield main
    main.bringup.check()


def test_c1_resume_without_a_plan_moves_nothing(arm: Cell) -> None:
    arm.stand(TURNED)
    assert arm.ask("resume").success
    assert arm.is_in("POLICY")
    assert arm.moved(1.5) < 1e-6 and len(arm.robot.commands) > 20, "it is told to stay, all the while"
    arm.stand(TURNED)
    arm.robot.twist = [0.0, 0.0, 0.0]
    assert arm.is_in("TELEOP")
    assert arm.moved(1.0) < 1e-6, "nor does a twist of zero"


def test_c1_start_outside_the_box_is_refused(arm: Cell) -> None:
    arm.stand(OUTSIDE)
    for word in ("start", "resume"):
        answer = arm.ask(word)
        assert not answer.success and "outside of its workspace" in answer.message
    assert arm.status.state == SafetyStatus.HOLD and not arm.robot.commands


def test_c2_hold_in_a_persons_hand(arm: Cell) -> None:
    for word, state in (("hold", "HOLD"), ("stop", "STOPPED")):
        arm.in_hand()
        assert arm.ask(word).success and arm.is_in(state)
        arm.spin(0.5)  # it brakes
        assert arm.moved(1.0) < 1e-6 and arm.status.state == getattr(SafetyStatus, state), "the stream goes on"
        if word == "stop":
            assert arm.ask("resume").success and arm.is_in("HOLD")
            assert arm.moved(0.7) < 1e-6, "the reset moves nothing, whoever goes on to speak"
        assert any("let go" in warning for warning in arm.status.warnings)
        arm.robot.twist = None
        arm.spin(0.6)
    arm.in_hand()


def test_a_twist_in_a_wrong_frame_moves_nothing_and_is_said_once_a_second(arm: Cell) -> None:
    log, began = arm.bringup.log("controller"), time.monotonic()
    before = len(log.read_text())
    for _ in range(60):
        arm.robot.say_twist(SIDEWAYS, frame="camera_link")
        arm.spin(0.03)
    assert arm.moved(0.2) < 1e-6 and arm.status.state == SafetyStatus.HOLD
    lines = [line for line in log.read_text()[before:].splitlines() if "camera_link" in line]
    assert 1 <= len(lines) <= time.monotonic() - began + 2, lines
    assert "send fr3_link0 or fr3_hand_tcp" in lines[0]


def test_a_frame_as_tf_once_wrote_it_is_the_arms_own(arm: Cell) -> None:
    for _ in range(200):
        arm.robot.say_twist(SIDEWAYS, frame="/fr3_link0")
        arm.spin(0.03)
        if arm.status.state == SafetyStatus.TELEOP:
            return
    pytest.fail(f"not followed: {arm.status.reason}")


@pytest.mark.parametrize("ago", [HOUR, 0.5, -0.5, -HOUR])
def test_c5_an_old_twist_moves_nothing(arm: Cell, ago: float) -> None:
    """Of an hour ago, as from a bag; held back by a network; of a clock that is ahead."""
    for _ in range(30):
        arm.robot.say_twist(SIDEWAYS, ago)
        arm.spin(0.02)
    assert not arm.robot.commands
    assert {status.state for status in arm.said} == {SafetyStatus.HOLD}


def test_c5_unstamped_gripper_words(arm: Cell) -> None:
    """The old word counts as when it was sent; a stamped one has to be stamped now."""
    old = arm.node.create_publisher(Float64, "/controller/teleop/gripper", qos.RELIABLE)
    new = arm.node.create_publisher(GripperOpening, "/controller/teleop/gripper_stamped", qos.RELIABLE)
    assert arm.until(lambda: old.get_subscription_count() and new.get_subscription_count())
    for stamp in (0.0, arm.now() - HOUR, arm.now() + HOUR):
        new.publish(GripperOpening(header=conversions.header(stamp, ""), opening=0.02))
        arm.spin(0.2)
    assert {status.state for status in arm.said} == {SafetyStatus.HOLD}

    def said(publisher: object) -> bool:
        message = Float64(data=0.02)
        if publisher is new:
            message = GripperOpening(header=conversions.header(arm.now(), ""), opening=0.03)
        publisher.publish(message)  # type: ignore[attr-defined]
        return arm.is_in("TELEOP", 0.3)

    for publisher in (old, new):
        assert any(said(publisher) for _ in range(20))
        assert arm.is_in("HOLD"), "and they let go"


def test_c2_a_stream_that_goes_on_over_a_restart_is_not_followed_until_it_pauses(arm: Cell) -> None:
    """However late the new controller discovers the node that sends it."""
    for seconds in (0.0, 1.5, 3.0):
        arm.in_hand()
        arm.robot.twist = None
        arm.bringup.kill("controller")
        arm.said.clear()
        arm.bringup.start("controller")
        assert arm.until(arm.knows_joints, 60.0)
        arm.spin(seconds)
        late = TestRobot(arm.context, name="late")
        try:
            late.q, late.twist = arm.robot.q, SIDEWAYS
            arm.robot.commands = []
            arm.spin(2.5)
            assert not arm.robot.commands and SafetyStatus.TELEOP not in {status.state for status in arm.said}
            late.twist = None
            arm.spin(0.8)
            late.twist = SIDEWAYS
            assert arm.is_in("TELEOP"), "it has paused"
        finally:
            late.twist = None
            late.close()
        arm.stand()


def test_h2_the_first_command_is_where_the_arm_is(arm: Cell) -> None:
    arm.in_hand()
    arm.stand(arm.robot.q)
    arm.robot.q = arm.robot.q + 0.04
    arm.spin(0.5)
    displaced = arm.robot.q.copy()
    assert arm.ask("resume").success
    assert arm.until(lambda: arm.robot.commands)
    assert np.abs(arm.robot.commands[0][1] - displaced).max() < 1e-6


def test_h3_joint_states_that_cannot_be_true_start_nothing(arm: Cell) -> None:
    arm.robot.q = np.zeros(7)
    arm.spin(0.6)
    for word in ("start", "resume"):
        answer = arm.ask(word)
        assert not answer.success and "range" in answer.message
    arm.robot.twist = SIDEWAYS
    arm.spin(0.5)
    assert not arm.robot.commands and arm.status.state == SafetyStatus.HOLD


def test_h3_two_robots_that_disagree_are_said(arm: Cell) -> None:
    other = TestRobot(arm.context)
    try:
        other.q = HOME_Q + 0.5
        assert arm.until(lambda: any("2 publishers" in warning for warning in arm.status.warnings), 20.0)
        assert arm.until(lambda: any("joint states jump" in w for s in arm.said for w in s.warnings), 20.0)
        answer = arm.ask("start")
        assert not answer.success and "joint states are not believed" in answer.message
    finally:
        other.close()


def test_case_09_arm_and_hand_are_published_apart(arm: Cell) -> None:
    """By two publishers on one topic, which is no second robot."""
    arm.robot.hand_states = arm.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    try:
        arm.spin(6.0)  # the whole messages of before are forgotten
        arm.said[:-1] = []
        arm.spin(1.5)
        assert not [line for status in arm.said for line in status.warnings], arm.status.warnings
        assert arm.plays(arm.chunk()), arm.status
        arm.stand()
    finally:
        publisher, arm.robot.hand_states = arm.robot.hand_states, None
        arm.node.destroy_publisher(publisher)


def test_case_29_joint_states_without_a_stamp_are_refused_in_words(arm: Cell) -> None:
    arm.robot.stamped = False
    try:
        why = "joint states on /joint_states are stamped 0"
        assert arm.until(lambda: any(why in line for line in arm.status.warnings)), arm.status
        answer = arm.ask("start")
        assert not answer.success and answer.message.startswith(why)
        assert arm.until(lambda: why in arm.bringup.log("controller").read_text())
        arm.robot.twist = SIDEWAYS
        assert arm.moved(0.5) == 0.0
    finally:
        arm.robot.stamped, arm.robot.twist = True, None
    arm.spin(0.5)
    assert arm.plays(arm.chunk())


def test_h8_frame_and_key(arm: Cell) -> None:
    assert not arm.plays(arm.chunk(frame="camera")), "a frame that nobody can convert from"
    assert not arm.plays(arm.chunk(key="libero")), "numbers of which nobody has said what they mean"
    assert arm.until(lambda: arm.status.refused >= 2)
    assert arm.plays(arm.chunk(key="checked")), "somebody has"
    arm.stand()
    stated = arm.chunk(key="libero")
    stated.stated = True
    assert arm.plays(stated), "the checkpoint has"
    arm.stand()
    assert arm.plays(arm.chunk(frame="fr3_link0"))


def test_m5_stop_by_the_topic(arm: Cell) -> None:
    stop = arm.node.create_publisher(Empty, "/controller/stop", qos.RELIABLE)
    assert arm.until(stop.get_subscription_count)
    arm.in_hand()
    stop.publish(Empty())
    assert arm.is_in("STOPPED") and "topic stop" in arm.status.reason
    answer = arm.ask("start")
    assert not answer.success and "stopped" in answer.message
    assert arm.ask("resume").success and arm.is_in("HOLD"), "the reset"


def test_m6_a_huge_message(arm: Cell) -> None:
    """Of 300,000 numbers or points: it is refused unread, and the arm is commanded on as if nothing had come."""
    chunk = ActionChunk(actions=[0.0] * 300_000, steps=8, dimensions=7, dt=0.1)
    chunk.header = conversions.header(arm.now(), "")
    points = [JointTrajectoryPoint(positions=[0.0] * 7)] * 300_000
    target = JointTrajectory(header=conversions.header(arm.now(), ""), points=points)
    huge = [
        (arm.node.create_publisher(ActionChunk, "/policy/action_chunk", qos.RELIABLE), serialize_message(chunk)),
        (
            arm.node.create_publisher(JointTrajectory, "/controller/teleop/joint", qos.RELIABLE),
            serialize_message(target),
        ),
    ]
    for publisher, data in huge:
        assert arm.until(publisher.get_subscription_count)
        arm.in_hand()
        arm.robot.commands = []
        publisher.publish(data)
        arm.spin(2.0)
        gap = float(np.diff([when for when, _ in arm.robot.commands]).max())
        print(f"{len(data)} bytes: no command for {gap * 1e3:.0f} ms at most")
        assert len(arm.robot.commands) > 50 and gap < STALL
        arm.stand()
    log = arm.bringup.log("controller")
    assert arm.until(lambda: log.read_text().count("refused a message of") >= 2)


def test_a_second_controller_of_the_name_holds(arm: Cell, tmp_path: Path) -> None:
    arm.in_hand()
    with Bringup(Profile(nodes={"controller": {"keep_stop": False}}), tmp_path):
        assert arm.until(arm.heard_reason("another controller"), 60.0)
        arm.spin(0.5)
        assert arm.moved(1.0) < 1e-6, "the stream goes on"
    arm.spin(1.5)
    assert arm.moved(0.5) < 1e-6, "nor when it is gone"
    arm.robot.twist = None
    arm.spin(0.5)
    arm.in_hand()


def test_a_second_publisher_of_commands_is_said(arm: Cell) -> None:
    topic = "/fr3_arm_controller/joint_trajectory"
    other = arm.node.create_publisher(JointTrajectory, topic, qos.RELIABLE)
    assert arm.until(lambda: any("peer commands the arm, too" in warning for warning in arm.status.warnings))
    arm.node.destroy_publisher(other)
    assert arm.until(lambda: not any("commands the arm" in warning for warning in arm.status.warnings))


def test_h1_a_clock_that_stands_still_moves_nothing(domain: int, tmp_path: Path) -> None:
    with cell(tmp_path, "/timed", clock=True) as arm:

        def held() -> bool:
            arm.robot.still = None
            arm.spin(0.5)
            arm.in_hand()
            arm.robot.still = arm.robot.now()
            return arm.until(arm.heard_reason("clock"), 3.0)

        assert any(held() for _ in range(3)), arm.status  # a busy machine's clock may be too late for the person
        arm.spin(0.5)
        assert arm.moved(1.0) < 1e-6, "the stream goes on, each word as fresh as the one before"
        arm.robot.twist = None
        arm.spin(0.5)
        arm.robot.say_twist(SIDEWAYS)
        assert arm.moved(0.5) < 1e-6, "a word is of no time"
        answer = arm.ask("start")
        assert not answer.success and "clock" in answer.message


def change(arm: Cell, *transitions: int) -> None:
    for transition in transitions:
        assert arm.call(
            ChangeState, f"{arm.space}/controller/change_state", transition=Transition(id=transition)
        ).success


def test_h6_a_stop_outlives_deactivation_and_restart(domain: int, tmp_path: Path) -> None:
    """Kept in ROS_HOME, which is a folder of the tests' own."""
    with cell(tmp_path, "/kept", keep_stop=True) as arm:
        assert arm.ask("stop").success and arm.is_in("STOPPED")
        change(arm, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
        arm.said.clear()
        change(arm, Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
        assert arm.until(arm.knows_joints) and arm.status.state == SafetyStatus.STOPPED
        arm.bringup.kill("controller")
        arm.spin(0.5)
        arm.said.clear()
        arm.bringup.start("controller")
        assert arm.until(arm.knows_joints, 60.0) and arm.status.state == SafetyStatus.STOPPED
        assert not arm.ask("start").success
        assert arm.ask("resume").success and arm.is_in("HOLD"), "the reset"
        assert arm.ask("resume").success and arm.is_in("POLICY")
        arm.spin(0.3)
        arm.bringup.kill("controller")
        arm.spin(0.5)
        arm.said.clear()
        arm.bringup.start("controller")
        assert arm.until(arm.knows_joints, 60.0) and arm.status.state == SafetyStatus.IDLE, "it was reset"


@pytest.fixture(scope="module")
def asked(domain: int, main: Cell, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Cell]:
    """One that wants approval, an operator and a dead-man's switch."""
    logs = tmp_path_factory.mktemp("logs")
    with cell(logs, "/asked", approve=True, presence_timeout=0.5, teleop_deadman=True) as made:
        yield made


def test_m5_an_operator_must_be_present(asked: Cell) -> None:
    asked.stand()
    asked.robot.present = False
    asked.spin(0.8)
    answer = asked.ask("start")
    assert not answer.success and "no operator is present" in answer.message
    asked.robot.present = True
    asked.spin(0.3)
    assert asked.ask("start").success and asked.is_in("POLICY")
    asked.robot.present = False
    assert asked.until(asked.heard_reason("no operator is present"))


def test_m4_only_what_was_shown_and_approved_is_played(asked: Cell) -> None:
    asked.stand()
    asked.robot.present = True
    asked.spin(0.3)
    assert not asked.plays(asked.chunk()), "nobody has seen it"
    assert asked.until(asked.pending.get_subscription_count)
    shown = asked.chunk(plan=70)
    asked.pending.publish(shown)
    assert not asked.plays(shown), "nobody has approved it"
    asked.pending.publish(shown)
    asked.spin(0.3)

    def approve(plan: int) -> ApprovePlan.Response:
        answer: ApprovePlan.Response = asked.call(ApprovePlan, "/asked/controller/approve_plan", plan_id=plan)
        return answer

    assert not approve(71).success and approve(70).success
    assert not asked.plays(asked.chunk(plan=70, dy=0.005)), "another plan under its number"
    assert asked.plays(shown)
    asked.stand()
    assert not asked.plays(shown), "once"


def test_c5_a_replayed_deadman_lets_nobody_move(asked: Cell) -> None:
    asked.stand()
    switch = asked.node.create_publisher(Deadman, "/asked/controller/teleop/deadman_stamped", qos.RELIABLE)
    assert asked.until(switch.get_subscription_count)
    asked.robot.twist = SIDEWAYS

    def hold(ago: float) -> None:
        switch.publish(Deadman(header=conversions.header(asked.now() - ago, ""), held=True))
        asked.spin(0.03)

    asked.said[:-1] = []
    for _ in range(20):
        hold(HOUR)
    assert {status.state for status in asked.said} == {SafetyStatus.HOLD} and not asked.robot.commands
    asked.robot.twist = None
    asked.spin(0.5)
    asked.robot.twist = SIDEWAYS

    def held() -> bool:
        hold(0.0)
        return asked.status.state == SafetyStatus.TELEOP

    assert asked.until(held, 10.0)


def test_namespaces(asked: Cell, main: Cell, peer: Peer) -> None:
    """Two robots: who moves or stops one does so with that one alone."""
    main.stand()
    asked.stand()
    asked.said[:-1] = []
    main.in_hand()
    asked.spin(0.5)
    assert not asked.robot.commands and {status.state for status in asked.said} == {SafetyStatus.HOLD}
    assert asked.ask("stop").success and asked.is_in("STOPPED")
    assert main.moved(0.5) > 1e-3 and main.status.state == SafetyStatus.TELEOP
    asked.stand()
