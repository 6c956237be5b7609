"""The real client, pylibfranka, against a server that speaks the real protocol and enforces the FR3's limits."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from itertools import islice
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.benchmarks.libfranka import PERIOD, bench
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.robots.libfranka.client import COMMAND, Kind, LibfrankaArm, LibfrankaState, RobotMode
from molmoact_ros.robots.libfranka.interpolator import RefusedCommand
from molmoact_ros.sim.franka_sim import FrankaSim, python
from molmoact_ros.utils.paths import robot_model

from ..conftest import attempts
from .motion import policy_motion

PATIENCE = 20.0


def until(arm: LibfrankaArm, happened: Callable[[LibfrankaState], bool]) -> LibfrankaState:
    deadline = time.monotonic() + PATIENCE
    while not happened(arm.state()):
        assert time.monotonic() < deadline, arm.state()
        time.sleep(0.005)
    return arm.state()


def connected(robot: FrankaSim, record: Path | None = None) -> LibfrankaArm:
    arm = LibfrankaArm(robot.address, record)
    until(arm, lambda state: state.mode is RobotMode.IDLE)
    return arm


def simulator(folder: Path) -> FrankaSim:
    return FrankaSim(robot_model(), folder / "franka_sim.log")


def drive(arm: LibfrankaArm, seconds: float, seed: int = 0) -> ArmCommand:
    """Send a policy's motion from where the arm is told to be; the last command."""
    due = time.monotonic()
    for command in islice(policy_motion(seed, arm.state().q_d, PERIOD), round(seconds / PERIOD)):
        arm.send(command)
        due = max(due + PERIOD, time.monotonic())
        time.sleep(max(0.0, due - time.monotonic()))
    return command


def test_nothing_moves_before_a_command(robot: FrankaSim) -> None:
    with connected(robot) as arm:
        first = arm.state()
        later = until(arm, lambda state: state.stamp > first.stamp + 0.3)
        assert later.mode is RobotMode.IDLE and np.abs(later.q - first.q).max() < 1e-3
        assert arm.state().success_rate == 0, "nobody is in control"


@attempts(3)
def test_a_motion_without_a_reflex(tmp_path: Path) -> None:
    with simulator(tmp_path) as robot, connected(robot, tmp_path / "record.npz") as arm:
        last = drive(arm, 2.0)
        until(arm, lambda state: state.mode is RobotMode.BRAKING)
        end = until(arm, lambda state: state.mode is RobotMode.MOVING)
        # It brakes behind the last command, and so ends a little beyond it.
        assert np.abs(end.q - last.position).max() < 0.2 and np.abs(end.q - end.q_d).max() < 0.02
        assert not robot.refusals() and not end.message and end.refused == 0
    cycles = np.load(tmp_path / "record.npz")
    assert len(cycles["sent"]) > 1000
    speeds = np.abs(np.diff(cycles["sent"], axis=0)).max(axis=1) / 1e-3
    assert speeds.max() > 0.3 and speeds[-1] < 1e-3


@attempts(3)
def test_silence_brakes_and_the_next_commands_go_on(tmp_path: Path) -> None:
    with simulator(tmp_path) as robot, connected(robot) as arm:
        drive(arm, 0.6)
        until(arm, lambda state: state.mode is RobotMode.BRAKING)
        until(arm, lambda state: state.mode is RobotMode.MOVING)
        drive(arm, 0.6, seed=1)
        assert arm.state().mode is RobotMode.MOVING and not arm.state().message
        assert not robot.refusals()


@pytest.mark.alone
@attempts(3)
# As those of live nodes: the simulated robot stops by a reflex when a busy machine keeps packets from it for too long.
@pytest.mark.flaky(reruns=2, reruns_delay=1)
def test_c3_the_sender_and_the_process_killed_and_a_reflex() -> None:
    result = bench(robot_model(), seconds=3.0, seed=3, tell=print)
    assert [f for f in result.failures if "cycles/s" not in f and "after a reflex" not in f] == []
    assert result.reflex_state in ("HOLD", "STOPPED") and result.reflex_seconds < 1.0 and result.recover_way == 0
    assert result.speed_at_kill > 0.2 and 0.02 < result.stop_seconds < 0.6


def test_unsafe_commands_are_refused_at_both_ends(robot: FrankaSim) -> None:
    with connected(robot) as arm:
        q, zero = arm.state().q_d, np.zeros(7)
        with pytest.raises(RefusedCommand, match="finite"):
            arm.send(ArmCommand(q * np.nan, zero, zero, 0.08, PERIOD))
        with pytest.raises(RefusedCommand, match="joint 1's position"):
            arm.send(ArmCommand(q + np.eye(7)[0] * 3, zero, zero, 0.08, PERIOD))
        for unsafe, why in ((q * np.nan, "finite"), (q + 0.5, "begins where the arm stands")):
            arm._send(COMMAND.pack(Kind.COMMAND, *unsafe, *zero, *zero, 0.08, PERIOD))
            state = until(arm, lambda state, why=why: why in state.message)  # type: ignore[misc]
        assert state.refused == 2 and state.mode is RobotMode.IDLE
        assert arm.state().success_rate == 0, "nobody is in control"


@attempts(3)
def test_a_fault_is_named_and_lifted_only_on_request(tmp_path: Path) -> None:
    with simulator(tmp_path) as robot, connected(robot) as arm:
        drive(arm, 0.5)
        os.kill(arm.pid, signal.SIGSTOP)
        deadline = time.monotonic() + PATIENCE
        while not robot.refusals():
            assert time.monotonic() < deadline
            time.sleep(0.01)
        os.kill(arm.pid, signal.SIGCONT)
        state = until(arm, lambda state: state.mode is RobotMode.FAULT)
        assert "communication_constraints_violation" in state.message
        still = until(arm, lambda s: s.stamp > state.stamp + 1.0)
        drive(arm, 0.3)
        assert arm.state().mode is RobotMode.FAULT and np.abs(arm.state().q - still.q).max() < 0.01
        arm.recover()
        until(arm, lambda state: state.mode is RobotMode.IDLE)
        drive(arm, 0.3)
        assert until(arm, lambda state: state.mode is not RobotMode.IDLE).mode is not RobotMode.FAULT


def test_no_robot() -> None:
    with LibfrankaArm("127.99.99.99") as arm:
        state = until(arm, lambda state: state.mode is RobotMode.ENDED)
        assert "127.99.99.99" in state.message and "\n" not in state.message
        with pytest.raises(ConnectionError, match=r"127\.99\.99\.99"):
            arm.send(ArmCommand(HOME_Q, np.zeros(7), np.zeros(7), 0.08, PERIOD))


def test_without_franka_sim(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("MOLMOACT_FRANKA_SIM", str(tmp_path))
    with pytest.raises(FileNotFoundError, match="make franka-sim"):
        python()


def test_without_pylibfranka(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "pylibfranka", None)
    with pytest.raises(RuntimeError, match=r"molmoact_ros\[libfranka\]"):
        LibfrankaArm("127.0.0.1")
