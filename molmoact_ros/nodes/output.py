"""stdout and stderr that never block their process.

rclpy's loggers write while they hold Python's lock, so a pipe that nobody reads would halt every thread of a node, the
one that drives an arm among them.
"""

from __future__ import annotations

import atexit
import os
import threading
from typing import Final

PATIENCE: Final = 0.5
"""s that the end of the process waits until what was written has been passed on."""
CHUNK: Final = 65536


def unblock_output() -> None:
    """From now on both go through pipes of our own, and on by threads; what does not fit in a pipe is lost."""
    for descriptor in (1, 2):
        _Pump(descriptor)


class _Pump:
    def __init__(self, descriptor: int) -> None:
        self._out = os.dup(descriptor)
        self._in, write = os.pipe()
        os.set_blocking(write, False)  # of our own pipe: a terminal's description is shared with the shell
        os.dup2(write, descriptor)
        os.close(write)
        self._descriptor = descriptor
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)
        self._thread.start()
        atexit.register(self._close)

    def _run(self) -> None:
        while data := os.read(self._in, CHUNK):
            try:
                while data:
                    data = data[os.write(self._out, data) :]
            except OSError:
                return  # nobody listens any more

    def _close(self) -> None:
        os.dup2(self._out, self._descriptor)  # which closes the pipe's only writer
        self._thread.join(PATIENCE)
