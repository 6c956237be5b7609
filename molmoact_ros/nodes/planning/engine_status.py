"""EngineStatus, the policy's heartbeat, and its status in /diagnostics."""

from __future__ import annotations

import threading
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node

from molmoact_ros.msg import EngineStatus
from molmoact_ros.nodes.planning.approval_gate import ApprovalGate
from molmoact_ros.nodes.planning.inference_thread import InferenceThread, ReasonedPlan
from molmoact_ros.nodes.planning.operator_trace import OperatorTrace
from molmoact_ros.ros import qos
from molmoact_ros.ros.diagnostics import status
from molmoact_ros.ros.publishers import crowded


class EngineStatusPublisher:
    """Publishes EngineStatus; any thread may report to it."""

    def __init__(
        self, node: Node, checkpoint: str, reasoner: InferenceThread, drawings: OperatorTrace, gate: ApprovalGate,
        alone: Sequence[str],
    ) -> None:  # fmt: skip
        """alone: topics on which only one node should publish."""
        self._node, self._reasoner, self._drawings, self._gate = node, reasoner, drawings, gate
        self._engine_status = node.create_publisher(EngineStatus, "~/engine_status", qos.STATE)
        self._diagnostics = node.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        mine = [node.resolve_topic_name(f"~/{topic}") for topic in ("engine_status", "action_chunk")]
        self._alone = (*mine, *alone)
        self._status, self._lock = EngineStatus(checkpoint=checkpoint), threading.Lock()
        self._message = ""  # why the policy does not continue
        self._plan_note = ""  # what of the last plan cannot be shown
        self._note = ""  # what needs attention although the policy continues

    def take_plan(self, plan: ReasonedPlan, note: str = "") -> None:
        """Record a complete plan. note: what of it cannot be shown, one line, published while it waits for approval."""
        now = self._node.get_clock().now().nanoseconds * 1e-9
        with self._lock:
            self._status.plan_id, self._status.step_seconds = plan.plan_id, plan.seconds
            self._plan_note = note
            self._status.observation_age = now - plan.observation.stamp
            stages, counts = plan.timings.stages, plan.timings.counts
            self._status.stages, self._status.stage_seconds = list(stages), list(stages.values())
            self._status.mode = plan.timings.mode.value
            self._status.tokens, self._status.passes = counts.tokens, counts.passes
        self.report(EngineStatus.RUNNING, "")

    def report(self, state: int, message: str) -> None:
        """Set the state from now on; message: one line for the operator, empty when all is well."""
        with self._lock:
            if message and message != self._message:
                self._node.get_logger().warning(message)
            self._status.state, self._message = state, message
        self.publish()

    def clear(self) -> bool:
        """End a fault, since a new request arrived; False when there is none."""
        with self._lock:
            failed = self._status.state == EngineStatus.FAULT
        if failed:
            self.report(EngineStatus.IDLE, "")
        return bool(failed)

    def publish(self) -> None:
        """Publish the status: ten times a second, and whenever it has changed."""
        with self._reasoner.lock, self._lock:
            task, told = self._reasoner.task, self._status
            told.header.stamp = self._node.get_clock().now().to_msg()
            told.instruction, told.message = task.instruction if task else "", self._message
            told.camera_age = self._reasoner.camera_age()
            self._drawings.write_status(told)
            self._gate.write_status(told)
            if task is None and told.state != EngineStatus.FAULT:
                told.state, told.message, self._message = EngineStatus.IDLE, "", ""
            if told.state == EngineStatus.PENDING:
                told.message = self._plan_note
            told.message = told.message or self._note
            self._engine_status.publish(told)

    def diagnose(self, joints: Sequence[str]) -> None:
        """Once a second: who else publishes, how many frames arrived, and what became of them.

        joints: what is wrong with the joint states, one line each.
        """
        note = "; ".join([*crowded(self._node, self._alone), *joints])
        with self._lock:
            if note and note != self._note:
                self._node.get_logger().warning(note)
            self._note = note
            waiting, why = self._status.state == EngineStatus.WAITING, self._message
        name, frames = f"{self._node.get_name()}: observation", self._reasoner.frames_report()
        warn, line = waiting or bool(note), (why if waiting else note) or "fine"
        report = DiagnosticArray(status=[status(name, warn, line, frames, "cameras")])
        report.header.stamp = self._node.get_clock().now().to_msg()
        self._diagnostics.publish(report)
