"""Jitter of the controller's commands while all cores are busy, beside a plain rclpy timer in the same run."""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console

from molmoact_ros.benchmarks.chunk_seams import cycle_cost
from molmoact_ros.benchmarks.fault_rig import JOINT_STATES, FaultInjector
from molmoact_ros.benchmarks.reporting import new_table, write_figures
from molmoact_ros.bringup.processes import Bringup, command, write_parameters
from molmoact_ros.bringup.profiles import Profile, environment, use_environment
from molmoact_ros.robots.franka import PAIR, SINGLE
from molmoact_ros.ros import qos
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import add_json, add_seconds, add_seed, not_negative
from molmoact_ros.utils.paths import robot_model

Row = dict[str, float]
KINDS: Final[dict[str, tuple[str, str, dict[str, Any]]]] = {
    "plain rclpy timer": ("molmoact_ros.benchmarks", "timer_controller", {"priority": 0}),
    "control loop, ordinary priority": ("molmoact_ros.nodes", "controller", {"priority": 0}),
    "control loop, real-time priority": ("molmoact_ros.nodes", "controller", {}),
}


def bench_control(seconds: float, load: int) -> dict[str, Row]:
    """Jitter of the periods in ms (p50, p99, max) for each of KINDS, `seconds` each, with `load` busy processes."""
    use_environment()
    sim = Profile(nodes={"sim": {"front_size": [160, 120], "wrist_size": [106, 60]}})
    out: dict[str, Row] = {}
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder, Bringup(sim, Path(folder)), _load(load):
        for name, (package, module, parameters) in KINDS.items():
            out[name] = _measure(package, module, parameters, seconds, Path(folder))
    return out


def _measure(package: str, module: str, parameters: dict[str, Any], seconds: float, folder: Path) -> Row:
    # The deadline is out of the way: the benchmark measures the stream, not the supervisor.
    asked = {"joint_states": JOINT_STATES, "joints_deadline": 2.0, **parameters}
    file = write_parameters(folder, "controller", asked)
    context = rclpy.Context()
    rclpy.init(context=context)
    rig, row = FaultInjector(context), dict[str, float]()

    def hear(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "controller: control loop":
                values = {v.key: v.value for v in status.values}
                row.update({name: float(values[f"jitter_{name}_ms"]) for name in ("p50", "p99", "max")})

    rig.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.RELIABLE)
    rig.drive()
    with (folder / "controller.log").open("wb") as log:
        process = child_process.start(
            command(module, file, package=package), env=environment(), stdout=log, stderr=log, cwd=folder
        )
    try:
        if not rig.until(lambda: rig.safety.joints_age > 0, 60.0):
            raise RuntimeError(f"the controller did not start: {(folder / 'controller.log').read_text()[-500:]}")
        rig.go()
        time.sleep(seconds)
        if not row:
            raise RuntimeError("the controller published no diagnostics")
        return dict(row)
    finally:
        child_process.end([process], 10.0)
        rig.close()
        context.try_shutdown()


@contextmanager
def _load(count: int) -> Iterator[None]:
    busy = [child_process.start([sys.executable, "-c", "while True: pass"]) for _ in range(count)]
    try:
        yield
    finally:
        child_process.end(busy)


def cores() -> int:
    """Number of cores that this process may use."""
    return len(os.sched_getaffinity(0))


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument("--load", type=not_negative(int), default=2, help="busy processes beside it")
    add_seconds(parser, 20.0)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    figures, good = _figures(args, Console())
    write_figures(args, figures)
    return 0 if good else 1


def _figures(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:

    rows = bench_control(args.seconds, args.load)
    title = f"jitter of the command stream at 100 Hz, {args.load} busy processes on {cores()} cores"
    table = new_table(title, "driven by", "p50", "p99", "max")
    for name, row in rows.items():
        table.add_row(name, *(f"{row[key]:.2f} ms" for key in ("p50", "p99", "max")))
    console.print(table)
    cost = {}
    for name, arms in (("one arm", [SINGLE]), ("two arms", PAIR)):
        cost[name] = row = cycle_cost(robot_model(), seed=args.seed, arms=arms)
        console.print(
            f"a cycle of the controller with {name}: {row['median']:.0f} us of processor time at the median, "
            f"{row['p99']:.0f} us at the 99th percentile; {row['kept']:.2f} blocks of memory kept a cycle"
        )
    return {"jitter_ms": rows, "cycle_us": cost}, True
