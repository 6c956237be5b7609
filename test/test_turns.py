"""A test that needs the machine for itself has it, and is not passed over for ever."""

from __future__ import annotations

import multiprocessing
import os
import time
from pathlib import Path

import pytest

from .turns import turn


def hold(alone: bool, log: Path, seconds: float) -> None:
    with turn(alone), log.open("a") as file:
        file.write(f"+{int(alone)}")
        file.flush()
        time.sleep(seconds)
        file.write(f"-{int(alone)}")


def begin(alone: bool, log: Path, seconds: float) -> multiprocessing.process.BaseProcess:
    process = multiprocessing.get_context("fork").Process(target=hold, args=(alone, log, seconds))
    process.start()
    return process


def test_who_is_alone_waits_for_the_others_and_they_for_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_XDIST_TESTRUNUID", f"test-{os.getpid()}")
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    log = tmp_path / "log"
    log.touch()
    processes = [begin(False, log, 0.5), begin(False, log, 0.5)]
    while log.read_text().count("+0") < 2:
        time.sleep(0.01)
    processes.append(begin(True, log, 0.1))
    time.sleep(0.2)  # by then it stands in the door
    processes.append(begin(False, log, 0.0))
    for process in processes:
        process.join()
    order = log.read_text()
    assert order.startswith("+0+0-0-0+1-1"), order
    assert order.endswith("+1-1+0-0"), "the one that came later was let in before"


def test_without_workers_nothing_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PYTEST_XDIST_TESTRUNUID", raising=False)
    with turn(True), turn(True), turn(False):
        pass
