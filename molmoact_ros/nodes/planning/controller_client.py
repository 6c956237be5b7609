"""A planner's client of the controller: its services `start` and `hold`, and its SafetyStatus."""

from __future__ import annotations

import time

from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from molmoact_ros.msg import SafetyStatus
from molmoact_ros.ros import qos

PLAYING = (SafetyStatus.POLICY, SafetyStatus.TELEOP)
"""States in which a task continues."""


class ControllerClient:
    """A non-blocking client of the controller.

    safety: the last SafetyStatus; count: how many were received; heard_at: when the last was, s of the steady clock.
    """

    def __init__(self, node: Node, name: str) -> None:
        """name: of the controller's node; a relative one is in this node's namespace."""
        self._start = node.create_client(Trigger, f"{name}/start")
        self._hold = node.create_client(Trigger, f"{name}/hold")
        # Only the newest: one that waits behind others would report a time before the last `start`.
        node.create_subscription(SafetyStatus, f"{name}/safety_status", self._on_safety, qos.SENSOR)
        self.safety, self.count, self.heard_at = SafetyStatus(), 0, 0.0
        self._holding: Future | None = None

    @property
    def name(self) -> str:
        """Name of the service `start`."""
        return self._start.service_name

    @property
    def is_there(self) -> bool:
        """Whether a node serves `start`."""
        return self._start.service_is_ready()

    @property
    def is_playing(self) -> bool:
        """Whether the controller plays plans, or an operator moves the arm."""
        return self.safety.state in PLAYING

    @property
    def is_holding(self) -> bool:
        """Whether a call of `hold` is in progress: a concurrent `start` could be served first."""
        return self._holding is not None and not self._holding.done()

    def start(self) -> Future:
        """Call `start`, so that the controller plays plans; returns the future of its response."""
        return self._start.call_async(Trigger.Request())

    def hold(self) -> None:
        """Call `hold`: the arm brakes and holds. Where no node serves it, no controller moves an arm."""
        if not self._hold.service_is_ready():
            return
        if self._holding is not None and not self._holding.done():
            self._hold.remove_pending_request(self._holding)  # its caller has given it up
        self._holding = self._hold.call_async(Trigger.Request())

    def forget(self) -> None:
        """Forget the last status: the clock was set, so its stamp is invalid."""
        self.safety = SafetyStatus()

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety, self.heard_at = message, time.monotonic()
        self.count += 1
