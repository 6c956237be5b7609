"""A thread that calls a function at a fixed rate, by absolute deadlines, independent of the executor."""

from __future__ import annotations

import gc
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Final

import numpy as np

SPAN: Final = 10.0
"""Window over which jitter is reported, s."""


class Timing:
    """Jitter of the last cycles' periods. Call `tick` in each cycle."""

    def __init__(self, period: float) -> None:
        self._period, self._last = period, float("nan")
        self._periods: deque[float] = deque(maxlen=round(SPAN / period))

    def tick(self) -> None:
        """Record that a cycle runs now."""
        now = time.monotonic()
        if now - self._last < 100 * self._period:  # false for the first cycle, whose predecessor is nan
            self._periods.append(now - self._last)
        self._last = now

    def jitter_ms(self) -> dict[str, float]:
        """Absolute deviation of the periods from the nominal one, ms: p50, p99 and max; nan before there are any."""
        off = np.abs(np.array(self._periods) - self._period) * 1e3
        if not len(off):
            return dict.fromkeys(("p50", "p99", "max"), float("nan"))
        return {"p50": float(np.median(off)), "p99": float(np.percentile(off, 99)), "max": float(off.max())}


class Loop:
    """Runs `cycle(late)` every `period` s, late: s after its deadline. Missed cycles are not made up for."""

    def __init__(self, cycle: Callable[[float], None], period: float, priority: int) -> None:
        """priority: of SCHED_FIFO, 1..99; with 0, or without permission, the thread keeps the default policy."""
        self._cycle, self._period, self._priority = cycle, period, priority
        self.real_time = False
        self._running = threading.Event()
        self._thread = threading.Thread(target=self._run, name="control", daemon=True)

    def start(self) -> None:
        """Start the thread. Freezes existing objects out of garbage collection, which would stall it for tens of ms."""
        gc.collect()
        gc.freeze()
        self._running.set()
        self._thread.start()

    def stop(self) -> None:
        """End the thread after the current cycle."""
        self._running.clear()
        self._thread.join()

    def _run(self) -> None:
        self.real_time = real_time(self._priority)
        due = time.monotonic()
        while self._running.is_set():
            due += self._period
            left = due - time.monotonic()
            if left > 0:
                time.sleep(left)
            late = max(0.0, time.monotonic() - due)
            due += self._period * (late // self._period)
            self._cycle(late)


def real_time(priority: int, threads: Iterable[int] = (0,)) -> bool:
    """Give threads, and those they will start, real-time priority; False where that is not permitted.

    priority: of SCHED_FIFO, 1..99; 0 changes nothing and returns False too. threads: ids; 0 is the calling thread.
    """
    if priority <= 0:
        return False
    try:
        for thread in threads:
            with suppress(ProcessLookupError):  # it has ended meanwhile
                os.sched_setscheduler(thread, os.SCHED_FIFO, os.sched_param(priority))
    except OSError:
        return False
    return True


def own_threads() -> list[int]:
    """Ids of this process' threads, including those of the middleware and of libraries."""
    return [int(task.name) for task in Path("/proc/self/task").iterdir()]
