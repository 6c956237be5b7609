"""`molmoact-ros bench libfranka`: the 1 kHz process against franka-sim, which enforces limits and counts lost packets.

A child process sends the commands, so that it can be killed in mid-motion, as a controller may be.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from itertools import count
from pathlib import Path
from typing import Any, Final

import numpy as np

from molmoact_ros.benchmarks.chunk_seams import plan_along
from molmoact_ros.benchmarks.reflex import Reflex, bench_reflex
from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller
from molmoact_ros.control.supervisor import State
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, OPENING_MAX
from molmoact_ros.robots.libfranka.client import LibfrankaArm, RobotMode, own_priority, require_pylibfranka
from molmoact_ros.robots.libfranka.interpolator import CYCLE
from molmoact_ros.robots.libfranka.process import PROMPT
from molmoact_ros.sim.franka_sim import FrankaSim
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import (
    add_json,
    add_seconds,
    add_seed,
)
from molmoact_ros.utils.paths import robot_model
from molmoact_ros.utils.whole_file import write_whole

PERIOD: Final = 0.01
"""s between commands: 100 Hz."""
PLAN: Final = 0.75
"""s between plans, as the workcell's policy; each arrives before the one before is complete."""
LATENCY: Final = 0.2
"""s from a plan's image to its arrival."""
FAST: Final = 0.3
"""rad/s; the sender is killed when a joint is at least this fast."""
LAST_CYCLES: Final = 30
"""Cycles before the robot stopped in which one that was missed may be the reason; the robot counts the last 20."""
STANDS: Final = 1e-3
"""rad/s under which a joint stands."""


@dataclass(frozen=True)
class Result:
    """In s, rad and Hz. `velocity`, `acceleration`, `jerk`: the highest commanded, as fractions of the FR3's limits,
    differenced from the positions that were sent, where no cycle was missed. `stop_*`: from the sender's death to the
    standstill, and the furthest joint's travel. `standstills`: times without a state for 2.5 ms and more: the machine's
    or the simulator's. `errors`: why the robot stopped, empty for none. `orphan_drift`: how far the robot moves in the
    second second after the 1 kHz process itself was killed. `reflex_*`, `recover_way`: as in Reflex.
    """

    seconds: float
    rate: float
    cycle_p99_ms: float
    cycle_max_ms: float
    missed: int
    standstills: int
    success_rate_mean: float
    success_rate_min: float
    velocity: float
    acceleration: float
    jerk: float
    tracking_error: float
    speed_at_kill: float
    stop_seconds: float
    stop_way: float
    errors: str
    orphan_drift: float
    reflex_seconds: float
    reflex_state: str
    recover_way: float

    @property
    def failures(self) -> list[str]:
        """Violated requirements, one line each."""
        return [
            text
            for failed, text in (
                (bool(self.errors), f"the robot stopped by itself: {self.errors}"),
                (self.rate < 900.0, f"{self.rate:.0f} cycles/s; 1000 are wanted"),
                (max(self.velocity, self.acceleration, self.jerk) > 1.0, "a limit was broken"),
                (
                    not self.errors and not self.stop_seconds < 1.0,
                    "the arm did not come to rest after its sender was killed",
                ),
                (self.orphan_drift > 0.01, "the robot moved on without its process"),
            )
            if failed
        ] + Reflex(self.reflex_seconds, self.reflex_state, self.recover_way).failures


class PlayedChunks:
    """The controller, playing the chunks of an engine that plans every PLAN s and needs LATENCY for each plan."""

    def __init__(self, seed: int, start: np.ndarray, now: float) -> None:
        """`start`: the joints float64 [7] rad at `now`, s."""
        self._controller, self._rng = Controller(robot_model()), np.random.default_rng(seed)
        self._controller.update_joints(start, OPENING_MAX, now)
        if not self._controller.start(now):
            raise RuntimeError(self._controller.supervisor.reason)
        self._hand = self._controller.arms[0].kinematics.forward(start).position
        self._began, self._planned = now, -np.inf
        self._chunk: ActionChunk | None = None

    def step(self, measured: np.ndarray, now: float) -> ArmCommand:
        """The next command, from the measured joints, [7] rad. Raises RuntimeError when the controller holds."""
        controller = self._controller
        controller.update_joints(measured, OPENING_MAX, now)
        controller.on_engine(now)
        if now >= self._planned + PLAN:
            plan = plan_along(self._hand, now - self._began, self._rng)
            self._chunk, self._planned = replace(plan, stamp=now), now
        if self._chunk is not None and now >= self._planned + LATENCY:
            if not controller.on_chunk(self._chunk, now):
                raise RuntimeError(controller.last_refusal)
            self._chunk = None
        commands = controller.step(now)
        if commands is None or controller.supervisor.state is not State.POLICY:
            raise RuntimeError(f"the controller holds: {controller.supervisor.reason}")
        self._hand = controller.arms[0].kinematics.forward(commands[0].position).position
        return commands[0]


