"""The scripted expert of the two-arm workcell in the policy's place: same topics, same action, same messages.

It plans from the simulator's ground truth instead of images, and publishes neither depth tokens nor a trace.
"""

from __future__ import annotations

import time
from typing import Final

import numpy as np
from pydantic import BaseModel, Field
from rclpy.node import Node
from rclpy.task import Future
from scipy.spatial.transform import Rotation

from molmoact_ros.msg import ActionChunk, EngineStatus
from molmoact_ros.nodes.planning.controller_client import ControllerClient
from molmoact_ros.nodes.planning.execute_server import PERIOD, ExecuteServer, Goal, Result
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.clocks import STEADY, ClockJumps
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run
from molmoact_ros.sim.tray_workcell import INSTRUCTION
from molmoact_ros.srv import SceneTruth
from molmoact_ros.training.expert import STEP
from molmoact_ros.training.tray_expert import TrayPhase, chunk, see

OVERDUE: Final = 0.5
"""s after which a response of the simulator is dropped: it is of an old scene."""


class ExpertConfig(BaseModel):
    """Parameters of the expert node."""

    controller: str = Field("controller", description="node name of the controller; a relative one: in this namespace")
    sim: str = Field("sim", description="node name of the simulator; a relative one: in this namespace")
    period: float = Field(0.3, gt=0, le=0.8, description="s from plan to plan")


class ExpertNode(Node):
    """Serves one goal at a time; while it lasts, plans every period from the simulator's ground truth."""

    def __init__(self) -> None:
        super().__init__("expert")
        self.config = declare(self, ExpertConfig)
        self._planning, self._number = False, 0  # of the last plan
        self._requested_at, self._response = 0.0, Future()  # when the simulator was last called, and its response
        self._response.set_result(None)
        self._clock_watch, self._link = ClockJumps(), ControllerClient(self, self.config.controller)
        self._chunks = self.create_publisher(ActionChunk, "~/action_chunk", qos.RELIABLE)
        self._status = self.create_publisher(EngineStatus, "~/engine_status", qos.STATE)
        self._truth = self.create_client(SceneTruth, f"{self.config.sim}/scene_truth")
        self.create_timer(PERIOD, self._publish_heartbeat, clock=STEADY)
        self.create_timer(self.config.period, self._request_truth, clock=STEADY)
        self._goals: ExecuteServer | None = None
        self.sees = True  # as Planner.sees: goals are accepted once everything is connected

    def destroy_node(self) -> None:
        """End the goal, then destroy the node."""
        if self._goals is not None:
            self._goals.close()
        super().destroy_node()

    def callback_failed(self, error: Exception) -> None:
        """End the goal when a callback on the executor's thread fails; the arm holds, and the node goes on."""
        if self._goals is not None:
            self._goals.end(Result.FAULT, f"internal error: {error}")

    def _connected(self) -> bool:
        """Whether simulator and controller have discovered this node, and it them."""
        hears = self._link.count > 0 and self._truth.service_is_ready() and self._link.is_there
        return hears and self._chunks.get_subscription_count() > 0

    # Planner: the goal's interface

    def check_goal(self, request: Goal) -> str:
        """See Planner.check_goal."""
        known = request.instruction.strip().lower() == INSTRUCTION
        return "" if known else f"the scripted expert knows only {INSTRUCTION!r}"

    def begin_goal(self, request: Goal) -> str:
        """See Planner.begin_goal."""
        self._planning, self._number = True, 0
        return ""

    def halt(self) -> None:
        """See Planner.halt."""
        self._planning = False

    def _publish_heartbeat(self) -> None:
        if self._goals is None:
            if self._connected():  # a goal that came before would begin with a silent planner
                self._goals = ExecuteServer(self, self._link, self)
                self.get_logger().info(f"ready: the scripted expert knows {INSTRUCTION!r}")
        else:
            self._watch_clock(self._goals)
            self._goals.look_after()
        instruction = self._goals.instruction if self._goals is not None else ""
        status = EngineStatus(checkpoint="scripted expert", plan_id=self._number, instruction=instruction)
        status.state = EngineStatus.RUNNING if instruction else EngineStatus.IDLE
        status.header.stamp = self.get_clock().now().to_msg()
        self._status.publish(status)

    def _watch_clock(self, goals: ExecuteServer) -> None:
        by = self._clock_watch.moved(self.get_clock().now().nanoseconds * 1e-9, time.monotonic())
        if by:
            goals.end(Result.HELD, f"the clock was set by {by:.1f} s")

    # Plans

    def _request_truth(self) -> None:
        """Request the ground truth, unless a response is outstanding."""
        now = time.monotonic()
        if not self._planning or (not self._response.done() and now - self._requested_at < OVERDUE):
            return
        self._truth.remove_pending_request(self._response)
        self._requested_at, self._response = now, self._truth.call_async(SceneTruth.Request())
        self._response.add_done_callback(self._plan)

    def _plan(self, answer: Future) -> None:
        truth = answer.result()
        if not self._planning or truth is None or answer is not self._response or self._goals is None:
            return
        self._number += 1
        self._goals.count_plan()
        head = conversions.header(conversions.seconds(truth.header.stamp), "")  # each arm's own base frame
        actions = chunk(seen(truth))
        self._chunks.publish(
            conversions.chunk_message(actions, STEP, "scripted expert", self._number, head, stated=True)
        )


def seen(truth: SceneTruth.Response) -> TrayPhase:
    """The expert's observation, from the simulator's response."""

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
