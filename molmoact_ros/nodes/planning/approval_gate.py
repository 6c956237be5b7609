"""The gate between plans and motion at the policy's topics: it shows a plan, then releases, vetoes or drops it."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from math import inf

from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from molmoact_ros.control.action_chunk import still
from molmoact_ros.control.approval import ApprovalMode, PlanGate, RefusedApproval
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.nodes.planning.controller_client import ControllerClient
from molmoact_ros.ros import conversions, qos
from molmoact_ros.srv import ApprovePlan


class ApprovalGate:
    """Publishes action chunks, at once or when they may move the arm.

    Its services run on the executor's thread; call everything else under `lock`, the inference thread's.
    """

    def __init__(
        self, node: Node, link: ControllerClient, lock: threading.RLock, again: Callable[[], None],
        vetoed: Callable[[str], None],
    ) -> None:  # fmt: skip
        """again: called to plan anew, since the pending plan was dropped; vetoed: called with the reason, to end the
        task and hold."""
        self._node, self._link, self._lock, self._again, self._vetoed = node, link, lock, again, vetoed
        self._gate: PlanGate[ActionChunk] = PlanGate()
        self._state_at_show = SafetyStatus.IDLE
        self._released: ActionChunk | None = None
        self._rested = -inf  # stamp at which it was ended, by the images' clock, s
        self._action_chunk = node.create_publisher(ActionChunk, "~/action_chunk", qos.RELIABLE)
        self._pending_chunk = node.create_publisher(ActionChunk, "~/pending_chunk", qos.RELIABLE)
        node.create_service(ApprovePlan, "~/approve_plan", self._on_approve_plan)
        node.create_service(Trigger, "~/approve", self._on_approve)
        node.create_service(Trigger, "~/veto", self._on_veto)

    # Settings

    def set_mode(self, how: str) -> None:
        """Gate in this mode from the next plan on. A pending plan is dropped and made anew: no approval releases it."""
        with self._lock:
            self._gate.how = ApprovalMode(how)
            if self.drop():
                self._again()

    def set_seconds(self, seconds: float) -> None:
        """Show each plan for `seconds`, in the mode in which time releases it."""
        with self._lock:
            self._gate.seconds = float(seconds)

    def clock_set(self) -> None:
        """ROS time was set: stamps from before are invalid."""
        self._gate.clock_set(time.monotonic())
        self._rested = -inf

    # Plans

    def may_plan_on(self, stamp: float) -> bool:
        """False while a plan is pending; where plans have to wait, also for an image of a moving arm, and for one that
        was taken before the last plan was ended; s."""
        return stamp > self._rested and self._gate.may_look(stamp)

    def take_chunk(self, chunk: ActionChunk) -> None:
        """Publish the actions of a new plan, or show them for approval."""
        gate, now = self._gate, time.monotonic()
        if gate.how is ApprovalMode.NEVER:
            gate.moves(now)
            self._publish(chunk)
        elif gate.may_look(conversions.seconds(chunk.header.stamp)):
            gate.show(chunk, chunk.plan_id, now)
            self._state_at_show = self._link.safety.state
            self._pending_chunk.publish(chunk)
        # Else the gate closed during the step, whose image is of a moving arm: the next plan is shown.

    def drop(self) -> bool:
        """Drop the pending plan; False when there is none."""
        return self._gate.drop(time.monotonic()) is not None

    @property
    def shown(self) -> float | None:
        """Stamp of the pending plan's image, s; None when no plan is pending."""
        waiting = self._gate.waiting
        return None if waiting is None else conversions.seconds(waiting.header.stamp)

    def look_after(self) -> None:
        """Ten times a second: drop a pending plan that is no longer valid, and release one that is due."""
        self._drop_if_moved()
        safety, now = self._link.safety, time.monotonic()
        playing = safety.state == SafetyStatus.POLICY and safety.plan_id and safety.progress < 1.0
        made = conversions.seconds(safety.header.stamp)
        # Without a controller, no arm moves.
        heard = (self._link.heard_at, made) if made else (now, conversions.seconds(self._stamp()))
        self._gate.arm(bool(playing) or safety.state == SafetyStatus.TELEOP, *heard)
        if self._gate.due(now):
            self._release()

    def _drop_if_moved(self) -> None:
        """Drop the pending plan when the arm may be elsewhere than in its image."""
        if self._gate.waiting is not None and self._link.safety.state != self._state_at_show:
            self._node.get_logger().warning("the plan that waited is dropped: the controller's state has changed")
            self.drop()
            self._again()

    def _stamp(self):  # type: ignore[no-untyped-def]
        return self._node.get_clock().now().to_msg()

    def _release(self) -> None:
        """Let the pending plan move the arm from now on: the arm stands where it stood in the plan's image.

        This publishes the very chunk that was shown, but for its stamp: a controller that requires approval compares
        them.
        """
        chunk = self._gate.release(time.monotonic())
        chunk.header.stamp = self._stamp()
        self._publish(chunk)

    def _publish(self, chunk: ActionChunk) -> None:
        self._released = chunk
        self._action_chunk.publish(chunk)

    def rest(self) -> None:
        """End the plan in progress, where the arm is now. Needs no approval, since it moves no arm."""
        if self._released is None:
            return
        played, stamp = self._released, self._stamp()
        head = Header(stamp=stamp, frame_id=played.header.frame_id)
        actions = still(conversions.chunk_actions(played))
        self._gate.moves(time.monotonic())  # it brakes
        self._publish(conversions.chunk_message(actions, played.dt, played.unnorm_key, 0, head, stated=played.stated))
        self._rested = conversions.seconds(stamp)

    def write_status(self, status: EngineStatus) -> None:
        """Write the pending plan into the status of a policy that has a task."""
        waiting = self._gate.waiting
        status.pending_plan_id, status.pending_seconds = self._gate.plan_id, self._gate.left(time.monotonic())
        if waiting is not None:
            status.state, status.message = EngineStatus.PENDING, ""
        elif status.state == EngineStatus.PENDING:
            status.state = EngineStatus.RUNNING

    # Operators' services

    def _on_approve_plan(self, request: ApprovePlan.Request, response: ApprovePlan.Response) -> ApprovePlan.Response:
        return self._approve(response, request.plan_id)

    def _on_approve(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """Deprecated: it names no plan."""
        return self._approve(response)

    def _approve(self, response, plan_id: int | None = None):  # type: ignore[no-untyped-def]
        """Release the pending plan, if it is `plan_id`; returns the response with the outcome."""
        try:
            with self._lock:
                self._drop_if_moved()
                self._gate.approve(time.monotonic(), plan_id)
                self._release()
            response.success = True
        except RefusedApproval as refusal:
            response.message = str(refusal)
        return response

    def _on_veto(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """End the task and hold the arm, whether or not a plan is pending: it may just have been released."""
        plan = self._gate.plan_id
        response.success, response.message = True, "" if plan else "no plan waits; the task has ended all the same"
        self._vetoed(f"plan {plan} was vetoed by an operator" if plan else "vetoed by an operator")
        return response