def feed(address: str, record: str, seed: str) -> None:
    """Main loop of the child until it is killed: connect, drive, and print its progress, a line every 0.1 s."""
    with LibfrankaArm(address, Path(record)) as arm:
        while (state := arm.state()).mode is not RobotMode.IDLE:
            if state.mode is RobotMode.ENDED:
                sys.exit(f"error: {state.message}")
            time.sleep(0.01)
        due = time.monotonic()
        chunks = PlayedChunks(int(seed), state.q, due)
        for number in count():
            command = chunks.step(state.q, time.monotonic())
            arm.send(command)
            state = arm.state()
            if number % round(0.1 / PERIOD) == 0 or state.mode is not RobotMode.MOVING:
                print(arm.pid, state.mode.name, np.abs(command.velocity).max(), state.missed, state.message, flush=True)
            due = max(due + PERIOD, time.monotonic())  # like a timer: missed periods are not made up for
            time.sleep(max(0.0, due - time.monotonic()))


def bench(model: Path, seconds: float, seed: int, tell: Callable[[str], None]) -> Result:
    """Drive for `seconds`, kill the sender; drive again, kill the 1 kHz process; drive again, provoke a reflex.

    `model`: the robot's MJCF file.

    Raises RuntimeError or FileNotFoundError where pylibfranka or franka-sim is missing or does not start.
    """
    require_pylibfranka()
    with tempfile.TemporaryDirectory() as folder, FrankaSim(model, Path(folder) / "franka_sim.log") as robot:
        record = Path(folder) / "record.npz"
        pid = _drive(robot.address, record, seed, seconds, tell, victim="sender")
        _until(lambda: not _alive(pid), 10.0, "the 1 kHz process goes on without its sender")
        cycles = dict(np.load(record))
        errors = "; ".join(filter(None, [str(cycles["message"]), *robot.refusals()]))
        _drive(robot.address, record, seed + 1, 2.0, tell, victim="process")
        drift = _orphan_drift(robot.address)
    reflex = bench_reflex(model, tell)
    return Result(
        seconds=seconds, errors=errors, orphan_drift=drift, reflex_seconds=reflex.held_seconds,
        reflex_state=reflex.state, recover_way=reflex.recover_way, **figures(cycles),
    )  # fmt: skip


def _drive(address: str, record: Path, seed: int, seconds: float, tell: Callable[[str], None], victim: str) -> int:
    """Start the child; after `seconds`, when the arm is fast, kill it ("sender") or its 1 kHz process ("process")."""
    command = [sys.executable, "-P", "-m", "molmoact_ros.benchmarks.libfranka", address, str(record), str(seed)]
    child = child_process.start(command, stdout=subprocess.PIPE, text=True)
    assert child.stdout is not None
    try:
        begun, told = time.monotonic(), 0.0
        for line in child.stdout:
            pid, mode, speed, missed, *message = line.split(maxsplit=4)
            passed = time.monotonic() - begun
            if passed - told > 5.0:
                told = passed
                tell(f"{passed:.0f} of {seconds:g} s, {mode.lower()}, {missed} cycles missed {' '.join(message)}")
            if mode in (RobotMode.FAULT.name, RobotMode.ENDED.name) or (passed > seconds and float(speed) > FAST):
                if victim == "process":
                    os.kill(int(pid), signal.SIGKILL)
                return int(pid)
        raise RuntimeError("the sender of commands has ended by itself")
    finally:
        child.kill()
        child.wait()


