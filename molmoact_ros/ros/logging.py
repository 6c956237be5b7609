"""Log lines of threads that must not wait.

rclpy writes a line while it holds Python's lock (Jazzy's 7.1): where nobody reads stderr, a pipe that is full stops
every thread of the process, whichever of them logs. So what drives an arm lets its output be lost instead
(`never_wait`), and its control loop writes none itself (`ThreadedLog`).
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
"""s between looks at what there is to log."""
REPEATED: Final = 1.0
"""s for which the same line is not logged again, whatever numbers are in it."""
NUMBER: Final = re.compile(r"[-+]?\d[\d.e+-]*")
LONGEST: Final = 50
"""Lines that wait; more than these are lost."""


def never_wait() -> None:
    """Lose what is written to stdout and stderr while nobody reads it, instead of waiting for a reader.

    A pipe or a terminal is opened once more for this process alone, since the flag belongs to whoever shares it; a file
    never waits, and stays as it is.
    """
    for descriptor in (1, 2):
        with suppress(OSError):
            kind = os.fstat(descriptor).st_mode
            if stat.S_ISFIFO(kind) or stat.S_ISCHR(kind):
                own = os.open(f"/proc/self/fd/{descriptor}", os.O_WRONLY | os.O_NONBLOCK | os.O_NOCTTY)
                os.dup2(own, descriptor)
                os.close(own)
            elif stat.S_ISSOCK(kind):  # cannot be opened once more
                os.set_blocking(descriptor, False)


class ThreadedLog:
    """Lines that any thread may add without waiting; a timer of `node` logs them."""

    def __init__(self, node: Node) -> None:
        self._log = node.get_logger()
        self._lines: deque[tuple[LoggingSeverity, str]] = deque(maxlen=LONGEST)
        self._logged: dict[str, float] = {}  # when, s
        node.create_timer(EVERY, self._write, clock=STEADY)

    def note(self, text: str, severity: LoggingSeverity = LoggingSeverity.ERROR) -> None:
        """Have a line logged soon."""
        self._lines.append((severity, text))

    def _write(self) -> None:
        now = time.monotonic()
        self._logged = {text: when for text, when in self._logged.items() if now - when < REPEATED}
        while self._lines:
            severity, text = self._lines.popleft()
            kind = NUMBER.sub("#", text)
            if kind not in self._logged:
                self._logged[kind] = now
                # A line of its own for each: rclpy refuses two severities from one.
                if severity is LoggingSeverity.ERROR:
                    self._log.error(text)
                elif severity is LoggingSeverity.WARN:
                    self._log.warning(text)
                else:
                    self._log.info(text)
