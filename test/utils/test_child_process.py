"""Children end with their parent, whatever ends it, and within the time they are given."""

from __future__ import annotations

import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from molmoact_ros.utils import child_process

PATIENCE = 30.0
"""s after which something that should happen has not."""
PARENT = """
import sys
from molmoact_ros.utils import child_process
with child_process.ended_by_signals():
    sys.exit(child_process.run([sys.executable, "-c", *sys.argv[2:]], float(sys.argv[1])))
"""
CHILD = """
import os, pathlib, signal, sys, time
if sys.argv[2] == "stubborn":
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
file = pathlib.Path(sys.argv[1])
file.with_suffix(".new").write_text(f"{os.getpid()} {signal.getsignal(signal.SIGINT) is signal.SIG_IGN}")
file.with_suffix(".new").rename(file)
time.sleep(600)
"""


def until(happened: Callable[[], bool], patience: float = PATIENCE) -> bool:
    end = time.monotonic() + patience
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def is_gone(pid: int) -> bool:
    stat = Path(f"/proc/{pid}/stat")
    try:
        return stat.read_text().rpartition(")")[2].split()[0] == "Z"
    except FileNotFoundError:
        return True


def begun(folder: Path, ignored: bool, kind: str = "usual", patience: float = 20.0) -> tuple[subprocess.Popen, int]:
    """A parent with a child that runs, and the child's pid. ignored: the parent is a shell's background job."""
    file = folder / "child"
    parent = subprocess.Popen(
        [sys.executable, "-c", PARENT, str(patience), CHILD, str(file), kind], cwd=folder,
        preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
    )  # fmt: skip
    assert until(file.exists)
    pid, child_ignores = file.read_text().split()
    assert child_ignores == str(kind == "stubborn"), "a child ignores nothing, whatever its parent ignores"
    return parent, int(pid)


@pytest.mark.parametrize("ignored", [False, True], ids=["", "SIGINT ignored"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGKILL])
def test_a_child_ends_with_its_command(tmp_path: Path, number: signal.Signals, ignored: bool) -> None:
    parent, pid = begun(tmp_path, ignored)
    parent.send_signal(number)
    if number == signal.SIGINT and ignored:
        time.sleep(0.3)
        assert parent.poll() is None and not is_gone(pid), "Ctrl-C is not meant for a shell's background job"
        parent.terminate()
    status = parent.wait(PATIENCE)
    assert until(lambda: is_gone(pid))
    assert status == (-signal.SIGKILL if number == signal.SIGKILL else 0)


def test_a_child_that_does_not_end_is_killed(tmp_path: Path) -> None:
    parent, pid = begun(tmp_path, False, "stubborn", patience=0.5)
    parent.terminate()
    assert parent.wait(PATIENCE) == 128 + signal.SIGKILL and is_gone(pid)


def test_further_signals_do_not_cut_an_end_short(tmp_path: Path) -> None:
    parent, pid = begun(tmp_path, False, "stubborn", patience=1.5)
    parent.terminate()
    time.sleep(0.3)
    for number in (signal.SIGINT, signal.SIGHUP, signal.SIGTERM):
        parent.send_signal(number)
    assert parent.wait(PATIENCE) == 128 + signal.SIGKILL and is_gone(pid), "it has waited for the child"


SLEEPS = [sys.executable, "-c", "import time; time.sleep(600)"]


def interrupted(passed: list[str]) -> None:
    with child_process.uninterrupted():
        with child_process.uninterrupted():
            signal.raise_signal(signal.SIGHUP)
            passed.append("inner")
        passed.append("outer")


def test_a_signal_waits_for_the_end_of_what_must_not_be_interrupted() -> None:
    passed: list[str] = []
    with child_process.ended_by_signals(), pytest.raises(child_process.Ended) as ended:
        interrupted(passed)
    assert passed == ["inner", "outer"] and ended.value.number == signal.SIGHUP
    with child_process.uninterrupted():
        pass  # it is raised once


class InterruptedLock:
    """A lock at whose first acquisition a signal comes, before its caller knows that it is acquired."""

    def __init__(self) -> None:
        self.lock, self.count = threading.Lock(), 0

    def acquire(self, blocking: bool = True) -> bool:
        acquired = self.lock.acquire(blocking)
        self.count += 1
        if self.count == 1:
            signal.raise_signal(signal.SIGTERM)
        return acquired

    def release(self) -> None:
        self.lock.release()


def test_a_signal_inside_of_popens_lock_leaves_it_free_and_the_child_ends() -> None:
    child, lock = child_process.start(SLEEPS), InterruptedLock()
    child._waitpid_lock = lock  # type: ignore[attr-defined]  # of subprocess.Popen
    with child_process.ended_by_signals(), pytest.raises(child_process.Ended):
        child.wait(PATIENCE)
    assert lock.count == 1 and not lock.lock.locked(), "else each later wait would last for ever"
    child_process.end([child], PATIENCE)
    assert child.returncode == -signal.SIGTERM


def test_a_signal_while_a_child_starts_ends_the_child(monkeypatch: pytest.MonkeyPatch) -> None:
    started: list[child_process.Child] = []

    def start(*args: Any, **options: Any) -> child_process.Child:
        started.append(whole(*args, **options))
        signal.raise_signal(signal.SIGTERM)  # before its caller knows of the child
        return started[0]

    whole = child_process.start
    monkeypatch.setattr(child_process, "start", start)
    with child_process.ended_by_signals():
        assert child_process.run(SLEEPS, PATIENCE) == 0
    assert started[0].returncode == -signal.SIGTERM


def test_a_command_ends_with_the_status_of_its_child() -> None:
    assert child_process.run([sys.executable, "-c", "raise SystemExit(3)"]) == 3
    assert child_process.run([sys.executable, "-c", "import os; os.kill(os.getpid(), 9)"]) == 137


def test_a_child_whose_parent_is_gone_already_ends(tmp_path: Path) -> None:
    """The parent ends between the fork and the child's word that it is to end with it."""
    program = "from molmoact_ros.utils.child_process import die_with_parent; die_with_parent(1 << 22); print('goes on')"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == -signal.SIGTERM and not done.stdout


def test_what_launch_starts_through_the_module_ends_with_it(tmp_path: Path) -> None:
    file = tmp_path / "child"
    tied = [sys.executable, "-m", "molmoact_ros.utils.child_process", sys.executable, "-c", CHILD, str(file), "usual"]
    program = f"import subprocess; subprocess.run({tied!r})"
    launch = subprocess.Popen([sys.executable, "-c", program], cwd=tmp_path)
    assert until(file.exists)
    pid = int(file.read_text().split()[0])
    launch.kill()
    launch.wait(PATIENCE)
    assert until(lambda: is_gone(pid))
