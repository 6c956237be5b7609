"""The controller as a planner has it: its services `start` and `hold`, and what its SafetyStatus says."""

from __future__ import annotations

import time

from rclpy.node import Node
from rclpy.task import Future
from std_srvs.srv import Trigger

from molmoact_ros.msg import SafetyStatus
from molmoact_ros.ros import qos

PLAYING = (SafetyStatus.POLICY, SafetyStatus.TELEOP)
"""States in which a task goes on."""


class ControllerClient:
    """Never blocks.

    safety: the last SafetyStatus; count: how many have come; heard_at: when the last did, s of the steady clock.
    """

    def __init__(self, node: Node, name: str) -> None:
        """name: of the controller's node; a relative one is in this node's namespace."""
        self._start = node.create_client(Trigger, f"{name}/start")
        self._hold = node.create_client(Trigger, f"{name}/hold")
        # Only the newest: one that waits behind others would tell of a time before the last `start`.
        node.create_subscription(SafetyStatus, f"{name}/safety_status", self._on_safety, qos.SENSOR)
        self.safety, self.count, self.heard_at = SafetyStatus(), 0, 0.0
        self._holding: Future | None = None

    @property
    def name(self) -> str:
        """Of the service `start`."""
        return self._start.service_name

    @property
    def is_there(self) -> bool:
        """Somebody serves `start`."""
        return self._start.service_is_ready()

    @property
    def is_playing(self) -> bool:
        """It moves the arm by plans, or an operator does."""
        return self.safety.state in PLAYING

    @property
    def is_holding(self) -> bool:
        """A `hold` is under way: a `start` beside it could be served first."""
        return self._holding is not None and not self._holding.done()

    def start(self) -> Future:
        """Ask it to play plans; the future has its answer."""
        return self._start.call_async(Trigger.Request())

    def hold(self) -> None:
        """The arm brakes and holds; where nobody serves that, no controller moves an arm."""
        if not self._hold.service_is_ready():
            return
        if self._holding is not None and not self._holding.done():
            self._hold.remove_pending_request(self._holding)  # nobody waits for it any more
        self._holding = self._hold.call_async(Trigger.Request())

    def forget(self) -> None:
        """What it said is of another time: the clock was set."""
        self.safety = SafetyStatus()

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety, self.heard_at = message, time.monotonic()
        self.count += 1
