"""Turns of tests that run in several processes at once: what needs the machine for itself waits for the others.

A test of live nodes keeps real time, and holds the arm where it cannot: right in a lab, and a failed test on two cores
that another test keeps busy. Those that need most have the mark `alone`.
"""

from __future__ import annotations

import fcntl
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def turn(alone: bool) -> Iterator[None]:
    """Wait until this process may run a test, and keep others from running one meanwhile if it is `alone`.

    Who waits to be alone stands in the door, so that no other test begins before it.
    """
    run = os.environ.get("PYTEST_XDIST_TESTRUNUID")
    if run is None:
        yield
        return
    at = Path(tempfile.gettempdir()) / f"molmoact-tests-{run}"
    with at.with_suffix(".door").open("w") as door, at.with_suffix(".room").open("w") as room:
        fcntl.flock(door, fcntl.LOCK_EX)
        fcntl.flock(room, fcntl.LOCK_EX if alone else fcntl.LOCK_SH)
        fcntl.flock(door, fcntl.LOCK_UN)
        yield
