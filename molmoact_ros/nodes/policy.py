"""The policy: camera frames and an instruction in; depth codes, trace and action chunk out, each as it is complete."""

from __future__ import annotations

import threading
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from pydantic import Field
from rcl_interfaces.msg import ParameterDescriptor, SetParametersResult
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.parameter import Parameter
from rclpy.subscription import Subscription
from rclpy.task import Future
from sensor_msgs.msg import Image
from std_msgs.msg import String
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.engine.asking import Mode
from molmoact_ros.engine.backends import EngineOptions, open_engine
from molmoact_ros.msg import ActionChunk, DepthTokens, EngineStatus, SafetyStatus, Trace
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.frames import FrameBuffer
from molmoact_ros.nodes.managed import ManagedNode
from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.process import run
from molmoact_ros.nodes.reasoner import Plan, Reasoner
from molmoact_ros.paths import default_checkpoint
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import validate_instruction
from molmoact_ros.reasoning.trace import draw_for_people
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
    noisy_cameras: bool = Field(True, description="a frame that equals the last one to the bit is frozen, not news")
    period: float = Field(0.0, ge=0, le=10, description="least time from one plan's picture to the next's, s")
    action_dt: float = Field(0.1, ge=0.01, le=1, description="seconds of one action")
    controller: str = Field("/controller", description="node name of the controller")


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

    def __init__(self) -> None:
        super().__init__("policy")
        self.config = declare(self, PolicyConfig)
        about = ParameterDescriptor(
            description="full, grounded or reuse: how much the model is asked for; may be changed"
        )
        self.declare_parameter("mode", Mode.FULL.value, about)
        self.add_on_set_parameters_callback(self._on_set_parameters)
        self._active = False
        self._configured = False

    # Life cycle

    def configure(self) -> None:
        """Load the engine and create the topics."""
        folder = Path(self.config.checkpoint) if self.config.checkpoint else default_checkpoint()
        self._engine = open_engine(self.config, folder)
        self._engine.warm_up()
        self._checkpoint = str(folder)
        self._place = self.config.server if self.config.backend == "server" else self.config.device
        self._goal: _Goal | None = None
        self._given_up: str | None = None  # written by the reasoner's thread, taken by _look_after_goal
        self._status = EngineStatus(checkpoint=self._checkpoint)
        self._status_lock = threading.Lock()
        self._safety = SafetyStatus()
        self._published: dict[str, int] = {}  # the last plan of which each part was published
        self._advertise()
        topics = [f"/{camera}/color/image_raw" for camera in self.config.cameras]
        frames = FrameBuffer(topics, self.config.slop, self.config.max_age, self.config.noisy_cameras)
        self._reasoner = Reasoner(self._engine, frames, self._now, self, self.config.period)
        for topic in topics:
            self.create_subscription(Image, topic, partial(self._reasoner.add, topic), qos.SENSOR)
        self._depth: Subscription | None = None  # of the front camera, where a mode wants it
        self._use_mode(Mode(self.get_parameter("mode").value))
        self.create_subscription(String, "~/instruction", self._on_instruction, qos.RELIABLE)
        self.create_subscription(Trace, "~/edit_trace", self._on_trace, qos.RELIABLE)
        self.create_service(EditTrace, "~/edit_trace", self._on_edit_trace)
        self._connect_controller(self.config.controller)
        self.create_timer(1.0 / GOAL_RATE, self._look_after_goal)
        self.create_timer(1.0 / GOAL_RATE, self._publish_status)
        self._reasoner.start()
        self._server = ActionServer(
            self, ExecuteInstruction, "~/execute", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )
        self._configured = True

    def activate(self) -> None:
        """Take instructions from now on."""
        self._active = True
        self.get_logger().info(
            f"ready: {self._checkpoint} ({self._engine.digest}) by {self.config.backend} on {self._place}"
        )

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

    def _on_set_parameters(self, parameters: list[Parameter]) -> SetParametersResult:
        for parameter in parameters:
            if parameter.name == "mode":
                if parameter.value not in CHOICES:
                    return SetParametersResult(successful=False, reason=f"choose one of: {', '.join(CHOICES)}")
                if self._configured:
                    self._use_mode(Mode(parameter.value))
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
        self._trace_overlay = self.create_publisher(Image, "~/trace_overlay", qos.RELIABLE)
        self._action_chunk = self.create_publisher(ActionChunk, "~/action_chunk", qos.RELIABLE)
        self._engine_status = self.create_publisher(EngineStatus, "~/engine_status", qos.STATE)

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

    def on_plan(self, plan: Plan) -> None:
        """Publish what this step has completed; each part once."""
        head = conversions.header(plan.observation.stamp, f"{self.config.cameras[0]}_color_optical_frame")
        said, drawn = plan.reasoning, plan.observation.trace
        if said.depth_codes is not None and self._is_new(plan, "depth"):
            codes = conversions.depth_tokens_message(said.depth_codes, self._engine.codebook, plan.plan_id, head)
            self._depth_tokens.publish(codes)
        if said.trace is not None and self._is_new(plan, "trace"):
            self._show_trace(plan, Trace.MODEL, said.trace, head)
        if said.complete and said.actions is not None:
            base = conversions.header(plan.observation.stamp, BASE_FRAME)
            key, dt = self._engine.unnorm_key, self.config.action_dt
            mode = plan.timings.mode.value
            self._action_chunk.publish(conversions.chunk_message(said.actions, dt, key, plan.plan_id, base, mode))
            self._finish(plan)
            # Pictures of what is known already may wait for the actions.
            if drawn is not None:
                self._show_trace(plan, Trace.HUMAN, drawn, head)
            if said.depth_codes is not None:
                self._show_depth(said.depth_codes, head)

    def _is_new(self, plan: Plan, part: str) -> bool:
        """Whether this part of this plan was not published yet; from now on it counts as published."""
        if self._published.get(part) == plan.plan_id:
            return False
        self._published[part] = plan.plan_id
        return True

    def _show_trace(self, plan: Plan, source: int, trace: np.ndarray, head: conversions.Header) -> None:
        self._trace.publish(conversions.trace_message(trace, source, plan.plan_id, head))
        if self._trace_overlay.get_subscription_count():
            picture = draw_for_people(plan.observation.images[0], trace)
            self._trace_overlay.publish(conversions.image_message(picture, "rgb8", head))

    def _show_depth(self, codes: np.ndarray, head: conversions.Header) -> None:
        if self._engine.depth_vq is not None and self._depth_image.get_subscription_count():
            picture = self._engine.depth_vq.picture(codes)
            self._depth_image.publish(conversions.image_message(picture, "32FC1", head))

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
        camera_age = self._reasoner.camera_age()  # before the lock: the reasoner reports under its own
        with self._status_lock:
            task = self._reasoner.task
            self._status.header.stamp = self.get_clock().now().to_msg()
            self._status.instruction = task.instruction if task else ""
            self._status.camera_age = camera_age
            if task is None and self._status.state != EngineStatus.FAULT:
                self._status.state, self._status.message = EngineStatus.IDLE, ""
            self._engine_status.publish(self._status)

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
            self._reasoner.steer(conversions.trace_points(message))
        except RefusedStep as refusal:
            self.get_logger().warning(f"trace not used: {refusal}")

    def _on_edit_trace(self, request: EditTrace.Request, response: EditTrace.Response) -> EditTrace.Response:
        try:
            self._reasoner.steer(None if request.clear else conversions.trace_points(request.trace))
            response.success = True
        except RefusedStep as refusal:
            response.message = str(refusal)
        return response

    def _follow(self, instruction: str) -> None:
        text = validate_instruction(instruction)
        if not self._active:
            raise RefusedStep("the policy is not active; activate it first")
        self._given_up = None
        self._status.state = EngineStatus.RUNNING
        self._reasoner.follow(text)

    def _halt(self) -> None:
        """No more plans, and the controller holds at once."""
        self._reasoner.halt()
        if self._hold.service_is_ready():
            self._hold.call_async(Trigger.Request())

    # ExecuteInstruction

    async def _execute(self, handle: ServerGoalHandle) -> ExecuteInstruction.Result:
        self._end_goal(ExecuteInstruction.Result.CANCELED, "replaced by a newer instruction")
        self._reasoner.halt()
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
            goal.started = self._now()
            self._follow(request.instruction)
        return ""

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
        self._safety = message


def main() -> None:
    """Start the node."""
    run(PolicyNode)


if __name__ == "__main__":
    main()
