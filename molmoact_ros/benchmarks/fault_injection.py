"""Every fault of docs/safety.md in a running graph: does the arm stop within the deadline, and does it stay at rest?"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

from rich.console import Console
from std_srvs.srv import Trigger

from molmoact_ros.benchmarks.fault_graph import Graph, graph
from molmoact_ros.benchmarks.fault_table import Fault, suites
from molmoact_ros.benchmarks.reporting import new_table, write_figures
from molmoact_ros.bringup.profiles import use_environment
from molmoact_ros.ros.message_types import message_class
from molmoact_ros.utils.arguments import (
    add_json,
    add_times,
)

STAY: Final = 1.0
"""s for which the arm is monitored during the fault, and again after it."""
PATIENCE: Final = 3.0
"""s beyond its deadline after which a fault counts as not detected at all."""


def bench_faults(
    times: int, tell: Callable[[Fault], None], skip: Callable[[str], None], only: str = "", logs: Path | None = None
) -> list[Fault]:
    """Inject each fault `times` times, or only those whose name contains `only`.

    `tell` receives each fault when it is done, `skip` one line for each that cannot be injected here.
    """
    use_environment()
    done: list[Fault] = []
    for suite in suites():
        faults = []
        for fault in suite.faults:
            if only not in fault.name:
                continue
            if fault.needs and message_class(fault.needs) is None:
                skip(f"{fault.name}: left out, since {fault.needs} is not installed")
            else:
                faults.append(fault)
        if faults:
            folder = logs / suite.name if logs else None
            with graph(suite.policy, suite.clock, folder, suite.more, suite.unread) as running:
                for fault in faults:
                    for _ in range(times):
                        try_fault(fault, running)
                    tell(fault)
            done += faults
    return done


def try_fault(fault: Fault, graph: Graph) -> None:
    """Inject a fault once, and count the outcome. Raises RuntimeError where the arm does not reach the mode before."""
    rig = graph.rig
    graph.begin(fault.mode)
    fault.times += 1
    graph.began = time.monotonic()
    try:
        fault.inject(graph)
        happened = rig.until(lambda: fault.happened(rig), fault.deadline + PATIENCE)
    except RuntimeError:  # a node did not respond
        happened = False
    seconds = time.monotonic() - graph.began if happened else float("inf")
    fault.seconds.append(seconds)
    fault.held += seconds <= fault.deadline
    if not (happened and fault.stands):
        fault.repair(graph)
        rig.streaming = False
        rig.call(Trigger, "/controller/hold")
        return
    rig.until(rig.standing, 2.0)
    stayed = rig.stays(STAY)
    fault.repair(graph)
    fault.moved += not (rig.stays(STAY) and stayed)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    parser.add_argument("--only", default="", help="those whose name holds this")
    add_times(parser, 10)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    figures, good = _measure(args, Console())
    write_figures(args, figures)
    return 0 if good else 1


def _measure(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:

    def tell(fault: Any) -> None:
        console.print(f"{fault.name}: {fault.held} of {fault.times} in time, worst {max(fault.seconds):.2f} s")

    faults = bench_faults(args.times, tell, console.print, args.only)
    table = new_table("faults in a running graph", "fault", "held in time", "deadline", "worst", "moved again")
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
