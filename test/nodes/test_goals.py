"""Goals end at every moment: before the controller has answered, while it is looked for, and with the policy."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState
from rclpy.action import ActionClient
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes.planning.controller_client import ControllerClient
from molmoact_ros.nodes.planning.execute_server import ANSWER, DISCOVERY, PERIOD, SILENT, ExecuteServer, Goal, Result
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.background_node import BackgroundNode
from molmoact_ros.ros.clocks import STEADY

from .conftest import INSTRUCTION, Peer, Robot


class SlowController(BackgroundNode):
    """Answers `start` when it is let; `hold` at once. It says what it does ten times a second, as the real one."""

    def __init__(self, context: Any) -> None:
        super().__init__("controller", context)
        self.let, self.state = threading.Event(), SafetyStatus.IDLE
        self.calls: list[str] = []
        self.let.set()
        self._status = self.create_publisher(SafetyStatus, "~/safety_status", qos.STATE)
        self.create_service(Trigger, "~/start", self._on_start)
        self.create_service(Trigger, "~/hold", self._on_hold)
        self.telling = self.create_timer(0.1, self.tell, clock=STEADY)
        self.begin()

    def tell(self) -> None:
        head = conversions.header(float(self.get_clock().now().nanoseconds * 1e-9), "")
        self._status.publish(SafetyStatus(header=head, state=self.state, reason="of the test"))

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.calls.append("start")
        self.let.wait(60.0)
        self.state, response.success = SafetyStatus.POLICY, True
        return response

    def _on_hold(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        self.calls.append("hold")
        self.state, response.success = SafetyStatus.HOLD, True
        return response


class Planning(BackgroundNode):
    """A planner that plans nothing, with the goals of a real one. log: what it was told."""

    sees = True

    def __init__(self, context: Any) -> None:
        super().__init__("policy", context)
        self.log: list[str] = []
        self.link = ControllerClient(self, "controller")
        self.goals = ExecuteServer(self, self.link, self)
        self.create_timer(PERIOD, self.goals.look_after, clock=STEADY)
        self.begin()

    def check_goal(self, request: Goal) -> str:
        return "nonsense" if request.instruction == "nonsense" else ""

    def begin_goal(self, request: Goal) -> str:
        self.log.append(f"begin {request.instruction}")
        return ""

    def halt(self) -> None:
        self.log.append("halt")


class Pair:
    def __init__(self, peer: Peer) -> None:
        self.peer = peer
        self.controller, self.planner = SlowController(peer.context), Planning(peer.context)
        self.client = ActionClient(peer.node, ExecuteInstruction, "policy/execute")
        assert peer.until(self.client.server_is_ready)
        assert peer.until(lambda: self.planner.link.count > 2 and self.planner.link.is_there)

    def begin(self, instruction: str = "wave", timeout: float = 60.0) -> Any:
        sent = self.client.send_goal_async(Goal(instruction=instruction, timeout=timeout))
        assert self.peer.until(sent.done)
        return sent.result()

    def result(self, goal: Any, patience: float = 10.0) -> Result:
        asked = goal.get_result_async()
        assert self.peer.until(asked.done, patience), "the goal never ended"
        return asked.result().result

    def close(self) -> None:
        self.controller.let.set()
        self.client.destroy()
        self.controller.close()
        self.planner.close()


@pytest.fixture
def pair(peer: Peer) -> Iterator[Pair]:
    made = Pair(peer)
    yield made
    made.close()


@pytest.mark.parametrize("way", ["cancel", "time out", "replace and cancel"])
def test_m1_a_goal_ends_before_start_is_answered_and_the_late_answer_moves_nothing(pair: Pair, way: str) -> None:
    pair.controller.let.clear()
    goal = pair.begin(timeout=1.0 if way == "time out" else 60.0)
    assert pair.peer.until(lambda: "start" in pair.controller.calls)
    if way == "replace and cancel":
        newer = pair.begin("wave again")
        replaced = pair.result(goal)
        assert replaced.code == Result.CANCELED and "replaced" in replaced.message
        goal = newer
    if way != "time out":
        goal.cancel_goal_async()
    result = pair.result(goal)
    assert result.code == (Result.TIMED_OUT if way == "time out" else Result.CANCELED), result.message
    assert pair.controller.state == SafetyStatus.IDLE, "it has answered nothing yet"
    pair.controller.let.set()
    assert pair.peer.until(lambda: pair.controller.state == SafetyStatus.HOLD), pair.controller.calls
    pair.peer.spin(0.5)
    assert pair.controller.state == SafetyStatus.HOLD and not [w for w in pair.planner.log if w.startswith("begin")]


def test_m1_a_start_that_is_never_answered_is_not_waited_for(pair: Pair) -> None:
    pair.controller.let.clear()
    began = time.monotonic()
    result = pair.result(pair.begin(timeout=60.0), ANSWER + 10.0)
    assert result.code == Result.REFUSED and "/controller/start" in result.message and "\n" not in result.message
    assert time.monotonic() - began >= ANSWER


def test_m1_a_newer_goal_goes_on_with_the_answer_that_an_older_one_waits_for(pair: Pair) -> None:
    pair.controller.let.clear()
    older = pair.begin()
    assert pair.peer.until(lambda: "start" in pair.controller.calls)
    newer = pair.begin("wave again")
    assert pair.result(older).code == Result.CANCELED
    pair.controller.let.set()
    assert pair.peer.until(lambda: "begin wave again" in pair.planner.log)
    pair.peer.spin(0.5)
    assert pair.controller.state == SafetyStatus.POLICY and "begin wave" not in pair.planner.log
    newer.cancel_goal_async()
    assert pair.result(newer).code == Result.CANCELED
    assert pair.peer.until(lambda: pair.controller.state == SafetyStatus.HOLD)


def test_m1_a_goal_can_be_cancelled_while_a_controller_is_looked_for(peer: Peer) -> None:
    planner = Planning(peer.context)
    client = ActionClient(peer.node, ExecuteInstruction, "policy/execute")
    try:
        assert peer.until(client.server_is_ready)
        for cancel in (True, False):
            sent = client.send_goal_async(Goal(instruction="wave", timeout=60.0))
            assert peer.until(sent.done)
            began, goal = time.monotonic(), sent.result()
            if cancel:
                goal.cancel_goal_async()
            asked = goal.get_result_async()
            assert peer.until(asked.done), "the goal never ended"
            result = asked.result().result
            assert result.code == (Result.CANCELED if cancel else Result.REFUSED), result.message
            assert cancel or ("no controller" in result.message and time.monotonic() - began >= DISCOVERY - PERIOD)
    finally:
        client.destroy()
        planner.close()


def test_a_goal_that_was_refused_holds_nobody(pair: Pair) -> None:
    """An operator may be at work: a typing mistake is no reason to stop them."""
    pair.controller.state = SafetyStatus.TELEOP
    assert pair.result(pair.begin("nonsense")).code == Result.REFUSED
    assert pair.result(pair.begin(timeout=float("nan"))).code == Result.REFUSED
    pair.peer.spin(0.5)
    assert pair.controller.calls == [] and pair.controller.state == SafetyStatus.TELEOP


def test_a_goal_ends_when_the_controller_holds_or_is_silent(pair: Pair) -> None:
    goal = pair.begin()
    assert pair.peer.until(lambda: "begin wave" in pair.planner.log)
    pair.peer.spin(0.5)
    pair.controller.state = SafetyStatus.HOLD
    result = pair.result(goal)
    assert result.code == Result.HELD and "of the test" in result.message
    goal = pair.begin()
    assert pair.peer.until(lambda: pair.planner.log.count("begin wave") == 2)
    pair.controller.telling.cancel()
    result = pair.result(goal, SILENT + 10.0)
    assert result.code == Result.HELD and "silent" in result.message
    assert pair.peer.until(lambda: pair.controller.state == SafetyStatus.HOLD)


def test_a_status_from_before_start_ends_no_goal(pair: Pair) -> None:
    """A hold, and at once a new goal, again and again: what the controller said of the hold is not about the goal."""
    for n in range(10):
        goal = pair.begin()
        begun = ["start", "hold"] * n + ["start"]
        assert pair.peer.until(lambda: pair.controller.calls == begun and pair.controller.state == SafetyStatus.POLICY)  # noqa: B023
        goal.cancel_goal_async()
        assert pair.result(goal).code == Result.CANCELED
    goal = pair.begin()
    pair.peer.spin(1.0)
    assert pair.controller.state == SafetyStatus.POLICY and pair.planner.goals.instruction == "wave"
    assert pair.controller.calls.count("start") == 11
    goal.cancel_goal_async()
    assert pair.result(goal).code == Result.CANCELED


# With the real controller


def frozen(robot: Robot, name: str, number: signal.Signals) -> None:
    os.kill(robot.bringup.pid(name), number)


def test_m1_a_frozen_controller_keeps_no_goal_and_thaws_to_an_arm_that_holds(robot: Robot) -> None:
    frozen(robot, "controller", signal.SIGSTOP)
    try:
        goal = robot.begin(INSTRUCTION)
        robot.spin(1.0)
        goal.cancel_goal_async()
        assert robot.result_of(goal).code == Result.CANCELED
        timed = robot.execute(INSTRUCTION, timeout=1.0)
        assert timed.code == Result.TIMED_OUT and timed.elapsed < 10.0, timed.message
    finally:
        frozen(robot, "controller", signal.SIGCONT)
    before = robot.hand()
    robot.spin(1.0)
    assert robot.until(lambda: robot.state() != SafetyStatus.POLICY)
    robot.spin(3.0)
    assert robot.state() != SafetyStatus.POLICY and abs(robot.hand() - before).max() < 1e-3
    assert robot.execute(INSTRUCTION, timeout=3.0).code == Result.TIMED_OUT, "and it can be used again"


def change_policy(robot: Robot, *steps: int) -> None:
    for step in steps:
        assert robot.call(ChangeState, "/policy/change_state", transition=Transition(id=step)).success


def test_m1_a_policy_that_is_cleaned_up_in_a_goal_ends_it_and_the_arm_holds(robot: Robot) -> None:
    goal = robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.state() == SafetyStatus.POLICY)
    result = goal.get_result_async()
    change_policy(robot, Transition.TRANSITION_DEACTIVATE, Transition.TRANSITION_CLEANUP)
    assert robot.until(result.done), "the goal never ended"
    assert result.result().result.code == Result.CANCELED
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    change_policy(robot, Transition.TRANSITION_CONFIGURE, Transition.TRANSITION_ACTIVATE)
    robot.bringup.check()
    assert robot.until(robot.client.server_is_ready)
    assert robot.execute(INSTRUCTION, timeout=3.0).code == Result.TIMED_OUT


def test_m1_a_policy_that_is_ended_in_a_goal_holds_the_arm_at_once(robot: Robot) -> None:
    robot.begin(INSTRUCTION)
    assert robot.until(lambda: robot.chunks and robot.state() == SafetyStatus.POLICY)
    frozen(robot, "policy", signal.SIGTERM)
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert "silent" not in robot.safety[-1].reason, "it was told to, and need not find out"
    assert robot.until(lambda: "policy" in robot.bringup.ended())
    assert "Traceback" not in Path(robot.bringup.log("policy")).read_text()
