"""The policy: camera frames and an instruction in; depth codes, trace and action chunk out, each as it is complete.

A person's drawing steers it, and a gate may hold actions back until they are approved (docs/view.md).
"""

from __future__ import annotations

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from pydantic import Field
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.logging import get_logger
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import Image, JointState
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.control.approval import Approve
from molmoact_ros.engine.asking import Mode
from molmoact_ros.engine.backends import EngineOptions, open_engine
from molmoact_ros.engine.engine import Engine
from molmoact_ros.msg import AnswerTokens, DepthTokens, EngineStatus, SafetyStatus, Trace
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.drawings import Drawings
from molmoact_ros.nodes.frames import MOST_JOINTS, FrameBuffer
from molmoact_ros.nodes.gatekeeper import Gatekeeper
from molmoact_ros.nodes.loop import own_threads, real_time
from molmoact_ros.nodes.managed import ManagedNode
from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.polled import Polled
from molmoact_ros.nodes.process import run
from molmoact_ros.nodes.reasoner import Plan, Reasoner
from molmoact_ros.nodes.status import status
from molmoact_ros.paths import default_checkpoint
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import validate_instruction
from molmoact_ros.reasoning.trace import draw_training_overlay
from molmoact_ros.robots.franka import BASE_FRAME
from molmoact_ros.srv import EditTrace

GOAL_RATE = 10.0
"""Hz at which a goal is looked after, and of EngineStatus: the engine's heartbeat."""


class PolicyConfig(EngineOptions):
    """Parameters of the policy."""

    autostart: bool = Field(True, description="configure and activate by itself; false: a life-cycle manager does")
    cameras: list[str] = Field(["front", "wrist"], min_length=1, description="names of the cameras, front first")
    max_age: float = Field(0.5, gt=0, description="greatest age of a frame, s")
    slop: float = Field(0.05, gt=0, description="greatest difference between the frames of one step, s")
    joint_states: str = Field(
        "/joint_states", description="topic of the joints: noted with each plan, and where the gripper is"
    )
    joint_slop: float = Field(0.02, gt=0, description="greatest difference between them and the front frame, s")
    noisy_cameras: bool = Field(True, description="a frame that equals the last one to the bit is frozen, not news")
    period: float = Field(0.0, ge=0, le=10, description="least time from one plan's picture to the next's, s")
    action_dt: float = Field(0.1, ge=0.01, le=1, description="seconds of one action")
    drawing_max_age: float = Field(10.0, gt=0, description="greatest age of the picture that is drawn on, s")
    drawing_timeout: float = Field(30.0, gt=0, description="time after which a person's trace ends, s")
    controller: str = Field("/controller", description="node name of the controller")
    priority: int = Field(
        5, ge=0, le=90, description="real-time priority where the system allows it, below the controller's 10; 0: none"
    )

    @property
    def folder(self) -> Path:
        """The checkpoint's folder."""
        return Path(self.checkpoint) if self.checkpoint else default_checkpoint()


def load_engine(config: PolicyConfig) -> Engine:
    """The engine that the parameters ask for, warmed up."""
    engine = open_engine(config, config.folder)
    engine.warm_up(_tell_progress)
    return engine


def _tell_progress(done: int, of: int) -> None:
    """A line for each quarter."""
    if done * 4 // of > (done - 1) * 4 // of:
        get_logger("policy").info(f"warming up: {done} of {of} passes recorded")


@dataclass
class _Goal:
    """One ExecuteInstruction in progress."""

    handle: ServerGoalHandle
    began: float
    started: float | None = None  # when the controller said yes
    plans: int = 0
    done: Future = field(default_factory=Future)  # of (code, message)


CHOICES = (Mode.FULL.value, Mode.GROUNDED.value, Mode.REUSE.value)
"""Modes that may be asked for; a drawn trace always steers."""
DISCOVERY = 2.0  # s for a controller that has just started to be found


