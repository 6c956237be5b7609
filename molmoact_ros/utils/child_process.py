"""Child processes that end with their parent, however it ends; none outlives a signal that ends the parent.

Run as a program, `python -m molmoact_ros.utils.child_process COMMAND...` execs COMMAND, tied to its parent in the same
way.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from types import FrameType
from typing import Any, Final

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""Signals that end a node or a command: Ctrl-C, `kill` or a service manager, a closed terminal or lost connection."""
PATIENCE: Final = 5.0
"""Grace period for a child to stop the robot and exit before it is killed, s."""
AGAIN: Final = 10.0
"""Time after which another signal interrupts a shutdown in progress, s."""
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class Ended(KeyboardInterrupt):
    """Raised when a signal ends the command. number: the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Context in which each signal of ENDING raises Ended in the main thread, so that `with` blocks clean up.

    Further signals within AGAIN seconds are ignored, since the shutdown is in progress. SIGINT stays ignored if it was
    ignored before, as for a shell's background jobs; SIGHUP does not. Outside the main thread, nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    last = -float("inf")

    def end(number: int, _: FrameType | None) -> None:
        nonlocal last
        if time.monotonic() - last > AGAIN:
            last = time.monotonic()
            raise Ended(number)

    before = {number: signal.getsignal(number) for number in ENDING}
    for number, handler in before.items():
        if number != signal.SIGINT or handler != signal.SIG_IGN:
            signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def start(command: Sequence[str], terminal: bool = False, **options: Any) -> subprocess.Popen[Any]:
    """Start a child process; `options` are those of `subprocess.Popen`.

    The child receives SIGTERM when the thread that started it ends, even by SIGKILL. It starts with none of ENDING
    ignored, whatever this process ignores. It runs in a new session, so a terminal's signals reach it only through this
    process; with `terminal`, it stays in this session and can read from the terminal.
    """
    parent = os.getpid()
    return subprocess.Popen(
        list(command), start_new_session=not terminal, preexec_fn=lambda: _tie(parent), **options
    )  # fmt: skip


def end(children: Sequence[subprocess.Popen[Any]], patience: float = PATIENCE) -> None:
    """End children started by `start`: SIGTERM, and SIGKILL for those still running after `patience` s."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.send_signal(signal.SIGTERM)
    try:
        _reap(running, patience)
    except BaseException:  # a signal must not leave any child behind
        _reap(running, patience)
        raise


def run(command: Sequence[str], patience: float = PATIENCE, terminal: bool = False, **options: Any) -> int:
    """Run one child in the foreground until it ends; return its exit status, as a shell reports it.

    If a signal ends this process (`ended_by_signals`), the child is ended first; the status is 0 if SIGTERM ended it.
    """
    child = start(command, terminal, **options)
    try:
        status = child.wait()
    except KeyboardInterrupt:
        end([child], patience)
        status = 0 if child.returncode == -signal.SIGTERM else child.returncode
    except BaseException:
        end([child], patience)
        raise
    return status if status >= 0 else 128 - status


def die_with_parent(parent: int) -> None:
    """Called in a child of the process `parent`: receive SIGTERM when the parent's thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # the parent has ended already
        os.kill(os.getpid(), signal.SIGTERM)


def _tie(parent: int) -> None:
    """Called in the child before exec. It also resets a real-time priority inherited from the parent."""
    with suppress(PermissionError):
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    for number in ENDING:
        signal.signal(number, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, ENDING)
    die_with_parent(parent)


def _reap(running: Sequence[subprocess.Popen[Any]], patience: float) -> None:
    deadline = time.monotonic() + patience
    for child in running:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(child)
            child.wait()


def _kill(child: subprocess.Popen[Any]) -> None:
    """Send SIGKILL; for a process-group leader, to the whole group, so that its children are not left behind."""
    with suppress(ProcessLookupError):
        if os.getpgid(child.pid) == child.pid:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


if __name__ == "__main__":
    _tie(os.getppid())
    os.execvp(sys.argv[1], sys.argv[1:])
