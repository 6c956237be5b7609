"""Logging from threads that must not block.

rclpy writes a log line while it holds the GIL (Jazzy's 7.1): where nobody reads stderr, a full pipe blocks every thread
of the process, whichever of them logs. So a process that drives an arm drops its output instead (`never_wait`), and its
control loop writes no line itself (`ThreadedLog`).
"""

from __future__ import annotations

import os
import re
import stat
import time
from collections import deque
from contextlib import suppress
from typing import Final

from rclpy.logging import LoggingSeverity
from rclpy.node import Node

from molmoact_ros.ros.clocks import STEADY

EVERY: Final = 0.1
"""s between two passes over the queued lines."""
REPEATED: Final = 1.0
"""s for which the same line is not logged again, whatever numbers it contains."""
NUMBER: Final = re.compile(r"[-+]?\d[\d.e+-]*")
LONGEST: Final = 50
"""Size of the queue, lines; further ones are dropped."""


def never_wait() -> None:
    """Make stdout and stderr non-blocking: what nobody reads is dropped.

    A pipe or a terminal is reopened for this process alone, since O_NONBLOCK belongs to everyone who shares the open
    file. A regular file never blocks, and stays as it is.
    """
    for descriptor in (1, 2):
        with suppress(OSError):
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
                own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                os.dup2(own, descriptor)
                os.close(own)
            elif stat.S_ISSOCK(kind):  # cannot be reopened
                os.set_blocking(descriptor, False)


class ThreadedLog:
    """A queue of log lines that any thread may fill without blocking; a timer of `node` logs them."""

    def __init__(self, node: Node) -> None:
        self._log = node.get_logger()
        self._lines: deque[tuple[LoggingSeverity, str]] = deque(maxlen=LONGEST)
        self._logged: dict[str, float] = {}  # when each line was logged last, s
        node.create_timer(EVERY, self._write, clock=STEADY)

    def note(self, text: str, severity: LoggingSeverity = LoggingSeverity.ERROR) -> None:
        """Queue a line for logging."""
        self._lines.append((severity, text))

    def _write(self) -> None:
        now = time.monotonic()
        self._logged = {text: when for text, when in self._logged.items() if now - when < REPEATED}
        while self._lines:
            severity, text = self._lines.popleft()
            kind = NUMBER.sub("#", text)
            if kind not in self._logged:
                self._logged[kind] = now
                # Each severity has a source line of its own: rclpy refuses two severities from one.
                if severity is LoggingSeverity.ERROR:
                    self._log.error(text)
                elif severity is LoggingSeverity.WARN:
                    self._log.warning(text)
                else:
                    self._log.info(text)
