"""What may block, in a thread of its own: log lines and small files. Whoever hands something over never waits."""

from __future__ import annotations

import contextlib
import queue
import threading
import time
from collections.abc import Callable
from typing import Any, Final

BACKLOG: Final = 1000
"""Tasks that wait, at most; later ones are dropped, since a pipe that nobody reads must not fill the memory."""
FAREWELL: Final = 0.5
"""s that the end of the process waits for what is left."""


class Worker:
    """A queue and a thread. The control loop logs through it: a full pipe behind stderr must not stop an arm's loop."""

    def __init__(self, logger: Any) -> None:
        """logger: rclpy's, of the node."""
        self._logger = logger
        self._tasks: queue.Queue[Callable[[], None]] = queue.Queue(BACKLOG)
        self._said: dict[str, float] = {}
        threading.Thread(target=self._run, name="worker", daemon=True).start()

    def do(self, task: Callable[[], None]) -> None:
        """Have it done soon, in the order of calls."""
        with contextlib.suppress(queue.Full):
            self._tasks.put_nowait(task)

    def say(self, severity: str, text: str, every: float = 0.0) -> None:
        """Log a line. severity: info, warning or error; every: s within which lines of one beginning are said once."""
        now, what = time.monotonic(), severity + text[:24]
        if now - self._said.get(what, -every) < every:
            return
        self._said[what] = now
        self.do(lambda: getattr(self._logger, severity)(text))

    def close(self) -> None:
        """Let what waits be done, for a short while."""
        done = threading.Event()
        self.do(done.set)
        done.wait(FAREWELL)

    def _run(self) -> None:
        while True:
            self._tasks.get()()
