"""The keyboard of a terminal moves an arm while a key is held."""

from __future__ import annotations

import os
import select
import sys
import termios
import time
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import rclpy

from molmoact_ros.control.teleop_devices import HELP, Keyboard, Speeds
from molmoact_ros.nodes.teleop.client import STATES, TeleopClient, TeleopClientConfig, name_of
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import start_rclpy
from molmoact_ros.utils.child_process import ended_by_signals
from molmoact_ros.utils.errors import one_line

PERIOD: Final = 0.05
"""s between messages to the controller, which takes 0.2 s of silence for a release."""
WIDEST: Final = 200
"""Characters of the controller's reason on the screen."""
GONE: Final = "\x04"
"""End of transmission: the terminal was closed."""


class KeyboardConfig(TeleopClientConfig, Speeds):
    """Parameters of the keyboard node."""


class KeyboardNode(TeleopClient):
    """Reads keys as they are pressed, and publishes the resulting motion every PERIOD."""

    def __init__(self) -> None:
        super().__init__("keyboard")
        self.config = declare(self, KeyboardConfig)
        self.connect(self.config)
        self._keys, self._is_moving = Keyboard(self.config, len(self.config.arms)), False

    def press(self, key: str) -> None:
        """Handle a key press."""
        before = self._keys.arm
        opening = self._keys.press(key, time.monotonic())
        if self._keys.arm != before and self._is_moving:
            self.let_go(before)
        if key == "x":
            self.ask("stop")
        elif key == "c":
            self.ask("resume")
        if opening is not None:
            self.say_gripper(self._keys.arm, opening)

    def speak(self) -> None:
        """Publish what the keys command now; nothing while no operator is present."""
        now = time.monotonic()
        if self._keys.is_present(now):
            self.say_present()
        twist = self._keys.twist(now)
        if twist is not None:
            self.say_twist(self._keys.arm, twist)
        self._is_moving = twist is not None

    def line(self) -> str:
        """The state, for the screen."""
        safety = self.safety
        state = name_of(STATES, safety.state) if safety.header.stamp.sec else "no controller"
        arm = f"{self.config.arms[self._keys.arm].rstrip('_') or 'the'} arm"
        line = f"{arm}, speed x{self._keys.factor:.2f} | {state} {safety.reason[:WIDEST]}"
        return "".join(c if c.isprintable() else "?" for c in line)  # a terminal would execute control characters


@contextmanager
def keys_at_once() -> Iterator[None]:
    """Put the terminal into cbreak mode: each key arrives as it is pressed. The old mode is restored on exit."""
    if not sys.stdin.isatty():
        raise RuntimeError("the keyboard needs a terminal; start it in one, without a pipe")
    kept = termios.tcgetattr(sys.stdin)
    try:
        tty.setcbreak(sys.stdin)
        yield
    finally:
        termios.tcsetattr(sys.stdin, termios.TCSADRAIN, kept)
        print()


def read_keys(seconds: float) -> Iterator[str]:
    """The keys that are pressed within the next `seconds`."""
    end = time.monotonic() + seconds
    while True:
        left = max(0.0, end - time.monotonic())
        if select.select([sys.stdin], [], [], left)[0]:
            read = os.read(sys.stdin.fileno(), 64)  # not sys.stdin, whose buffer select() does not see
            yield from read.decode(errors="ignore") or [GONE]
        if not left:
            return


def main() -> None:
    """Read keys until q or a signal. The exit status is 1, with one line, where there is no terminal."""
    node = None
    try:
        start_rclpy()
        with ended_by_signals():
            node = KeyboardNode()
            with keys_at_once():
                print(HELP)
                _serve(node)
    except KeyboardInterrupt:
        pass
    except (ValueError, RuntimeError, OSError) as error:
        print(f"error: {one_line(error)}", file=sys.stderr, flush=True)
        sys.exit(1)
    finally:
        if node is not None:
            node.destroy_node()
        rclpy.try_shutdown()


def _serve(node: KeyboardNode) -> None:
    shown = ""
    while rclpy.ok():
        for key in read_keys(PERIOD):
            if key in ("q", GONE):
                return
            node.press(key)
        node.speak()
        while rclpy.ok() and _spin(node):
            pass
        if (line := node.line()) != shown:
            shown = line
            print(f"\r\033[K{line}", end="", flush=True)


def _spin(node: KeyboardNode) -> bool:
    """Handle one message, if there is any; whether the state has changed."""
    before = node.safety
    rclpy.spin_once(node, timeout_sec=0.0)
    return node.safety is not before


if __name__ == "__main__":
    main()