class PolicyNode(ManagedNode):
    """Callbacks run on the executor's thread; `on_...` of the reasoner on the reasoner's."""

    def __init__(self, load: Callable[[PolicyConfig], Engine] = load_engine, **options: Any) -> None:
        """load: makes the engine when the node is configured; options: of rclpy's nodes, such as the namespace."""
        super().__init__("policy", **options)
        self.config, self._load = declare(self, PolicyConfig), load
        for name, default, about in (
            ("mode", Mode.FULL.value, "full, grounded or reuse: how much the model is asked for"),
            ("approve", Approve.NEVER.value, "actions wait for: nothing (empty), their time (timed), a yes (required)"),
            ("approve_seconds", 3.0, "how long a plan is shown before it moves the arm, s"),
        ):
            self.declare_parameter(name, default, ParameterDescriptor(description=about, dynamic_typing=True))
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._active = False
        self._configured = False

    # Life cycle

    def configure(self) -> None:
        """Load the engine and create the topics."""
        self._engine = self._load(self.config)
        self._checkpoint = str(self.config.folder)
        self._place = self.config.server if self.config.backend == "server" else self.config.device
        self._goal: _Goal | None = None
        self._given_up: str | None = None  # written by the reasoner's thread, taken by _look_after_goal
        self._status = EngineStatus(checkpoint=self._checkpoint)
        self._status_lock = threading.Lock()
        self._safety = SafetyStatus()
        self._published: dict[str, int] = {}  # the last plan of which each part was published
        self._advertise()
        topics = [f"/{camera}/color/image_raw" for camera in self.config.cameras]
        config = self.config
        frames = FrameBuffer(topics, config.slop, config.max_age, config.noisy_cameras, config.joint_slop)
        self._drawings = Drawings(
            self, config.cameras[0], config.joint_states, config.drawing_max_age, config.drawing_timeout
        )
        self._to_show: Plan | None = None
        self._reasoner = Reasoner(self._engine, frames, self._now, self, self.config.period)
        self._gate = Gatekeeper(self, self._reasoner.lock, self._reasoner.again, self._veto)
        for topic in topics:
            self.create_subscription(Image, topic, partial(self._on_image, topic), qos.SENSOR)
        self._joints = Polled(self, JointState, self.config.joint_states, qos.sensor(MOST_JOINTS))
        self._depth: Subscription | None = None  # of the front camera, where a mode wants it
        for name, (wrong, use) in self._settings().items():
            value = self.get_parameter(name).value
            if reason := wrong(value):
                raise ValueError(f"parameter {name} of {self.get_name()}: {reason}")
            use(value)
        self.create_subscription(String, "~/instruction", self._on_instruction, qos.RELIABLE)
        self.create_subscription(Trace, "~/edit_trace", self._on_trace, qos.RELIABLE)
        self.create_service(EditTrace, "~/edit_trace", self._on_edit_trace)
        self._connect_controller(self.config.controller)
        self.create_timer(1.0 / GOAL_RATE, self._look_after_all)
        self.create_timer(1.0, self._publish_diagnostics)
        self._reasoner.start()
        self._server = ActionServer(
            self, ExecuteInstruction, "~/execute", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )
        self._configured = True

    def activate(self) -> None:
        """Take instructions from now on."""
        self._active = True
        self._come_first()
        self.get_logger().info(
            f"ready: {self._checkpoint} ({self._engine.digest}) by {self.config.backend} on {self._place}"
        )

    def _come_first(self) -> None:
        """A plan that is late is a worse plan: whatever else runs waits, but for the controller."""
        priority, config = self.config.priority, self.config
        if config.backend == "torch" and config.device == "cpu" and config.threads >= (os.cpu_count() or 1):
            priority = 0  # on all cores at once it would starve the cameras
        real_time(priority, own_threads())

    def deactivate(self) -> None:
        """End the goal, and take no more instructions."""
        if self._active:
            self._end_goal(ExecuteInstruction.Result.CANCELED, "the policy was deactivated")
            self._halt()
        self._active = False

    def forget(self) -> None:
        """End the reasoner and drop the engine."""
        if self._configured:
            self._close()
        super().forget()

    def _settings(self) -> dict[str, tuple[Callable[[Any], str], Callable[[Any], None]]]:
        """What may be changed while it runs: what is wrong with a value, in one line or nothing, and how it is used."""
        return {
            "mode": (lambda value: _choice(value, CHOICES), lambda value: self._use_mode(Mode(value))),
            "approve": (lambda value: _choice(value, [how.value for how in Approve]), self._gate.use),
            "approve_seconds": (
                lambda value: "" if _is_time(value) else f"{value!r} s is no time to look at a plan; give up to 600",
                self._gate.use_seconds,
            ),
        }

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        if not self._configured:
            return SetParametersResult(successful=True)  # `configure` looks at them
        settings = self._settings()
        wanted = [(settings[p.name], p.value) for p in parameters if p.name in settings]
        for (wrong, _), value in wanted:
            if reason := wrong(value):
                return SetParametersResult(successful=False, reason=reason)
        for (_, use), value in wanted:
            use(value)
        return SetParametersResult(successful=True)

    def _use_mode(self, mode: Mode) -> None:
        """Ask for so much from the next step on. Depth is listened to while it is wanted: it is as large as colour."""
        if mode is Mode.GROUNDED and self._depth is None:
            topic = f"/{self.config.cameras[0]}/aligned_depth_to_color/image_raw"
            self._depth = self.create_subscription(Image, topic, self._reasoner.add_depth, qos.SENSOR)
        elif mode is not Mode.GROUNDED and self._depth is not None:
            self.destroy_subscription(self._depth)
            self._depth = None
        self._reasoner.mode = mode

    def _advertise(self) -> None:
        self._depth_tokens = self.create_publisher(DepthTokens, "~/depth_tokens", qos.RELIABLE)
        self._depth_image = self.create_publisher(Image, "~/depth_image", qos.RELIABLE)
        self._trace = self.create_publisher(Trace, "~/trace", qos.RELIABLE)
        self._model_overlay = self.create_publisher(Image, "~/model_overlay", qos.RELIABLE)
        self._answer_tokens = self.create_publisher(AnswerTokens, "~/answer_tokens", qos.RELIABLE)
        self._engine_status = self.create_publisher(EngineStatus, "~/engine_status", qos.STATE)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)

    def _connect_controller(self, name: str) -> None:
        self._start = self.create_client(Trigger, f"{name}/start")
        self._hold = self.create_client(Trigger, f"{name}/hold")
        self.create_subscription(SafetyStatus, f"{name}/safety_status", self._on_safety, qos.STATE)

    def destroy_node(self) -> None:
        """End the reasoner, then the node."""
        if self._configured:
            self._close()
        super().destroy_node()

    def _close(self) -> None:
        self._configured = False
        self._reasoner.close()
        self._server.destroy()
        self._engine.close()
        del self._engine

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    # What the reasoner says

    def may_plan_on(self, stamp: float) -> bool:
        """Not while a plan waits for approval, nor before the arm stands, where plans have to wait."""
        return self._gate.may_plan_on(stamp)

    def drawn(self) -> np.ndarray | None:
        """What is left of a person's trace, int64 [n, 2] in 0..255."""
        return self._drawings.trace

    def on_plan(self, plan: Plan) -> None:
        """Publish what this step has completed; each part once."""
        head = conversions.header(plan.observation.stamp, conversions.optical_frame(self.config.cameras[0]))
        said, drawn = plan.reasoning, plan.observation.trace
        if said.depth_codes is not None and self._is_new(plan, "depth"):
            codes = conversions.depth_tokens_message(said.depth_codes, self._engine.codebook, plan.plan_id, head)
            self._depth_tokens.publish(codes)
        if said.trace is not None and self._is_new(plan, "trace"):
            self._trace.publish(conversions.trace_message(said.trace, Trace.MODEL, plan.plan_id, head))
        if said.complete and said.actions is not None:
            base = conversions.header(plan.observation.stamp, BASE_FRAME)
            key, dt = self._engine.unnorm_key, self.config.action_dt
            mode = plan.timings.mode.value
            chunk = conversions.chunk_message(said.actions, dt, key, plan.plan_id, base, mode)
            if plan.joints is not None:
                chunk.joint_names, chunk.joint_positions = plan.joints.name, plan.joints.position
            self._gate.take(chunk)
            tokens = conversions.tokens_message(
                plan.tokens, self._engine.digest, mode, plan.observation, plan.frames, plan.plan_id, head
            )
            self._answer_tokens.publish(tokens)
            if drawn is not None:
                self._trace.publish(conversions.trace_message(drawn, Trace.HUMAN, plan.plan_id, head))
            self._finish(plan)
            self._to_show = plan

    def _is_new(self, plan: Plan, part: str) -> bool:
        """Whether this part of this plan was not published yet; from now on it counts as published."""
        if self._published.get(part) == plan.plan_id:
            return False
        self._published[part] = plan.plan_id
        return True

    def _show_plan(self) -> None:
        """Pictures of the last plan, for those who look: on the executor's thread, never in front of actions."""
        plan, self._to_show = self._to_show, None
        if plan is None:
            return
        head = conversions.header(plan.observation.stamp, conversions.optical_frame(self.config.cameras[0]))
        said, drawn = plan.reasoning, plan.observation.trace
        trace = said.trace if drawn is None else drawn
        if trace is not None and self._model_overlay.get_subscription_count():
            picture = draw_training_overlay(self._engine.frame(plan.observation.images[0]), trace)
            self._model_overlay.publish(conversions.image_message(picture, "rgb8", head))
        decoder = self._engine.depth_vq
        if said.depth_codes is not None and decoder is not None and self._depth_image.get_subscription_count():
            self._depth_image.publish(conversions.image_message(decoder.picture(said.depth_codes), "32FC1", head))

    def _finish(self, plan: Plan) -> None:
        if self._goal is not None:
            self._goal.plans += 1
        with self._status_lock:
            self._status.plan_id, self._status.step_seconds = plan.plan_id, plan.seconds
            self._status.observation_age = self._now() - plan.observation.stamp
            stages, counts = plan.timings.stages, plan.timings.counts
            self._status.stages, self._status.stage_seconds = list(stages), list(stages.values())
            self._status.mode = plan.timings.mode.value
            self._status.tokens, self._status.passes = counts.tokens, counts.passes
        self._report(EngineStatus.RUNNING, "")

    def on_waiting(self, reason: str) -> None:
        """A camera is silent."""
        self._report(EngineStatus.WAITING, reason)

    def on_refused(self, reason: str, fatal: bool) -> None:
        """A step gave nothing; a fatal refusal ends the goal."""
        self._report(EngineStatus.FAULT, reason)
        if fatal:
            self._given_up = reason

    def _report(self, state: int, message: str) -> None:
        with self._status_lock:
            if message and message != self._status.message:
                self.get_logger().warning(message)
            self._status.state, self._status.message = state, message
        self._publish_status()

    def _publish_status(self) -> None:
        with self._reasoner.lock, self._status_lock:
            task, status = self._reasoner.task, self._status
            status.header.stamp = self.get_clock().now().to_msg()
            status.instruction = task.instruction if task else ""
            status.camera_age = self._reasoner.camera_age()
            self._drawings.tell(status, self._now())
            self._gate.tell(status)
            if task is None and status.state != EngineStatus.FAULT:
                status.state, status.message = EngineStatus.IDLE, ""
            self._engine_status.publish(status)

    def _publish_diagnostics(self) -> None:
        """How many frames came, and what became of them."""
        with self._status_lock:
            waiting, why = self._status.state == EngineStatus.WAITING, self._status.message
        name, frames = f"{self.get_name()}: observation", self._reasoner.frames_report()
        report = DiagnosticArray(status=[status(name, waiting, why if waiting else "fine", frames, "cameras")])
        report.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(report)

    def _on_image(self, topic: str, image: Image) -> None:
        for joints in self._joints.messages():
            self._reasoner.add_joints(joints)
        self._reasoner.add(topic, image)

    # What people say

    def _on_instruction(self, message: String) -> None:
        """Reason about it and publish plans. The controller is not told to start: that takes a goal, or a person.

        Saying again what is being done changes nothing; an empty instruction ends it.
        """
        if not message.data.strip():
            self._end_goal(ExecuteInstruction.Result.CANCELED, "ended by an empty instruction")
            self._halt()
            return
        try:
            text, task = validate_instruction(message.data), self._reasoner.task
            if task is None or task.instruction != text:
                self._end_goal(ExecuteInstruction.Result.CANCELED, "replaced by an instruction on the topic")
                self._follow(text)
        except RefusedStep as refusal:
            self._report(EngineStatus.FAULT, str(refusal))

    def _on_trace(self, message: Trace) -> None:
        try:
            self._draw(message)
        except RefusedStep as refusal:
            self.get_logger().warning(f"drawing refused: {refusal}")
            with self._reasoner.lock:
                self._drawings.refuse(str(refusal))
            self._publish_status()

    def _on_edit_trace(self, request: EditTrace.Request, response: EditTrace.Response) -> EditTrace.Response:
        try:
            if request.clear:
                self._clear_drawing()
            else:
                self._draw(request.trace)
            response.success = True
        except RefusedStep as refusal:
            response.message = str(refusal)
        return response

    def _draw(self, message: Trace) -> None:
        """Follow a drawing from now on. Raises RefusedStep."""
        with self._reasoner.lock:
            if self._reasoner.task is None:
                raise RefusedStep("there is no instruction to steer; give one first")
            trace = self._check_drawing(message)
            self._drawings.take(trace, message, self._now())
            self._plan_again()
        self._publish_status()

    def _check_drawing(self, message: Trace) -> np.ndarray:
        return self._drawings.check(message, self._now(), self._gate.shown)

    def _clear_drawing(self) -> None:
        with self._reasoner.lock:
            if self._drawings.end("cleared", self._now()):
                self._plan_again()
        self._publish_status()

    def _plan_again(self) -> None:
        """What is planned is not what is wanted any more; nor is what waits for approval."""
        self._gate.drop()
        self._reasoner.again()

    def _look_after_plan(self) -> None:
        """What waits for approval, and how far the gripper is along a drawing."""
        with self._reasoner.lock:
            if self._reasoner.task is None:
                self._forget_task("the task ended")
            self._gate.look_after()
            # Time stands still for a drawing while its plan waits.
            if self._gate.shown is None and self._drawings.advance(self._now()):
                if self._drawings.done:
                    self._gate.rest()
                self._plan_again()

    def _veto(self, reason: str) -> None:
        self._end_goal(ExecuteInstruction.Result.HELD, reason)
        self._halt()

    # Tasks

    def _follow(self, instruction: str, drawing: Trace | None = None) -> None:
        """Take up an instruction, with a person's drawing if there is one. Raises RefusedStep."""
        text = validate_instruction(instruction)
        if not self._active:
            raise RefusedStep("the policy is not active; activate it first")
        with self._reasoner.lock:
            self._forget_task("a new instruction was given")
            self._given_up = None
            self._status.state = EngineStatus.RUNNING
            if drawing is not None:
                self._drawings.take(self._check_drawing(drawing), drawing, self._now())
            self._reasoner.follow(text)

    def _forget_task(self, why: str) -> None:
        """Nothing of it is left: no step, no plan that waits, no drawing."""
        self._reasoner.halt()
        self._gate.drop()
        self._drawings.end(why, self._now())

    def _halt(self) -> None:
        """No more plans, and the controller holds at once."""
        with self._reasoner.lock:
            self._forget_task("the task ended")
        if self._hold.service_is_ready():
            self._hold.call_async(Trigger.Request())

    # ExecuteInstruction

    async def _execute(self, handle: ServerGoalHandle) -> ExecuteInstruction.Result:
        self._end_goal(ExecuteInstruction.Result.CANCELED, "replaced by a newer instruction")
        with self._reasoner.lock:
            self._forget_task("a new instruction was given")
        goal = _Goal(handle, self._now())
        self._goal = goal
        if refusal := await self._begin(goal):
            self._end_goal(ExecuteInstruction.Result.REFUSED, refusal)
        code, message = await goal.done
        self.get_logger().info(f"{handle.request.instruction!r} ended: {message}")
        elapsed = self._now() - goal.began
        if code == ExecuteInstruction.Result.TIMED_OUT:
            handle.succeed()
        elif code == ExecuteInstruction.Result.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return ExecuteInstruction.Result(code=code, message=message, plans=goal.plans, elapsed=elapsed)

    async def _begin(self, goal: _Goal) -> str:
        """Start the controller and the reasoner; what is wrong, in one line, or nothing."""
        request = goal.handle.request
        if not self._active:
            return "the policy is not active; activate it first"
        try:
            validate_instruction(request.instruction)
            drawing = request.trace if request.trace.x or request.trace.y else None
            if drawing is not None:
                self._check_drawing(drawing)
        except RefusedStep as refusal:
            return str(refusal)
        if not (np.isfinite(request.timeout) and request.timeout > 0):
            return f"the timeout is {request.timeout} s; give the goal some seconds"
        if not self._start.wait_for_service(timeout_sec=DISCOVERY):
            return f"no controller answers at {self._start.srv_name}; start it first"
        reply = await self._start.call_async(Trigger.Request())
        if not reply.success:
            return str(reply.message)
        if self._goal is goal:  # else it was replaced meanwhile
            try:
                self._follow(request.instruction, drawing)
            except RefusedStep as refusal:  # the drawing has become too old
                self._halt()
                return str(refusal)
            goal.started = self._now()
        return ""

    def _look_after_all(self) -> None:
        self._look_after_goal()
        self._look_after_plan()
        self._publish_status()
        self._show_plan()

    def _look_after_goal(self) -> None:
        goal = self._goal
        if goal is None or goal.started is None:
            return
        request, elapsed, result = goal.handle.request, self._now() - goal.began, ExecuteInstruction.Result
        if goal.handle.is_cancel_requested:
            self._end_goal(result.CANCELED, "cancelled", hold=True)
        elif self._given_up is not None:
            self._end_goal(result.FAULT if goal.plans else result.REFUSED, self._given_up, hold=True)
        elif (
            self._safety.state not in (SafetyStatus.POLICY, SafetyStatus.TELEOP)
            and conversions.seconds(self._safety.header.stamp) > goal.started
        ):
            self._end_goal(result.HELD, f"the controller does not play: {self._safety.reason}", hold=True)
        elif elapsed > request.timeout:
            self._end_goal(result.TIMED_OUT, f"the time of {request.timeout:g} s is over", hold=True)
        else:
            feedback = ExecuteInstruction.Feedback(elapsed=elapsed)
            feedback.plan_id, feedback.progress = self._safety.plan_id, self._safety.progress
            goal.handle.publish_feedback(feedback)

    def _end_goal(self, code: int, message: str, hold: bool = False) -> None:
        goal, self._goal = self._goal, None
        if goal is not None:
            if hold:
                self._halt()
            goal.done.set_result((code, message))

    def _on_safety(self, message: SafetyStatus) -> None:
        self._safety = self._gate.safety = message


def _choice(value: Any, choices: Sequence[str]) -> str:
    if value in choices:
        return ""
    return f"choose one of: {', '.join(choice or repr(choice) for choice in choices)}"


def _is_time(value: Any) -> bool:
    return isinstance(value, int | float) and 0 < value <= 600


def main() -> None:
    """Start the node."""
    run(PolicyNode)


if __name__ == "__main__":
    main()
