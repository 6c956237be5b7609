"""`~/edit_trace`, a topic and a service: an operator's drawing is validated and followed, or refused with a reason."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node

from molmoact_ros.msg import Trace
from molmoact_ros.nodes.planning.approval_gate import ApprovalGate
from molmoact_ros.nodes.planning.engine_status import EngineStatusPublisher
from molmoact_ros.nodes.planning.inference_thread import InferenceThread
from molmoact_ros.nodes.planning.operator_trace import OperatorTrace
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.ros import qos
from molmoact_ros.srv import EditTrace


class TraceInput:
    """Callbacks run on the executor's thread, and change the plan under the inference thread's lock."""

    def __init__(
        self,
        node: Node,
        drawings: OperatorTrace,
        reasoner: InferenceThread,
        gate: ApprovalGate,
        report: EngineStatusPublisher,
    ) -> None:
        self._log, self._drawings, self._reasoner = node.get_logger(), drawings, reasoner
        self._gate, self._report = gate, report
        node.create_subscription(Trace, "~/edit_trace", self._on_trace, qos.RELIABLE)
        node.create_service(EditTrace, "~/edit_trace", self._on_edit_trace)

    def check(self, message: Trace) -> np.ndarray:
        """The trace of a drawing that may be followed now, int64 [n, 2] in 0..255. Raises RefusedStep."""
        return self._drawings.check(message, self._gate.shown)

    def plan_again(self) -> None:
        """Drop the step in progress and the plan that waits for approval: both follow an outdated trace."""
        self._gate.drop()
        self._reasoner.again()

    def _on_trace(self, message: Trace) -> None:
        try:
            self._draw(message)
        except RefusedStep as refusal:
            self._log.warning(f"drawing refused: {refusal}")
            with self._reasoner.lock:
                self._drawings.refuse(str(refusal))
            self._report.publish()

    def _on_edit_trace(self, request: EditTrace.Request, response: EditTrace.Response) -> EditTrace.Response:
        try:
            if request.clear:
                self._clear()
            else:
                self._draw(request.trace)
            response.success = True
        except RefusedStep as refusal:
            response.message = str(refusal)
        return response

    def _draw(self, message: Trace) -> None:
        with self._reasoner.lock:
            if self._reasoner.task is None:
                raise RefusedStep("there is no instruction to steer; give one first")
            self._drawings.take_trace(self.check(message), message)
            self.plan_again()
        self._report.publish()

    def _clear(self) -> None:
        with self._reasoner.lock:
            if self._drawings.end("cleared"):
                self.plan_again()
        self._report.publish()
