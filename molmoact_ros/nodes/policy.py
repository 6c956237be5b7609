"""The policy: camera frames and an instruction in; depth tokens, trace and action chunk out, each once complete.

An operator's drawing steers it, and a gate may hold actions back until they are approved (docs/view.md).
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
from rclpy.subscription import Subscription
from sensor_msgs.msg import JointState
from std_msgs.msg import String

from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.msg import EngineStatus, Trace
from molmoact_ros.nodes.planning.approval_gate import ApprovalGate
from molmoact_ros.nodes.planning.chunk_messages import ChunkMessages
from molmoact_ros.nodes.planning.config import LIVE, PolicyConfig, load_engine, wrong_mode
from molmoact_ros.nodes.planning.controller_client import ControllerClient
from molmoact_ros.nodes.planning.engine_status import EngineStatusPublisher
from molmoact_ros.nodes.planning.execute_server import PERIOD, ExecuteServer, Goal, Result
from molmoact_ros.nodes.planning.inference_thread import InferenceThread, ReasonedPlan
from molmoact_ros.nodes.planning.observation_buffer import LARGEST_JOINTS, MOST_JOINTS, FrameBuffer
from molmoact_ros.nodes.planning.operator_trace import OperatorTrace
from molmoact_ros.nodes.planning.plan_publisher import PlanPublisher
from molmoact_ros.nodes.planning.robot_state import StateReader
from molmoact_ros.nodes.planning.trace_input import TraceInput
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import validate_instruction
from molmoact_ros.ros import qos
from molmoact_ros.ros.clocks import STEADY, ClockJumps
from molmoact_ros.ros.image_transport import CameraImage, colour_topic, depth_topic, wrong_transport
from molmoact_ros.ros.lifecycle import ManagedNode
from molmoact_ros.ros.live_parameters import LiveParameters
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.publishers import crowded
from molmoact_ros.ros.realtime_loop import own_threads, real_time
from molmoact_ros.ros.spin import run


class PolicyNode(ManagedNode):
    """ROS interface of the policy: wires camera topics, InferenceThread, ApprovalGate and the action server.

    Callbacks run on the executor's thread; the PlanListener's methods run on the inference thread.
    """

    def __init__(self, load: Callable[[PolicyConfig], Engine] = load_engine, **options: Any) -> None:
        """load: opens the engine when the node is configured; options: of rclpy's nodes, such as the namespace."""
        super().__init__("policy", **options)
        self.config, self._load = declare(self, PolicyConfig), load
        self._settings = LiveParameters(self, LIVE)
        self._active = False
        self._configured = False

    # Lifecycle

    def configure(self) -> None:
        """Load the engine and create the topics."""
        config, self._engine = self.config, self._load(self.config)
        self.sees = False  # as Planner.sees
        sources = [colour_topic(camera, config.image_transport) for camera in config.cameras]
        cameras = [self.resolve_topic_name(topic) for _, topic in sources]
        frames = FrameBuffer(cameras, config.slop, config.max_age, config.noisy_cameras, config.joint_slop)
        front = config.cameras[0]
        self._clock_watch, self._link = ClockJumps(), ControllerClient(self, config.controller)
        self._plans = PlanPublisher(self, self._engine, front, config.arms)
        self._chunks = ChunkMessages(
            self._engine.unnorm_key, self._engine.convention, config.arms, config.base_frame, config.action_dt
        )
        self._drawings = OperatorTrace(self, front, config.joint_states, config.drawing_max_age, config.drawing_timeout)
        states = StateReader.of(self._engine, config.franka_arms, config.state_max_age)
        self._reasoner = InferenceThread(self._engine, frames, self._now, self, config.period, states)
        self._gate = ApprovalGate(self, self._link, self._reasoner.lock, self._reasoner.again, self._veto)
        for topic, (kind, _) in zip(cameras, sources, strict=True):
            self.create_subscription(kind, topic, partial(self._on_image, topic), qos.SENSOR)
        self._joints = PollingSubscription(
            self, JointState, config.joint_states, qos.sensor(MOST_JOINTS), LARGEST_JOINTS
        )
        self._report = EngineStatusPublisher(self, config.model, self._reasoner, self._drawings, self._gate, cameras)
        self._depth: Subscription | None = None  # of the front camera, while a mode needs it
        self._settings.connect_setters(
            {"mode": self._use_mode, "approve": self._gate.set_mode, "approve_seconds": self._gate.set_seconds},
            {"mode": partial(wrong_mode, self._engine.modes)},
        )
        self.create_subscription(String, "~/instruction", self._on_instruction, qos.RELIABLE)
        self._traces = TraceInput(self, self._drawings, self._reasoner, self._gate, self._report)
        self.create_timer(PERIOD, self._on_period, clock=STEADY)
        self.create_timer(1.0, lambda: self._report.diagnose(self._joint_notes()), clock=STEADY)
        self._reasoner.start()
        self._goals = ExecuteServer(self, self._link, self)
        self._configured = True

    def activate(self) -> None:
        """Accept instructions from now on."""
        self._active, config = True, self.config
        real_time(config.real_time_priority, own_threads())
        self.get_logger().info(f"ready: {config.model} ({self._engine.digest}) by {config.backend} on {config.place}")

    def deactivate(self) -> None:
        """End the goal, and accept no more instructions."""
        if self._active and self._is_busy:
            self._end_task(Result.CANCELED, "the policy was deactivated")
        self._active = False

    def forget(self) -> None:
        """End the inference thread and drop the engine."""
        self._close()
        super().forget()

    def destroy_node(self) -> None:
        """Hold the arm, end the inference thread, then destroy the node."""
        self._close()
        super().destroy_node()

    def _close(self) -> None:
        if self._configured:
            self._configured = False
            self._settings.pause()
            self.deactivate()
            self._goals.close()
            self._reasoner.close()
            self._engine.close()

    def callback_failed(self, error: Exception) -> None:
        """End the task when a callback on the executor's thread fails; the arm holds, and the node goes on."""
        if self._configured and self._is_busy:
            self._end_task(Result.FAULT, f"internal error: {error}")

    def _use_mode(self, name: str) -> None:
        """Set the mode from the next step on. Depth is subscribed only while needed: it is as large as colour."""
        mode = ReasoningMode(name)
        if mode is ReasoningMode.GROUNDED and self._depth is None:
            kind, topic = depth_topic(self.config.cameras[0], self.config.image_transport)
            self._depth = self.create_subscription(kind, topic, self._reasoner.add_depth, qos.SENSOR)
        elif mode is not ReasoningMode.GROUNDED and self._depth is not None:
            self.destroy_subscription(self._depth)
            self._depth = None
        self._reasoner.mode = mode

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # PlanListener, on the inference thread

    def may_plan_on(self, stamp: float) -> bool:
        """False while a plan waits for approval, and, where plans have to wait, before the arm stands."""
        return self._gate.may_plan_on(stamp)

    def drawn(self) -> np.ndarray | None:
        """The rest of an operator's trace, int64 [n, 2] in 0..255."""
        return self._drawings.trace

    def on_plan(self, plan: ReasonedPlan) -> None:
        """Publish the parts that this step has completed, each once."""
        self._drawings.camera_frame = plan.camera_frame
        self._plans.reasoning(plan)
        chunk = self._chunks.message(plan)
        if chunk is not None:
            self._gate.take_chunk(chunk)
            self._plans.complete(plan, chunk)
            self._goals.count_plan()
            self._report.take_plan(plan, self._plans.note)

    def on_waiting(self, reason: str) -> None:
        """Report that a camera is silent."""
        config = self.config
        wrong = wrong_transport(config.cameras, config.image_transport, self.count_publishers)
        self._report.report(EngineStatus.WAITING, wrong or reason)

    def on_refused(self, reason: str, fatal: bool) -> None:
        """Report a refused step; a fatal refusal ends the goal."""
        self._report.report(EngineStatus.FAULT, reason)
        if fatal:
            self._goals.trouble = reason

    def _on_image(self, topic: str, image: CameraImage) -> None:
        for joints in self._joints.messages():
            self._reasoner.add_joints(joints)
        self._reasoner.add_image(topic, image)

    def _joint_notes(self) -> list[str]:
        """What is wrong with the joint states, one line each."""
        topic, groups = self.resolve_topic_name(self.config.joint_states), self._reasoner.joint_groups()
        notes = crowded(self, [topic], groups) + [self._joints.refusal] * bool(self._joints.refusal)
        if not groups:
            notes.append(f"joint states on {topic} are stamped 0; plans are published without them")
        return notes

    # Instructions

    def _on_instruction(self, message: String) -> None:
        """Reason about an instruction and publish plans, without starting the controller: that takes a goal or an
        operator.

        Repeating the current instruction changes nothing; an empty one ends it.
        """
        if not message.data.strip():
            self._end_task(Result.CANCELED, "ended by an empty instruction")
            return
        try:
            text, task = validate_instruction(message.data), self._reasoner.task
            if task is None or task.instruction != text:
                self._goals.end(Result.CANCELED, "replaced by an instruction on the topic", hold=False)
                self._follow(text)
        except RefusedStep as refusal:
            self._report.report(EngineStatus.FAULT, str(refusal))

    def _veto(self, reason: str) -> None:
        self._end_task(Result.HELD, reason)

    # Planner: the goal's interface

    def check_goal(self, request: Goal) -> str:
        """See Planner.check_goal."""
        if not self._active:
            return "the policy is not active; activate it first"
        try:
            validate_instruction(request.instruction)
            if request.trace.x or request.trace.y:
                self._traces.check(request.trace)
        except RefusedStep as refusal:
            return str(refusal)
        if self._report.clear():
            self.sees = False  # the controller must receive that first, or it would hold for the earlier fault
        return ""

    def begin_goal(self, request: Goal) -> str:
        """See Planner.begin_goal."""
        try:
            self._follow(request.instruction, request.trace if request.trace.x or request.trace.y else None)
        except RefusedStep as refusal:  # the drawing has become too old
            return str(refusal)
        return ""

    def halt(self) -> None:
        """See Planner.halt: drops the task's step in progress, its pending plan and its drawing."""
        with self._reasoner.lock:
            self._forget_task("the task ended")

    @property
    def _is_busy(self) -> bool:
        return self._reasoner.task is not None or bool(self._goals.instruction)

    def _follow(self, instruction: str, drawing: Trace | None = None) -> None:
        """Start an instruction, with an operator's drawing if there is one. Raises RefusedStep."""
        text = validate_instruction(instruction)
        if not self._active:
            raise RefusedStep("the policy is not active; activate it first")
        with self._reasoner.lock:
            self._forget_task("a new instruction was given")
            self._goals.trouble = ""  # of the task before
            if drawing is not None:
                self._drawings.take_trace(self._traces.check(drawing), drawing)
            self._reasoner.follow(text)
            self._report.report(EngineStatus.RUNNING, "")

    def _forget_task(self, why: str) -> None:
        self._reasoner.halt()
        self._gate.drop()
        self._drawings.end(why)

    def _end_task(self, code: int, message: str) -> None:
        """Stop planning, with or without a goal, and make the controller hold at once."""
        self._goals.end(code, message)
        self.halt()
        self._link.hold()

    # Ten times a second

    def _on_period(self) -> None:
        self._watch_clock()
        self._goals.look_after()
        self._update_plan()
        self._report.publish()
        self.sees = isfinite(self._reasoner.camera_age())
        self._plans.show()

    def _watch_clock(self) -> None:
        """After ROS time was set, end the task and drop everything stamped: earlier stamps are invalid."""
        by = self._clock_watch.moved(self._now(), time.monotonic())
        if not by:
            return
        with self._reasoner.lock:
            busy = self._is_busy
            self._reasoner.clock_set()
            self._gate.clock_set()
            self._link.forget()
        if busy:
            way = "back" if by < 0 else "forward"
            reason = f"the clock was set {way} by {abs(by):.1f} s; give the instruction again"
            self._end_task(Result.HELD, reason)
            self._report.report(EngineStatus.FAULT, reason)

    def _update_plan(self) -> None:
        """Advance the pending plan, and the gripper's progress along a drawing."""
        with self._reasoner.lock:
            if self._reasoner.task is None:
                self._forget_task("the task ended")
            self._gate.look_after()
            # A drawing's timeout stands still while its plan waits.
            if self._gate.shown is None and self._drawings.advance():
                if self._drawings.done:
                    self._gate.rest()
                self._traces.plan_again()


def main() -> None:
    """Start the node."""
    run(PolicyNode)


if __name__ == "__main__":
    main()
