"""vla-eval's own client drives our graph through a suite of LIBERO's, and its results are compared with ours.

By the scripted expert: it runs each episode by our released protocol, and the node that stands in the policy's place
sends its plans again while vla-eval simulates the same episode. So what is between harness and topics is compared,
units and signs with it; the model is not.
"""

from __future__ import annotations

import argparse
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import rclpy
import yaml
from rclpy.executors import SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from tqdm import tqdm

from molmoact_ros.benchmarks.plan_replay import PlanReplayNode
from molmoact_ros.benchmarks.reporting import new_table, write_figures
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.evaluation.harness_results import EpisodePair, pair_episodes, read_harness_results
from molmoact_ros.evaluation.libero_policy import ExpertPolicy
from molmoact_ros.evaluation.libero_rollout import run_by_protocol
from molmoact_ros.evaluation.suite_report import PlanLog, SuiteEpisode
from molmoact_ros.sim.libero_cell import LiberoCell
from molmoact_ros.sim.libero_suite import RENDERING, LiberoTask, libero_environment, plain_suite, read_suite
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import above_zero, add_json

READY: Final = 120.0
"""s for the server to start."""
RESPONSE: Final = 60.0
"""s for an answer to the harness: more than the server waits for a plan."""


class RecordedExpert(ExpertPolicy):
    """The scripted expert; `plans` are those of the episode."""

    def begin(self, cell: LiberoCell) -> None:
        """See LiberoPolicy."""
        super().begin(cell)
        self.plans: list[Any] = []

    def plan(self, cell: LiberoCell, now: float, log: PlanLog) -> Any:
        """See LiberoPolicy: float64 [N, 7]."""
        self.plans.append(super().plan(cell, now, log))
        return self.plans[-1]


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of this benchmark."""
    parser.add_argument("--suite", default="libero_object", help="a suite of LIBERO's; default libero_object")
    parser.add_argument("--tasks", type=above_zero(int), default=10, help="so many, from the first on; default 10")
    parser.add_argument("--trials", type=above_zero(int), default=1, help="episodes of each task; default 1")
    parser.add_argument(
        "--out", type=Path, default=Path("runs/harness"), help="folder of logs and of vla-eval's results"
    )
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run all episodes in both, and print them side by side. The status is 1 where they do not agree."""
    use_environment()
    tasks, expert = read_suite(args.suite)[: args.tasks], RecordedExpert()
    named = {task.name: task.instruction for task in read_suite(plain_suite(args.suite))}
    if any(task.instruction != named.get(task.name) for task in tasks):
        raise ValueError(f"vla-eval asks for the tasks of {args.suite} in the plain suite's words; use `eval --suite`")
    ours, plans = list[SuiteEpisode](), {}
    for episode in tqdm(_by_ourselves(tasks, args.trials, expert), total=len(tasks) * args.trials, mininterval=5):
        ours.append(episode)
        plans[episode.instruction, episode.trial] = expert.plans
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    port = _free_port()
    profile = Profile.read("benchmark").without("policy").with_parameters({"benchmark_server": {"port": port}})
    with Bringup(profile, out / "logs") as graph, _replaying(plans):
        _wait_for(port, graph)
        _harness(args, out, port, len(tasks))
        graph.check()
    pairs = pair_episodes(ours, read_harness_results(out / "vla-eval"))
    show(pairs)
    write_figures(args, {"suite": args.suite, "episodes": [asdict(pair) | {"agree": pair.agree} for pair in pairs]})
    return 0 if all(pair.agree for pair in pairs) else 1


def show(pairs: Sequence[EpisodePair]) -> None:
    """Print the episodes side by side."""
    table = new_table("by the released protocol, and by vla-eval", "what", "trial", "ours", "theirs", "steps")
    for pair in pairs:
        marks = ["none" if done is None else "yes" if done else "no" for done in (pair.ours, pair.theirs)]
        table.add_row(pair.instruction, str(pair.trial), *marks, " and ".join(map(str, pair.steps)))
    Console().print(table)
    print(f"{sum(pair.agree for pair in pairs)} of {len(pairs)} episodes agree")


def _by_ourselves(tasks: Sequence[LiberoTask], trials: int, expert: RecordedExpert) -> Iterator[SuiteEpisode]:
    for task in tasks:
        cell = LiberoCell(task, cameras=False)
        for trial in range(trials):
            yield run_by_protocol(cell, expert, trial, PlanLog())
        cell.close()


def _free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


@contextmanager
def _replaying(plans: dict[tuple[str, int], list[Any]]) -> Iterator[None]:
    """The stand-in for the policy, in a thread."""
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node, executor = PlanReplayNode(plans), SingleThreadedExecutor()
    executor.add_node(node)

    thread = threading.Thread(target=executor.spin, daemon=True)
    thread.start()
    try:
        yield
    finally:
        executor.shutdown()
        thread.join()
        rclpy.shutdown()


def _wait_for(port: int, graph: Bringup) -> None:
    """Wait until the server listens, and a little longer, until its topics have found each other."""
    end = time.monotonic() + READY
    while True:
        graph.check()
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            break
        except OSError:
            if time.monotonic() > end:
                raise RuntimeError(f"benchmark_server does not listen within {READY:g} s; look at its log") from None
            time.sleep(0.2)
    time.sleep(3.0)


def _harness(args: argparse.Namespace, out: Path, port: int, tasks: int) -> None:
    """Run vla-eval to its end. Raises RuntimeError, naming its log, where it fails."""
    results = out / "vla-eval"
    results.mkdir(exist_ok=True)
    entry = {
        "benchmark": "vla_eval.benchmarks.libero.benchmark:LIBEROBenchmark", "episodes_per_task": args.trials,
        "max_tasks": tasks, "params": {"suite": args.suite, "seed": 7, "env_seed": 0},
    }  # fmt: skip
    server = {"url": f"ws://127.0.0.1:{port}", "timeout": RESPONSE}
    config, log = out / "vla-eval.yaml", out / "vla-eval.log"
    config.write_text(yaml.safe_dump({"server": server, "output_dir": str(results), "benchmarks": [entry]}))
    program = libero_environment() / "bin" / "vla-eval"
    command = [str(program), "run", "-c", str(config), "--no-docker", "-y", "--render", "gpu"]
    with log.open("wb") as output:
        status = child_process.run(
            command, stdin=subprocess.DEVNULL, stdout=output, stderr=output, env=os.environ | RENDERING
        )
    if status:
        raise RuntimeError(f"vla-eval ended with status {status}; its output is in {log}")
