"""Many episodes through the ROS graph, and a table of their outcomes."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.cli import evaluate_gym, evaluate_suite, evaluate_two_arms
from molmoact_ros.cli.demo import row
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.evaluation import metrics, trace_rollout
from molmoact_ros.evaluation.metrics import Row, summary
from molmoact_ros.evaluation.rollout import TIMEOUT
from molmoact_ros.sim.scene import Scene, Task, sample_scene
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_json, not_negative
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole


def swapped(scene: Scene) -> str:
    """The scene's instruction with another object of the same table in place of the first one."""
    other = scene.objects[1].name
    return Task(other, scene.task.target, scene.task.verb).instruction


def evaluate(episodes: int, seed: int, checkpoint: Path, swap: bool, task: str = "") -> Iterator[Row]:
    """Yield the figures of each episode; scenes are seeds `seed`, `seed` + 1, ...

    task: asked in every scene; empty: what the scene asks for, or with `swap` see `swapped`.
    """
    use_environment()
    profile = Profile.read("sim").with_parameters({"policy": {"checkpoint": str(checkpoint)}})
    logs = tempfile.TemporaryDirectory(prefix="molmoact-")
    with logs, Bringup(profile, Path(logs.name)) as graph, Session() as client:
        client.wait_until_ready(profile.nodes, graph.check)
        for number in range(seed, seed + episodes):
            wanted = swapped(sample_scene(number)) if swap else task
            asked = client.reset(number, wanted)
            episode = client.run(asked, number, TIMEOUT, graph.check)
            yield row(episode, -1, robot_model(), checkpoint)


def show(rows: list[Row], console: Console) -> None:
    """Print the table: a line for each kind of task, and one for all."""
    table = Table(title=f"{len(rows)} episodes")
    for heading in ("task", "episodes", "success", "right object first", "trace error", "depth codes", "step"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for kind, f in summary(rows).items():
        table.add_row(
            kind, f"{f['episodes']:.0f}", f"{f['success']:.0%}", f"{f['right_object_first']:.0%}",
            f"{f['trace_error_px']:.0f} px", f"{f['depth_code_accuracy']:.0%}", f"{f['step_ms']:.0f} ms",
        )  # fmt: skip
    console.print(table)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--episodes", type=above_zero(int), default=40)
    parser.add_argument(
        "--seed", type=not_negative(int), default=1000, help="the first scene; training uses seeds from a million on"
    )
    asked = parser.add_mutually_exclusive_group()
    asked.add_argument("--task", default="", help="ask for this in every scene; default: what the scene asks for")
    asked.add_argument("--swap", action="store_true", help="ask for another object of the same table")
    asked.add_argument(
        "--steer",
        action="store_true",
        help="draw a stroke to an object that the instruction does not name; in lock-step, without ROS, so that a busy "
        "machine changes nothing",
    )
    add_checkpoint(parser)
    add_json(parser)
    evaluate_suite.add_arguments(parser)
    evaluate_gym.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Run the episodes and print their outcomes."""
    if args.suite == evaluate_two_arms.SUITE:
        return evaluate_two_arms.run(args)
    if args.suite:
        return evaluate_suite.run(args)
    if args.gym:
        return evaluate_gym.run(args)
    return _steered(args) if args.steer else _asked(args)


def _steered(args: argparse.Namespace) -> int:
    engine, results = open_engine(EngineOptions(), checkpoint_of(args)), []
    strokes = trace_rollout.follow_strokes(robot_model(), engine, args.episodes, args.seed)
    for result in tqdm(strokes, total=args.episodes, unit="stroke", mininterval=5):
        results.append(result)
        tqdm.write(f"{result.seed} {result}")
        figures = trace_rollout.report(results)
        if args.json:
            write_whole(args.json, json.dumps({"seed": args.seed, **machine(engine.digest), **figures}, indent=1))
    for name, value in figures["summary"].items():
        print(f"{name:12} {value:.3g}")
    return 0


def _asked(args: argparse.Namespace) -> int:
    console, rows, checkpoint = Console(), [], checkpoint_of(args)
    if args.task:
        Task.parse(args.task)  # said before the nodes start
    for done in evaluate(args.episodes, args.seed, checkpoint, args.swap, args.task):
        rows.append(done)
        mark = "[green]yes[/]" if done.success else "[red]no[/] "
        console.print(f"{done.seed} {mark} {done.instruction}; first lifted: {done.first_lifted or 'nothing'}")
        if args.json:
            write_whole(args.json, json.dumps(metrics.report(rows, digest(checkpoint), args.seed), indent=1))
    show(rows, console)
    return 0
