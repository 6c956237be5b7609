"""The way home, asked for from a terminal: the arm moves while this process asks, and stops when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Final

import rclpy

from molmoact_ros.control.supervisor import Event
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes.control.teleop_inputs import DISCOVERY
from molmoact_ros.nodes.teleop.client import STATES, TeleopClient, TeleopClientConfig, name_of

PERIOD: Final = 0.05
"""s between two requests; the controller takes 0.2 s of silence for letting go."""
FOUND: Final = 10.0
"""s to discover the controller."""
SILENT: Final = 2.0
"""s without a status after which the controller counts as gone, and without motion after which it has refused."""
TRIES: Final = 3
"""Requests that the controller may not follow: it follows no stream of a node that it has just discovered."""
BUSY: Final = {
    SafetyStatus.POLICY: "the policy moves the arm; hold it first (Hold in the panel, or {node}/hold)",
    SafetyStatus.TELEOP: "somebody moves the arm already; wait until they have let go",
    SafetyStatus.STOPPED: "the arm is stopped; look why, then reset it (Reset in the panel, or {node}/resume)",
}
"""States from which the arm is not sent home, and what to do."""


class HomeClient(TeleopClient):
    """Sends the arms home. `run` is called from the thread that owns this node.

    Args:
        config: the controller's name, and the arms.

    Example:
        client = HomeClient(TeleopClientConfig())
        try:
            print(client.run(120.0, print))
        finally:
            client.release()
    """

    def __init__(self, config: TeleopClientConfig) -> None:
        super().__init__("home")
        self.connect(config)
        self.connect_home()
        self._controller, self._status_at, self._began = config.controller, float("-inf"), False
        self._requested_at = float("inf")  # when the present request began

    def _on_safety(self, message: SafetyStatus) -> None:
        super()._on_safety(message)
        self._status_at = time.monotonic()
        self._began |= message.state == SafetyStatus.TELEOP and message.reason.startswith(Event.HOME.value)

    def run(self, patience: float, tell: Callable[[str], None]) -> str:
        """Send the arms home, and return how that ended. Raises RuntimeError, in one line, where they are not home.

        patience: s for the way at most. tell: receives a line for people.
        """
        if not self._until(lambda: self._is_controller_alive() and self._is_found(), FOUND):
            raise RuntimeError(f"no controller answers at {self._stop.topic_name}; start it first (molmoact-ros up)")
        self._refuse_busy()
        self._until(lambda: False, DISCOVERY + 0.5)
        for _ in range(TRIES):
            self._refuse_busy()
            tell("the arm moves home; Ctrl-C stops it")
            if self._request_until(lambda: self._began or self._is_home(), SILENT):
                return self._follow(patience)
            self.release()
        raise RuntimeError(f"the arm does not move: {self._state_text()}")

    def _follow(self, patience: float) -> str:
        ended = self._request_until(lambda: not (self._is_moving_home() and self._is_controller_alive()), patience)
        self.release()
        if not self._is_controller_alive():
            raise RuntimeError("the controller is silent; the arm stops by itself where it hears nobody")
        if not ended:
            raise RuntimeError(f"not home after {patience:g} s; raise --timeout, or home_speed of the controller")
        if not self._is_home():
            raise RuntimeError(f"the arm is not home: {self._state_text()}")
        return self.safety.reason

    def release(self) -> None:
        """Let go: the arm stops."""
        if self.safety.state == SafetyStatus.TELEOP:
            for number in range(len(self._arms)):
                self.let_go(number)
        self._until(lambda: False, 0.5)

    def _refuse_busy(self) -> None:
        if why := BUSY.get(self.safety.state):
            raise RuntimeError(f"{why.format(node=self._controller)}: {self.safety.reason}")

    def _state_text(self) -> str:
        state = f"{name_of(STATES, self.safety.state)}: {self.safety.reason}"
        return "; ".join([state, *self.safety.warnings])

    def _is_controller_alive(self) -> bool:
        return time.monotonic() - self._status_at < SILENT

    def _is_found(self) -> bool:
        return all(home.get_subscription_count() for home in self._homes)

    def _is_moving_home(self) -> bool:
        """Whether the arm is on its way, or held because requests of this computer, which is busy, came late."""
        late = self.safety.state == SafetyStatus.HOLD and self.safety.reason == Event.TELEOP_SILENT.value
        return late or self.safety.state == SafetyStatus.TELEOP

    def _is_home(self) -> bool:
        at_home = self.safety.state == SafetyStatus.HOLD and self.safety.reason == Event.HOMED.value
        waits = any("let go" in line for line in self.safety.warnings)
        return at_home and (self._began or (time.monotonic() - self._requested_at > 1.0 and not waits))

    def _request_until(self, happened: Callable[[], bool], patience: float) -> bool:
        """Ask for the way home until `happened`; False when it never did."""
        deadline = time.monotonic() + patience
        self._requested_at = time.monotonic()
        while True:
            for number in range(len(self._arms)):
                self.say_home(number)
            if self._until(happened, PERIOD):
                return True
            if time.monotonic() > deadline:
                return False

    def _until(self, happened: Callable[[], bool], patience: float) -> bool:
        """Handle messages until `happened`; False when it never did."""
        deadline = time.monotonic() + patience
        while not happened():
            left = deadline - time.monotonic()
            if left <= 0 or not rclpy.ok():
                return False
            rclpy.spin_once(self, timeout_sec=left)
        return True
