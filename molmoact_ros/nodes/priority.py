"""Who comes first where processes want the same core: the arm, then the model, then what only shows or keeps."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path
from typing import Final

BACK: Final = 10
"""Steps of niceness: a tenth of what others get where all want more than there is, so that nothing is starved."""


def real_time(priority: int) -> bool:
    """Put the calling thread, and those it will start, before all others; False where that is not allowed."""
    if priority <= 0:
        return False
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(priority))
    except (PermissionError, OSError):
        return False
    return True


def stand_back() -> None:
    """Put the calling thread, and those it will start, behind others: it takes a small share and interrupts nobody.

    Call it first in a process, before the middleware starts its threads. Where the kernel shares the cores out among
    sessions first (autogroup), niceness only counts within one: so the session of a process that has one to itself, as
    those of a profile have, stands back too.
    """
    os.setpriority(os.PRIO_PROCESS, 0, max(BACK, os.getpriority(os.PRIO_PROCESS, 0)))
    os.sched_setscheduler(0, os.SCHED_BATCH, os.sched_param(0))
    if os.getsid(0) == os.getpid():
        with suppress(OSError):  # a kernel without
            Path("/proc/self/autogroup").write_text(str(BACK))
