"""Child processes: each ends with its parent, however that ends, and none outlives a signal that ends the parent.

As a program, `python -m molmoact_ros.utils.child_process COMMAND...` becomes COMMAND, tied to its parent in the same
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
"""What ends a node or a command: Ctrl-C, `kill` or a service manager, and a terminal or a connection that is gone."""
PATIENCE: Final = 5.0
"""s that a child has for braking and ending before it is killed."""
AGAIN: Final = 10.0
"""s after which another signal interrupts an end that was begun."""
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class Ended(KeyboardInterrupt):
    """A signal ends the command. number: which."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


@contextmanager
def ended_by_signals() -> Iterator[None]:
    """Within, each of ENDING raises Ended in the main thread, so that `with` blocks end what they began.

    One alone: those that come within AGAIN seconds change nothing, as ending has begun. SIGINT stays ignored where it
    was, as it is for a shell's background jobs; SIGHUP does not. On other threads than the main one, nothing changes.
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

    It is sent SIGTERM when the thread that started it ends, even by SIGKILL. It ignores none of ENDING at first,
    whatever this process ignores. What a terminal sends reaches it through this process alone, except with `terminal`,
    for children that read from it.
    """
    parent = os.getpid()
    return subprocess.Popen(
        list(command), start_new_session=not terminal, preexec_fn=lambda: _tie(parent), **options
    )  # fmt: skip


def end(children: Sequence[subprocess.Popen[Any]], patience: float = PATIENCE) -> None:
    """End children that `start` has started: SIGTERM, and SIGKILL for those that have not ended after `patience` s."""
    running = [child for child in children if child.poll() is None]
    for child in running:
        child.send_signal(signal.SIGTERM)
    try:
        _reap(running, patience)
    except BaseException:  # a signal, which must not leave any of them
        _reap(running, patience)
        raise


def run(command: Sequence[str], patience: float = PATIENCE, terminal: bool = False, **options: Any) -> int:
    """Run one child in the foreground until it ends; its exit status, as a shell would tell it.

    Where a signal ends this process (`ended_by_signals`), the child is ended first; status 0 if it did so in order.
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
    """In a child of the process `parent`: be sent SIGTERM when the parent's thread that started it ends."""
    _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent:  # it has ended already
        os.kill(os.getpid(), signal.SIGTERM)


def _tie(parent: int) -> None:
    """In the child, before its program begins. A real-time priority of the parent's is not its own."""
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
    """SIGKILL, for a leader of a process group to all in it: what it has started would be left over."""
    with suppress(ProcessLookupError):
        if os.getpgid(child.pid) == child.pid:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


if __name__ == "__main__":
    _tie(os.getppid())
    os.execvp(sys.argv[1], sys.argv[1:])
