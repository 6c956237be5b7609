"""The controller's benches as the command shows them: a table, figures for `--json`, and an exit status."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from typing import Any

import numpy as np
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from molmoact_ros.robots.franka import PAIR, SINGLE
from molmoact_ros.utils.paths import robot_model
from molmoact_ros.utils.provenance import machine

LATENCIES = (0.0, 0.1, 0.2, 0.4)  # s


def show(args: argparse.Namespace) -> int:
    """Run `args.part`; 1 where something was broken or missed."""
    figures, good = PARTS[args.part](args, Console())
    if args.json:
        about = machine("") | {name: value for name, value in vars(args).items() if name in ("part", "seed")}
        args.json.write_text(json.dumps(about | {"figures": figures}, indent=1))
    return 0 if good else 1


def _seams(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:
    from molmoact_ros.benchmarks.chunk_seams import seams

    rows = seams(robot_model(), LATENCIES, args.seconds, args.seed)
    table = _table(f"seams between chunks, {args.seconds:g} s each, seed {args.seed}", "latency", "mode", "peak jerk",
                   "of the joints' limit", "path error", "mean", "limits")  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row.latency * 1e3:.0f} ms", row.mode, f"{row.jerk:.0f} m/s^3", f"{row.joint_jerk:.0%}",
            f"{row.error:.1f} mm", f"{row.mean_error:.1f} mm", "kept" if row.within_limits else "[red]broken[/]",
        )  # fmt: skip
    console.print(table)
    return [asdict(row) for row in rows], all(row.within_limits for row in rows)


def _control(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:
    from molmoact_ros.benchmarks.chunk_seams import cycle_cost
    from molmoact_ros.benchmarks.control_jitter import bench_control, cores

    rows = bench_control(args.seconds, args.load)
    title = f"jitter of the command stream at 100 Hz, {args.load} busy processes on {cores()} cores"
    table = _table(title, "driven by", "p50", "p99", "max")
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


def _faults(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:
    from molmoact_ros.benchmarks.fault_injection import bench_faults

    def tell(fault: Any) -> None:
        console.print(f"{fault.name}: {fault.held} of {fault.times} in time, worst {max(fault.seconds):.2f} s")

    faults = bench_faults(args.times, tell, console.print, args.only)
    table = _table("faults in a running graph", "fault", "held in time", "deadline", "worst", "moved again")
    for fault in faults:
        worst = f"{max(fault.seconds):.3f} s"
        held = f"{fault.held} of {fault.times}"
        table.add_row(fault.name, held if fault.held == fault.times else f"[red]{held}[/]", f"{fault.deadline:.2f} s",
                      worst, str(fault.moved))  # fmt: skip
    console.print(table)
    figures = [
        {
            "fault": f.name,
            "times": f.times,
            "held": f.held,
            "deadline": f.deadline,
            "moved": f.moved,
            "seconds": f.seconds,
        }
        for f in faults
    ]
    return figures, not any(fault.missed for fault in faults)


def _fuzz(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:
    from molmoact_ros.benchmarks.fuzz import CROWDED, fuzz

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("actions", total=args.actions)
        arms = CROWDED if args.arms == 2 else [SINGLE]
        result = fuzz(
            robot_model(), args.actions, args.seed, lambda now: progress.update(task, completed=now.actions), arms
        )
    broken = sum(result.broken.values())
    console.print(
        f"{result.actions} actions in {result.chunks} chunks, seed {result.seed}: {result.played} played, "
        f"{result.refused} refused; {result.cycles} cycles checked, {result.moving} of them in motion: "
        + ("no limit was broken" if not broken else f"[red]broken: {result.broken}[/]")
    )
    console.print("how often each limit bit: " + ", ".join(f"{name} {n}" for name, n in result.counts.items()))
    return asdict(result), not broken


def _teleop(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:
    from molmoact_ros.benchmarks.teleop_takeover import DEADLINE, bench_teleop

    with Progress(console=console, transient=True) as progress:
        task = progress.add_task("takes", total=args.times)
        takes = bench_teleop(args.times, lambda _: progress.advance(task))
    title = f"a person takes over in mid-motion, and hands back, {args.times} times"
    table = _table(title, "what", "median", "worst", "limit")
    late = max(takes.seconds) >= DEADLINE
    worst = f"{max(takes.seconds) * 1e3:.1f} ms"
    median = f"{np.median(takes.seconds) * 1e3:.1f} ms"
    table.add_row("takes over within", median, f"[red]{worst}[/]" if late else worst, f"{DEADLINE * 1e3:.0f} ms")
    for name, jump in (("taking over", takes.over), ("handing back", takes.back)):
        for kind in ("speed", "acceleration", "jerk"):
            used = getattr(jump, kind)
            table.add_row(f"{name}: {kind}", "", f"{used:.0%}" if used < 1.001 else f"[red]{used:.0%}[/]", "100%")
    console.print(table)
    console.print(f"{takes.over.commands} and {takes.back.commands} commands judged, {takes.lost} takes lost")
    return asdict(takes), takes.good


PARTS = {"seams": _seams, "control": _control, "faults": _faults, "fuzz": _fuzz, "teleop": _teleop}


def _table(title: str, *headings: str) -> Table:
    table = Table(title=title)
    for heading in headings:
        table.add_column(heading, justify="left" if heading in ("mode", "driven by", "fault", "what") else "right")
    return table
