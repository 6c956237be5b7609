"""The scripted expert of the two-arm workcell in the policy's place: same topics, same action, same messages.

It sees the simulator's own state instead of pictures, and has neither depth codes nor a trace to show.
"""

from __future__ import annotations

import numpy as np
from pydantic import BaseModel, Field
from rclpy.action import ActionServer, CancelResponse
from rclpy.action.server import ServerGoalHandle
from rclpy.node import Node
from rclpy.task import Future
from scipy.spatial.transform import Rotation
from std_srvs.srv import Trigger

from molmoact_ros.action import ExecuteInstruction
from molmoact_ros.learn.expert import STEP
from molmoact_ros.learn.tray_expert import State, chunk, see
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.process import run
from molmoact_ros.sim.tray import INSTRUCTION
from molmoact_ros.srv import SceneTruth

Result = ExecuteInstruction.Result
HEARTBEAT = 0.1  # s
OVERDUE = 0.5  # s after which an answer of the simulator is not waited for any more


class ExpertConfig(BaseModel):
    """Parameters of the expert."""

    controller: str = Field("/controller", description="node name of the controller")
    sim: str = Field("/sim", description="node name of the simulator")
    period: float = Field(0.3, gt=0, le=0.8, description="s from plan to plan")


class ExpertNode(Node):
    """One goal at a time; while it lasts, a plan every period from what the simulator says."""

    def __init__(self) -> None:
        super().__init__("expert")
        self.config = declare(self, ExpertConfig)
        self._goal: ServerGoalHandle | None = None
        self._ended, self._began, self._plans = Future(), 0.0, 0
        self._safety, self._started, self._asked = SafetyStatus(), np.inf, -np.inf
        self._chunks = self.create_publisher(ActionChunk, "~/action_chunk", qos.RELIABLE)
        self._status = self.create_publisher(EngineStatus, "~/engine_status", qos.STATE)
        self._start = self.create_client(Trigger, f"{self.config.controller}/start")
        self._hold = self.create_client(Trigger, f"{self.config.controller}/hold")
        self._truth = self.create_client(SceneTruth, f"{self.config.sim}/scene_truth")
        safety = f"{self.config.controller}/safety_status"
        self.create_subscription(SafetyStatus, safety, lambda m: setattr(self, "_safety", m), qos.STATE)
        self.create_timer(HEARTBEAT, self._beat)
        self.create_timer(self.config.period, self._look)
        self._server: ActionServer | None = None

    def _now(self) -> float:
        return float(self.get_clock().now().nanoseconds * 1e-9)

    def _connected(self) -> bool:
        """Simulator and controller hear this node, and it hears them."""
        hears = self._safety.header.stamp.sec > 0 and self._truth.service_is_ready() and self._start.service_is_ready()
        return hears and self._chunks.get_subscription_count() > 0

    def _take_goals(self) -> None:
        """From now on; a goal that came before everything is connected would begin with a silent planner."""
        self._server = ActionServer(
            self, ExecuteInstruction, "~/execute", self._execute, cancel_callback=lambda _: CancelResponse.ACCEPT
        )
        self.get_logger().info(f"ready: the scripted expert knows {INSTRUCTION!r}")

    # The goal

    async def _execute(self, handle: ServerGoalHandle) -> ExecuteInstruction.Result:
        self._end(Result.CANCELED, "replaced by a newer instruction")
        self._goal, self._ended, self._began, self._plans = handle, Future(), self._now(), 0
        self._started, ended = np.inf, self._ended
        if refusal := await self._begin(handle):
            self._end(Result.REFUSED, refusal)
        code, message = await ended
        self.get_logger().info(f"{handle.request.instruction!r} ended: {message}")
        if code == Result.TIMED_OUT:
            handle.succeed()
        elif code == Result.CANCELED and handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.abort()
        return Result(code=code, message=message, plans=self._plans, elapsed=self._now() - self._began)

    async def _begin(self, handle: ServerGoalHandle) -> str:
        """Start the controller; what is wrong, in one line, or nothing."""
        if handle.request.instruction.strip().lower() != INSTRUCTION:
            return f"the scripted expert knows only {INSTRUCTION!r}"
        if not handle.request.timeout > 0:
            return f"the timeout is {handle.request.timeout} s; give the goal some seconds"
        if not self._start.wait_for_service(timeout_sec=2.0):
            return f"no controller answers at {self._start.srv_name}; start it first"
        reply = await self._start.call_async(Trigger.Request())
        if reply.success and self._goal is handle:
            self._started = self._now()
        return "" if reply.success else str(reply.message)

    def _beat(self) -> None:
        status = EngineStatus(checkpoint="scripted expert", plan_id=self._plans)
        status.header.stamp = self.get_clock().now().to_msg()
        if self._server is None and self._connected():
            self._take_goals()
        if self._goal is not None:
            status.state, status.instruction = EngineStatus.RUNNING, self._goal.request.instruction
            self._look_after(self._goal)
        self._status.publish(status)

    def _look_after(self, goal: ServerGoalHandle) -> None:
        playing = self._safety.state in (SafetyStatus.POLICY, SafetyStatus.TELEOP)
        if goal.is_cancel_requested:
            self._end(Result.CANCELED, "cancelled")
        elif not playing and conversions.seconds(self._safety.header.stamp) > self._started:
            self._end(Result.HELD, f"the controller does not play: {self._safety.reason}")
        elif self._now() - self._began > goal.request.timeout:
            self._end(Result.TIMED_OUT, f"the time of {goal.request.timeout:g} s is over")
        else:
            feedback = ExecuteInstruction.Feedback(elapsed=self._now() - self._began)
            feedback.plan_id, feedback.progress = self._safety.plan_id, self._safety.progress
            goal.publish_feedback(feedback)

    def _end(self, code: int, message: str) -> None:
        if self._goal is not None:
            self._goal = None
            if self._hold.service_is_ready():
                self._hold.call_async(Trigger.Request())
            self._ended.set_result((code, message))

    # Plans

    def _look(self) -> None:
        """Ask the simulator how things stand, unless it still owes an answer."""
        now = self._now()
        if self._now() > self._started and self._goal is not None and now - self._asked > OVERDUE:
            self._asked = now
            self._truth.call_async(SceneTruth.Request()).add_done_callback(self._plan)

    def _plan(self, answer: Future) -> None:
        truth, self._asked = answer.result(), -np.inf
        if self._goal is None or truth is None:
            return
        self._plans += 1
        head = conversions.header(conversions.seconds(truth.header.stamp), "")  # each arm's own base frame
        actions = chunk(seen(truth))
        self._chunks.publish(conversions.chunk_message(actions, STEP, "scripted expert", self._plans, head))


def seen(truth: SceneTruth.Response) -> State:
    """What the expert knows, from the simulator's answer."""

    def turn(pose) -> Rotation:  # type: ignore[no-untyped-def]
        q = pose.orientation
        return Rotation.from_quat([q.x, q.y, q.z, q.w])

    def place(pose) -> list[float]:  # type: ignore[no-untyped-def]
        return [pose.position.x, pose.position.y, pose.position.z]

    tray = truth.poses[truth.names.index("tray")]
    hands = Rotation.concatenate([turn(pose) for pose in truth.grippers])
    yaw = float(turn(tray).as_euler("ZYX")[0])
    return see(
        np.array([place(pose) for pose in truth.grippers]), hands, np.array(truth.openings), np.array(place(tray)), yaw
    )


def main() -> None:
    """Start the node."""
    run(ExpertNode)


if __name__ == "__main__":
    main()
