"""The gate before motion at the policy's topics: what waits is shown, and released, vetoed or dropped."""

from __future__ import annotations

import threading
from collections.abc import Callable
from math import inf

from rclpy.node import Node
from std_msgs.msg import Header
from std_srvs.srv import Trigger

from molmoact_ros.control.approval import Approve, Gate, TooSoon
from molmoact_ros.control.chunk_player import still
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.nodes import conversions, qos


class Gatekeeper:
    """Publishes action chunks, at once or when they may move the arm. safety: what the controller said last.

    Its services answer on the executor's thread; all else is called under `lock`, the reasoner's.
    """

    def __init__(
        self, node: Node, lock: threading.RLock, again: Callable[[], None], vetoed: Callable[[str], None]
    ) -> None:
        """again: plan anew, since what waited was dropped; vetoed: end the task and hold, for this reason."""
        self._node, self._lock, self._again, self._vetoed = node, lock, again, vetoed
        self._gate: Gate[ActionChunk] = Gate()
        self._state_at_show = SafetyStatus.IDLE
        self._released: ActionChunk | None = None
        self._rested = -inf  # when it was ended, s
        self.safety = SafetyStatus()
        self._action_chunk = node.create_publisher(ActionChunk, "~/action_chunk", qos.RELIABLE)
        self._pending_chunk = node.create_publisher(ActionChunk, "~/pending_chunk", qos.RELIABLE)
        node.create_service(Trigger, "~/approve", self._on_approve)
        node.create_service(Trigger, "~/veto", self._on_veto)

    def _now(self) -> float:
        return float(self._node.get_clock().now().nanoseconds * 1e-9)

    # What the policy is told to do

    def use(self, how: str) -> None:
        """Gate like this from the next plan on. What waits is dropped, and made again: nobody's word releases it."""
        with self._lock:
            self._gate.how = Approve(how)
            if self.drop():
                self._again()

    def use_seconds(self, seconds: float) -> None:
        """Show each plan for so long, where time releases it."""
        with self._lock:
            self._gate.seconds = float(seconds)

    # Plans

    def may_plan_on(self, stamp: float) -> bool:
        """Not while a plan waits, nor on a picture of an arm that moved, where plans have to wait, nor on one that was
        taken before the last plan was ended; s."""
        return stamp > self._rested and self._gate.may_look(stamp)

    def take(self, chunk: ActionChunk) -> None:
        """The actions of a new plan."""
        gate, now = self._gate, self._now()
        if gate.how is Approve.NEVER:
            gate.moves(now)
            self._publish(chunk)
        elif gate.may_look(conversions.seconds(chunk.header.stamp)):
            gate.show(chunk, now)
            self._state_at_show = self.safety.state
            self._pending_chunk.publish(chunk)
        # Else the gate was closed while the step was made, on a picture of a moving arm: the next one is shown.

    def drop(self) -> bool:
        """Forget the plan that waits; False when none does."""
        return self._gate.drop(self._now()) is not None

    @property
    def shown(self) -> float | None:
        """When the picture of the plan that waits was taken, s; None when none does."""
        waiting = self._gate.waiting
        return None if waiting is None else conversions.seconds(waiting.header.stamp)

    def look_after(self) -> None:
        """Ten times a second: drop what does not hold any more, and release what is due."""
        safety, now = self.safety, self._now()
        if self._gate.waiting is not None and safety.state != self._state_at_show:
            self._node.get_logger().warning("the plan that waited is dropped: the controller's state has changed")
            self.drop()
            self._again()
        playing = safety.state == SafetyStatus.POLICY and safety.plan_id and safety.progress < 1.0
        heard = conversions.seconds(safety.header.stamp) or now  # no controller moves no arm
        self._gate.arm(bool(playing) or safety.state == SafetyStatus.TELEOP, heard)
        if self._gate.due(now):
            self._release()

    def _release(self) -> None:
        """The plan that waits moves the arm from now on: the arm stands where it stood in the plan's picture."""
        chunk = self._gate.release(self._now())
        chunk.header.stamp = self._node.get_clock().now().to_msg()
        self._publish(chunk)

    def _publish(self, chunk: ActionChunk) -> None:
        self._released = chunk
        self._action_chunk.publish(chunk)

    def rest(self) -> None:
        """End the plan that is played, where the arm is now. Needs nobody's approval: it moves no arm."""
        if self._released is None:
            return
        played, stamp = self._released, self._node.get_clock().now().to_msg()
        head = Header(stamp=stamp, frame_id=played.header.frame_id)
        actions = still(conversions.chunk_actions(played))
        self._gate.moves(self._now())  # it brakes
        self._publish(conversions.chunk_message(actions, played.dt, played.unnorm_key, 0, head))
        self._rested = conversions.seconds(stamp)

    def tell(self, status: EngineStatus) -> None:
        """Write what waits into the status of a policy that has something to do."""
        waiting = self._gate.waiting
        status.pending_plan_id = 0 if waiting is None else waiting.plan_id
        status.pending_seconds = self._gate.left(self._now())
        if waiting is not None:
            status.state, status.message = EngineStatus.PENDING, ""
        elif status.state == EngineStatus.PENDING:
            status.state = EngineStatus.RUNNING

    # What people say

    def _on_approve(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        try:
            with self._lock:
                self._gate.approve(self._now())
                self._release()
            response.success = True
        except TooSoon as refusal:
            response.message = str(refusal)
        return response

    def _on_veto(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """The task ends and the arm holds, whether or not a plan waits: it may just have left."""
        plan = self._gate.waiting
        response.success, response.message = True, "" if plan else "no plan waits; the task has ended all the same"
        self._vetoed(f"plan {plan.plan_id} was vetoed by a person" if plan else "vetoed by a person")
        return response
