"""Child processes that end with their parent, however it ends; none outlives a signal that ends the parent.

Run as a program, `python -m molmoact_ros.utils.child_process COMMAND...` execs COMMAND, tied to its parent in the same
way.
"""

from __future__ import annotations

import ctypes
import math
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
POLL: Final = 0.02
"""Time between looks whether a child has ended, s."""
_PR_SET_PDEATHSIG: Final = 1  # prctl(2)
_libc = ctypes.CDLL(None)


class Ended(KeyboardInterrupt):
    """Raised when a signal ends the command. number: the signal's number."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number


class _Deferral:
    """How many blocks of `uninterrupted` the main thread is in, and the signal that came meanwhile."""

    depth = 0
    number: int | None = None


@contextmanager
def uninterrupted() -> Iterator[None]:
    """Context in which no signal raises Ended; one that comes in it raises Ended at its end.

    Ended inside of subprocess.Popen could lose a child that has just been started, or leave Popen's lock locked for
    good, so that whoever waits for the child waits for ever. Outside the main thread, where no signal raises anything,
    nothing changes.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    _Deferral.depth += 1
    try:
        yield
    finally:
        _Deferral.depth -= 1
        number = _Deferral.number
        if number is not None and not _Deferral.depth:
            _Deferral.number = None
            raise Ended(number)


class Child(subprocess.Popen[Any]):
    """A child process that a signal to this one leaves in a defined state, whenever it comes (see `uninterrupted`)."""

    def poll(self) -> int | None:
        """The exit status; None while the child runs."""
        with uninterrupted():
            return super().poll()

    def wait(self, timeout: float | None = None) -> int:
        """Wait for the child's end; the exit status. Raises subprocess.TimeoutExpired after `timeout` s."""
        deadline = math.inf if timeout is None else time.monotonic() + timeout
        while (status := self.poll()) is None:
            if timeout is not None and time.monotonic() >= deadline:
                raise subprocess.TimeoutExpired(self.args, timeout)
            time.sleep(POLL)
        return status


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
            if _Deferral.depth:
                _Deferral.number = number
            else:
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


def start(command: Sequence[str], terminal: bool = False, **options: Any) -> Child:
    """Start a child process; `options` are those of `subprocess.Popen`.

    The child receives SIGTERM when the thread that started it ends, even by SIGKILL. It starts with none of ENDING
    ignored, whatever this process ignores. It runs in a new session, so a terminal's signals reach it only through this
    process; with `terminal`, it stays in this session and can read from the terminal.
    """
    parent = os.getpid()
    return Child(list(command), start_new_session=not terminal, preexec_fn=lambda: _tie(parent), **options)


def end(children: Sequence[Child], patience: float = PATIENCE) -> None:
    """End children started by `start`: SIGTERM, and SIGKILL for those still running after `patience` s."""
    try:
        with uninterrupted():
            for child in children:
                child.terminate()
        _reap(children, patience)
    except BaseException:  # a signal must not leave any child behind
        _reap(children, patience)
        raise


def run(command: Sequence[str], patience: float = PATIENCE, terminal: bool = False, **options: Any) -> int:
    """Run one child in the foreground until it ends; return its exit status, as a shell reports it.

    If a signal ends this process (`ended_by_signals`), the child is ended first; the status is 0 if SIGTERM ended it.
    """
    children: list[Child] = []
    try:
        with uninterrupted():
            children.append(start(command, terminal, **options))
        status = children[0].wait()
    except KeyboardInterrupt:
        if not children:
            raise
        end(children, patience)
        status = 0 if children[0].returncode == -signal.SIGTERM else children[0].returncode
    except BaseException:
        end(children, patience)
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


def _reap(children: Sequence[Child], patience: float) -> None:
    deadline = time.monotonic() + patience
    for child in children:
        try:
            child.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            _kill(child)
            child.wait()


def _kill(child: Child) -> None:
    """Send SIGKILL; for a process-group leader, to the whole group, so that its children are not left behind."""
    with suppress(ProcessLookupError):
        if os.getpgid(child.pid) == child.pid:
            os.killpg(child.pid, signal.SIGKILL)
        else:
            child.kill()


if __name__ == "__main__":
    _tie(os.getppid())
    os.execvp(sys.argv[1], sys.argv[1:])
