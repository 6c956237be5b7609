"""The way home, asked for by a command: the arm moves while this process asks, and stops when it ends."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator
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


class HomeSequence:
    """The requests that send a client's arms home, and what the controller says to them.

    The client calls `observe_status` with each SafetyStatus, and resumes `steps` every PERIOD; between two steps it
    handles messages. The arm moves only while that goes on.

    Args:
        client: its arms are sent home; it has called `connect_home`.
        controller: the node's name, for people.
    """

    def __init__(self, client: TeleopClient, controller: str) -> None:
        self._client, self._controller = client, controller
        self._status_at, self._requested_at, self._began = float("-inf"), float("inf"), False
        self._found = float("inf")  # when the controller was first discovered

    @property
    def _safety(self) -> SafetyStatus:
        return self._client.safety

    def observe_status(self, message: SafetyStatus) -> None:
        """Process a SafetyStatus when it arrives."""
        self._status_at = time.monotonic()
        self._began |= message.state == SafetyStatus.TELEOP and message.reason.startswith(Event.HOME.value)

    def steps(self, patience: float, tell: Callable[[str], None]) -> Generator[None, None, str]:
        """Send the arms home; its value is how that ended. Raises RuntimeError, in one line, where they are not home.

        patience: s for the way at most. tell: receives a line for people.
        """
        self._began = False
        if not (yield from self._until(lambda: self._is_controller_alive() and self._client.is_home_found(), FOUND)):
            raise RuntimeError(f"no controller answers at {self._client.stop_topic}; start it first (molmoact-ros up)")
        self._refuse_busy()
        self._found = min(self._found, time.monotonic())
        yield from self._until(lambda: time.monotonic() - self._found > DISCOVERY + 0.5, FOUND)
        for _ in range(TRIES):
            self._refuse_busy()
            tell("the arm moves home; Ctrl-C stops it")
            if (yield from self._request_until(lambda: self._began or self._is_home(), SILENT)):
                return (yield from self._follow(patience))
            yield from self._release()
        raise RuntimeError(f"the arm does not move: {self._state_text()}")

    def _follow(self, patience: float) -> Generator[None, None, str]:
        ended = yield from self._request_until(
            lambda: not (self._is_moving_home() and self._is_controller_alive()), patience
        )
        yield from self._release()
        if not self._is_controller_alive():
            raise RuntimeError("the controller is silent; the arm stops by itself where it hears nobody")
        if not ended:
            raise RuntimeError(f"not home after {patience:g} s; raise --timeout, or home_speed of the controller")
        if not self._is_home():
            raise RuntimeError(f"the arm is not home: {self._state_text()}")
        return str(self._safety.reason)

    def let_go(self) -> None:
        """Let go at once: the arm stops."""
        if self._safety.state == SafetyStatus.TELEOP:
            self._client.let_go_of_all()

    def _release(self) -> Generator[None, None, None]:
        self.let_go()
        yield from self._until(lambda: False, 0.5)

    def _refuse_busy(self) -> None:
        if why := BUSY.get(self._safety.state):
            raise RuntimeError(f"{why.format(node=self._controller)}: {self._safety.reason}")

    def _state_text(self) -> str:
        state = f"{name_of(STATES, self._safety.state)}: {self._safety.reason}"
        return "; ".join([state, *self._safety.warnings])

    def _is_controller_alive(self) -> bool:
        return time.monotonic() - self._status_at < SILENT

    def _is_moving_home(self) -> bool:
        """Whether the arm is on its way, or held because requests of this computer, which is busy, came late."""
        late = self._safety.state == SafetyStatus.HOLD and self._safety.reason == Event.TELEOP_SILENT.value
        return late or self._safety.state == SafetyStatus.TELEOP

    def _is_home(self) -> bool:
        at_home = self._safety.state == SafetyStatus.HOLD and self._safety.reason == Event.HOMED.value
        waits = any("let go" in line for line in self._safety.warnings)
        stands = time.monotonic() - self._requested_at > 1.0 and not waits
        return at_home and (self._began or stands)

    def _request_until(self, happened: Callable[[], bool], patience: float) -> Generator[None, None, bool]:
        """Ask for the way home until `happened`; False when it never did."""
        deadline = time.monotonic() + patience
        self._requested_at = time.monotonic()
        while True:
            self._client.say_home_to_all()
            yield
            if happened():
                return True
            if time.monotonic() > deadline:
                return False

    def _until(self, happened: Callable[[], bool], patience: float) -> Generator[None, None, bool]:
        """Wait until `happened`; False when it never did."""
        deadline = time.monotonic() + patience
        while not happened():
            if time.monotonic() > deadline:
                return False
            yield
        return True


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
        self._home = HomeSequence(self, config.controller)
        self.connect(config)
        self.connect_home()

    def _on_safety(self, message: SafetyStatus) -> None:
        super()._on_safety(message)
        self._home.observe_status(message)

    def run(self, patience: float, tell: Callable[[str], None]) -> str:
        """Send the arms home, and return how that ended. Raises RuntimeError, in one line, where they are not home.

        patience: s for the way at most. tell: receives a line for people.
        """
        steps = self._home.steps(patience, tell)
        while rclpy.ok():
            try:
                next(steps)
            except StopIteration as ended:
                return str(ended.value)
            self._handle_messages(PERIOD)
        raise RuntimeError("the arm is not home: ROS was shut down meanwhile")

    def release(self) -> None:
        """Let go: the arm stops."""
        self._home.let_go()
        self._handle_messages(0.5)

    def _handle_messages(self, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while (left := deadline - time.monotonic()) > 0 and rclpy.ok():
            rclpy.spin_once(self, timeout_sec=left)
