"""The controller node: chunks, teleoperation and joint states in, limited commands out, at a fixed rate."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from typing import Final

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.logging import LoggingSeverity
from std_msgs.msg import Empty, Header
from std_srvs.srv import Trigger

from molmoact_ros.control.clock_monitor import ClockMonitor
from molmoact_ros.control.controller import Controller
from molmoact_ros.control.supervisor import Event, State
from molmoact_ros.control.teleop import wrong_age
from molmoact_ros.msg import EngineStatus, SafetyStatus
from molmoact_ros.nodes.control.arm_sinks import Sink, make_gripper, make_sink
from molmoact_ros.nodes.control.chunk_inputs import ChunkInputs
from molmoact_ros.nodes.control.config import ControllerNodeConfig
from molmoact_ros.nodes.control.diagnostics import report
from molmoact_ros.nodes.control.gripper_sinks import Gripper
from molmoact_ros.nodes.control.hand_config import with_hand
from molmoact_ros.nodes.control.joint_inputs import JointInputs
from molmoact_ros.nodes.control.publisher_monitor import PublisherMonitor
from molmoact_ros.nodes.control.safety_status import safety_status
from molmoact_ros.nodes.control.stop_latch import StopLatch
from molmoact_ros.nodes.control.teleop_inputs import DISCOVERY, TeleopInputs
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.bounded_subscription import unpacked
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.lifecycle import ManagedNode
from molmoact_ros.ros.logging import ThreadedLog
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.realtime_loop import Loop, Timing, own_threads, real_time
from molmoact_ros.ros.spin import run
from molmoact_ros.srv import ApprovePlan
from molmoact_ros.utils.paths import robot_model

STATUS_RATE: Final = 10.0
"""Rate of SafetyStatus, Hz; every change of state is published besides."""
AT_REST: Final = 1e-4
"""rad/s under which a joint counts as standing."""
GIL_SWITCH_INTERVAL: Final = 0.00005
"""s for which the loop waits at most while Python handles a message."""
LATE: Final = 0.5
"""s by which a cycle may be late before the arm holds."""


class ControllerNode(ManagedNode):
    """ROS interface of Controller. Messages arrive on the executor's thread, the control loop's thread sends commands.

    A lock separates the two. Nothing in the loop, and nothing under the lock, blocks: log lines and files are written
    on the executor's thread.
    """

    def __init__(self) -> None:
        super().__init__("controller")
        self.config = declare(self, ControllerNodeConfig)
        self._lock = threading.Lock()
        self._period = 1.0 / self.config.rate
        self.timing = Timing(self._period)
        self._notes = ThreadedLog(self)
        self._latch = StopLatch(self)
        self._stopped = self._written = self._latch.reason() if self.config.keep_stop else ""
        self._loop: Loop | None = None
        self._sinks: list[Sink] = []  # one for each arm
        self._grippers: list[Gripper] = []

    # Lifecycle

    def configure(self) -> None:
        """Load the robot and create the topics. A stop that was latched before stays latched."""
        config, joint_states = self.config, self.resolve_topic_name(self.config.joint_states)
        arms = [with_hand(self, arm, config.hand, config.gripper) for arm in config.robots]
        settings = config.control.model_copy(update={"joint_states": joint_states})
        self._controller = Controller(robot_model(), settings, arms)
        self._sinks = [make_sink(config.sink, self, arm) for arm in arms]
        self._grippers = [make_gripper(config.gripper, self, arm) for arm in arms]
        self._gripper_goals: list[float | None] = [None for _ in arms]  # the last sent; None: send the next in any case
        self._moving, self._handled_state = False, (State.IDLE, "")
        self._taken_at = time.monotonic()
        self._warnings: list[str] = []
        self._clocks = ClockMonitor(bool(self.get_parameter("use_sim_time").value))
        self._safety_status = self.create_publisher(SafetyStatus, "~/safety_status", qos.STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        # The loop polls frequent topics, and those that must count whatever the executor does: a wake-up for each
        # message costs more than the cycle itself.
        self._joints = JointInputs(self, config.joint_states, self._controller)
        self._engine = PollingSubscription(self, EngineStatus, f"{config.policy}/engine_status", qos.HEARTBEAT)
        self._stop = PollingSubscription(self, Empty, "~/stop", qos.RELIABLE)
        self._presence = PollingSubscription(self, Header, "~/presence", qos.HEARTBEAT)
        self._chunks = ChunkInputs(
            self, config.policy, self._controller, self._lock, config.unnorm_keys, self._notes, self._refuse
        )
        for name, answer in (
            ("start", self._on_start), ("resume", self._on_resume), ("hold", self._on_hold), ("stop", self._on_stop),
        ):  # fmt: skip
            self.create_service(Trigger, f"~/{name}", answer)
        self.create_service(ApprovePlan, "~/approve_plan", self._on_approve)
        self._teleop_inputs = [
            TeleopInputs(self, arm, self._lock, config.teleop_timeout, self._refuse, self._controller.expect_silence)
            for arm in self._controller.arms
        ]
        commands = [sink.topic for sink in self._sinks if sink.topic]
        self._publisher_monitor = PublisherMonitor(
            self, f"{config.policy}/action_chunk", joint_states, self._joints, commands
        )
        if self._stopped:
            self._controller.stop(f"{self._stopped} (kept; resume resets it)")
        self.create_timer(1.0 / STATUS_RATE, self._update_status, clock=STEADY)
        self.create_timer(1.0, self._publish_diagnostics, clock=STEADY)

    def activate(self) -> None:
        """Start the control loop. The arm stays where it is until `start` is called."""
        self._controller.expect_silence(time.monotonic() + DISCOVERY)
        # All threads: any one that holds the GIL keeps the loop waiting, and the middleware delivers the joint states.
        real_time(self.config.priority // 2, own_threads())
        self._begin_loop()
        how = f": STOPPED ({self._stopped}); resume resets it" if self._stopped else " until it is told to start"
        self._notes.note(f"ready: the arm stays where it is{how}", LoggingSeverity.INFO)

    def _begin_loop(self) -> None:
        self._loop = Loop(self._cycle, self._period, self.config.priority)
        self._loop.start()

    def deactivate(self) -> None:
        """Brake, then end the control loop."""
        if self._loop is None:
            return
        with self._lock:
            self._controller.hold()
        deadline = time.monotonic() + 1.0
        while self._moving and time.monotonic() < deadline:
            time.sleep(self._period)
        self._loop.stop()
        self._loop = None

    def forget(self) -> None:
        """Destroy what `configure` created, except a latched stop; no more commands follow."""
        self._close_sinks()
        super().forget()

    def destroy_node(self) -> None:
        """Brake, then destroy the node."""
        self.deactivate()
        self._close_sinks()
        super().destroy_node()

    def _close_sinks(self) -> None:
        for sink in self._sinks:
            sink.close()
        for gripper in self._grippers:
            gripper.close()
        self._sinks, self._grippers = [], []

    def callback_failed(self, error: Exception) -> None:
        """Stop the arm when a callback on the executor's thread fails; STOP and the other services still respond."""
        with self._lock:
            self._controller.stop(f"internal error: {error}")

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    def _refuse(self, why: str) -> None:
        self._notes.note(why)

    # Inputs, polled by the loop

    def _take(self) -> None:
        """Read what has arrived since the last cycle, except chunks and teleoperation."""
        since, self._taken_at = self._taken_at, time.monotonic()
        if self._stop.take_serialized():
            self._controller.stop("by an operator, on the topic stop")
        for polled, take in (
            (self._presence, self._on_presence), (self._engine, self._on_engine), *self._joints.subscriptions
        ):  # fmt: skip
            taken = polled.take_serialized()
            for number, message in enumerate(taken, 1):
                # Arrival times are known only to within the last cycle: no clock that somebody can set dates them.
                steady = since + number / len(taken) * (self._taken_at - since)
                try:
                    take(unpacked(message.data, polled.kind), steady)
                except ValueError as error:
                    self._refuse(f"refused {error}")

    def _on_presence(self, message: Header, steady: float) -> None:
        why = wrong_age(self._now() - conversions.seconds(message.stamp), self.config.presence_timeout or 1.0)
        if why:
            self._refuse(f"a sign of presence does not count: {why}")
        else:
            self._controller.on_presence(steady)

    def _on_engine(self, message: EngineStatus, steady: float) -> None:
        stamp = conversions.seconds(message.header.stamp)
        if stamp and abs(self._now() - stamp) > self.config.engine_deadline:
            self._refuse(f"an engine status that is {self._now() - stamp:.1f} s old is no heartbeat")
            return
        fault = message.message or "no reason given" if message.state == EngineStatus.FAULT else ""
        looks = message.state in (EngineStatus.RUNNING, EngineStatus.WAITING, EngineStatus.PENDING)
        age = message.camera_age if looks else 0.0
        self._controller.on_engine(steady, fault, age, message.state == EngineStatus.PENDING)

    # Operators' services, on the executor's thread

    def _on_start(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The policy begins a task. This does not reset a stop."""
        return self._answer(lambda: self._controller.start(self._now(), time.monotonic()), response)

    def _on_resume(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """An operator lifts a hold, or resets a stop."""
        return self._answer(lambda: self._controller.resume(self._now(), time.monotonic()), response)

    def _on_hold(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(self._controller.hold, response)

    def _on_stop(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        return self._answer(lambda: self._controller.stop("by an operator"), response)

    def _on_approve(self, request: ApprovePlan.Request, response: ApprovePlan.Response) -> ApprovePlan.Response:
        """An operator approves a plan; where this controller requires no approval, any plan is fine."""
        if self.config.approve:
            with self._lock:
                response.message = self._controller.consent.approve(request.plan_id)
        response.success = not response.message
        return response

    def _answer(self, act: Callable[[], bool | None], response: Trigger.Response) -> Trigger.Response:
        supervisor = self._controller.supervisor
        with self._lock:
            before = supervisor.state
            response.success = act() is not False  # holding and stopping always succeed
            self._gripper_goals = [None for _ in self._gripper_goals]
            response.message = "" if response.success else self._controller.refusal
            if before is State.STOPPED and not response.success:
                response.message = f"the arm is stopped; call {self.get_fully_qualified_name()}/resume when it is safe"
            if before is State.STOPPED and supervisor.state is State.HOLD:
                response.message = "the stop is reset and the arm holds; resume it, or give an instruction"
            self._publish_status()
        self._store_stop()
        return response

    # Outputs

    def _cycle(self, late: float) -> None:
        """Run one cycle, on the control loop's thread. Any exception in it stops the arm."""
        self.timing.tick()
        with self._lock:
            try:
                self._watch(late)
                self._take()
                missed = int(late / self._period) if self._moving else 0
                braked = not any(sink.holds_last for sink in self._sinks)
                commands = self._controller.step(self._now(), missed, time.monotonic(), braked)
                if commands is not None:
                    self._send(commands)
            except Exception as error:
                self._controller.stop(f"internal error: {error}")
                self._notes.note(f"stopped: {error!r}")

    def _watch(self, late: float) -> None:
        controller = self._controller
        controller.level(Event.CLOCK_JUMPED, self._clocks.check_clocks(self._now(), time.monotonic()))
        controller.level(Event.ROBOT_STOPPED, next((why for sink in self._sinks if (why := sink.fault())), ""))
        if late > LATE:
            controller.fault(Event.LATE, f"by {late:.2f} s")

    def _send(self, commands: tuple[ArmCommand, ...]) -> None:
        supervisor, arms = self._controller.supervisor, self._controller.arms
        playing = supervisor.state in (State.POLICY, State.TELEOP)
        moving = max(float(np.abs(command.velocity).max()) for command in commands) > AT_REST
        for number, (command, arm) in enumerate(zip(commands, arms, strict=True)):
            # At rest and not playing, nothing is sent: the arm's own controller holds, and others may move the arm.
            if playing or moving or self._moving:
                self._sinks[number].send(command)
            if playing and arm.opening is not None and arm.opening != self._gripper_goals[number]:
                self._gripper_goals[number] = arm.opening
                self._grippers[number].send(command)
        self._moving = moving
        if (supervisor.state, supervisor.reason) != self._handled_state:
            self._publish_status()

    def _update_status(self) -> None:
        """Ten times a second: check for another controller, and publish the status."""
        another = self._publisher_monitor.another_controller()
        with self._lock:
            self._controller.level(Event.SECOND_CONTROLLER, "stop one of them" if another else "")
            self._publish_status()
        self._store_stop()

    def _note_change(self) -> None:
        """Handle a change of the state or its reason; under the lock."""
        supervisor, (before, _) = self._controller.supervisor, self._handled_state
        self._handled_state = (supervisor.state, supervisor.reason)
        if supervisor.state is before:
            return
        self._notes.note(f"{supervisor.state.value}: {supervisor.reason}", LoggingSeverity.INFO)
        if supervisor.state in (State.HOLD, State.STOPPED):
            for gripper in self._grippers:
                gripper.hold()
            self._gripper_goals = [None for _ in self._gripper_goals]  # sent again when commands resume
        if State.STOPPED in (supervisor.state, before):
            self._stopped = (self._stopped or supervisor.reason) if supervisor.state is State.STOPPED else ""

    def _store_stop(self) -> None:
        """Write a latched stop to disk, so it outlives this process; not under the lock, since a disk may be slow."""
        if self._stopped == self._written or not self.config.keep_stop:
            return
        self._written = self._stopped
        try:
            self._latch.set(self._stopped) if self._stopped else self._latch.clear()
        except OSError as error:
            self._notes.note(f"the stop will not outlive this process: {error}", LoggingSeverity.WARN)

    def _publish_status(self) -> None:
        """Publish the SafetyStatus; under the lock."""
        if (self._controller.supervisor.state, self._controller.supervisor.reason) != self._handled_state:
            self._note_change()
        status = safety_status(self._controller, self._chunks.played, self._now())
        status.header.stamp = self.get_clock().now().to_msg()
        status.warnings = [*self._warnings, *self._controller.notes(self._now(), time.monotonic())]
        self._publisher_monitor.said(status)
        self._safety_status.publish(status)

    def _publish_diagnostics(self) -> None:
        with self._lock:
            wrong = self._controller.wrong_joints(self._now(), time.monotonic())
        if self._joints.is_to_log(wrong, time.monotonic()):
            self._notes.note(wrong)
        self._warnings = [*([wrong] if wrong else []), *self._publisher_monitor.warnings()]
        real, jitter = self._loop is not None and self._loop.real_time, self.timing.jitter_ms()
        with self._lock:
            statuses = report(self._controller, self.get_name(), self._now(), time.monotonic(), jitter, real)
        message = DiagnosticArray(status=statuses)
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)


def main() -> None:
    """Start the node."""
    run(ControllerNode, GIL_SWITCH_INTERVAL)


if __name__ == "__main__":
    main()