def figures(cycles: dict[str, np.ndarray]) -> dict[str, Any]:
    """The figures of a record, whose arrays have one row a cycle ([n] or [n, 7]), for a Result."""
    message = cycles["message"]
    cycles = {name: rows[1:] for name, rows in cycles.items() if rows.ndim}  # the first cycle was still starting
    sent, q_d, times, driven = cycles["sent"], cycles["q_d"], cycles["time"], cycles["open"] > 0
    missed = (cycles["cycles"] > 1) | (np.abs(q_d - sent).max(axis=1) > 1e-6)
    if driven.sum() < 1000:
        lost = f"{missed[driven][-LAST_CYCLES:].sum()} of the last {LAST_CYCLES} missed"
        raise RuntimeError(f"the robot was driven for {driven.sum()} cycles only, {lost}: {message}")
    # Whole: neither this cycle nor the three before it were missed, so differences are those that the robot computes.
    whole = np.convolve(missed, np.ones(5))[: len(missed)][3:] == 0
    velocity, acceleration, jerk = (np.diff(sent, n, axis=0) / CYCLE**n for n in (1, 2, 3))
    low, high = FR3.velocity_bounds(sent[2:-1])
    speed = np.maximum(velocity[2:] / np.maximum(high, 1e-6), velocity[2:] / np.minimum(low, -1e-6))
    after = np.flatnonzero(~driven)
    first = int(after[0]) if len(after) else len(sent) - 1
    moving = np.flatnonzero(np.abs(velocity[first - 1 :]).max(axis=1) > STANDS)
    stands = len(sent) - 1 not in first + moving
    periods = np.diff(times[driven]) * 1e3
    return {
        "rate": float(len(periods) / (times[driven][-1] - times[driven][0])),
        "cycle_p99_ms": float(np.percentile(periods, 99)),
        "cycle_max_ms": float(periods.max()),
        "standstills": int((periods > PROMPT * 1e3).sum()),
        "missed": int(missed[driven].sum() + (cycles["cycles"][driven] - 1).sum()),
        "success_rate_mean": float(cycles["success_rate"][driven][100:].mean()),
        "success_rate_min": float(cycles["success_rate"][driven][100:].min()),
        "velocity": float(speed[whole].max()),
        "acceleration": float((np.abs(acceleration[1:])[whole] / FR3.acceleration_max).max()),
        "jerk": float((np.abs(jerk)[whole] / FR3.jerk_max).max()),
        "tracking_error": float(np.abs(cycles["q"] - q_d)[driven].max()),
        "speed_at_kill": float(np.abs(velocity[first - 1]).max()),
        "stop_seconds": float(moving[-1] + 1) * CYCLE if len(moving) and stands else (0.0 if stands else float("inf")),
        "stop_way": float(np.abs(sent[-1] - sent[first]).max()),
    }


def _orphan_drift(address: str) -> float:
    """Distance that the robot moves, in rad, between 1 and 2 s from now."""
    import pylibfranka

    time.sleep(1.0)
    with own_priority():
        robot = pylibfranka.Robot(address, pylibfranka.RealtimeConfig.kIgnore)
    # By positions: the simulator's servo chatters in place when it holds our model, which has dry friction.
    before = np.array(robot.read_once().q)
    time.sleep(1.0)
    return float(np.abs(robot.read_once().q - before).max())


def _alive(pid: int) -> bool:
    return Path(f"/proc/{pid}/cmdline").exists() and b"libfranka.process" in Path(f"/proc/{pid}/cmdline").read_bytes()


def _until(happened: Callable[[], bool], seconds: float, otherwise: str) -> None:
    deadline = time.monotonic() + seconds
    while not happened():
        if time.monotonic() > deadline:
            raise RuntimeError(otherwise)
        time.sleep(0.05)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    add_seconds(parser, 60.0)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    result = bench(robot_model(), args.seconds, args.seed, tell)
    for name, value in asdict(result).items():
        print(f"{name:18} {value:.6g}" if isinstance(value, float) else f"{name:18} {value}")
    for failure in result.failures:
        print(f"FAILED: {failure}")
    if args.json:
        write_whole(args.json, json.dumps({"seed": args.seed, **asdict(result)}, indent=1))
    return 1 if result.failures else 0


if __name__ == "__main__":
    feed(*sys.argv[1:])
