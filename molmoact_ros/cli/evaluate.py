"""Many episodes, through the ROS graph or in lock-step, and a table of their outcomes."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.cli import evaluate_gym, evaluate_suite, evaluate_two_arms
from molmoact_ros.cli.demo import for_checkpoint, row
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.checkpoint import load_depth_decoder, read_tokenizer
from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.evaluation import lockstep, metrics, trace_rollout
from molmoact_ros.evaluation.metrics import Row, summary
from molmoact_ros.evaluation.rollout import PERIOD, TIMEOUT
from molmoact_ros.evaluation.workcell_expert import WorkcellExpert
from molmoact_ros.sim.scene import LONG_SHAPES, SHAPES, Scene, Task, sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.tokenizer import known_shapes
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_json, not_negative
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole


def swapped(scene: Scene) -> str:
    """The scene's instruction with another object of the same table in place of the first one."""
    other = scene.objects[1].name
    return Task(other, scene.task.target, scene.task.verb).instruction


def asked_scenes(
    episodes: int, seed: int, swap: bool, task: str, shapes: Sequence[str] = SHAPES
) -> list[tuple[int, Scene]]:
    """The scenes of the seeds `seed`, `seed` + 1, ..., with what is asked in them, and objects of `shapes`.

    task: asked in every scene; empty: what the scene asks for, or with `swap` see `swapped`. Raises ValueError for a
    task that the workcell does not know.
    """
    scenes = []
    for number in range(seed, seed + episodes):
        asked = swapped(sample_scene(number, shapes=shapes)) if swap else task
        scenes.append((number, sample_scene(number, None, asked, shapes)))
    return scenes


def evaluate(
    scenes: list[tuple[int, Scene]], shapes: Sequence[str], checkpoint: Path, period: float = PERIOD
) -> Iterator[Row]:
    """Yield the figures of an episode in each scene, of objects of `shapes`.

    period: least time from one plan's image to the next's, s.
    """
    use_environment()
    profile = for_checkpoint(Profile.read("sim"), checkpoint, shapes, period=period)
    logs = tempfile.TemporaryDirectory(prefix="molmoact-")
    with logs, Bringup(profile, Path(logs.name)) as graph, Session() as client:
        client.wait_until_ready(profile.nodes, graph.check)
        for number, scene in scenes:
            asked = client.reset(number, scene.task.instruction)
            episode = client.run(asked, number, TIMEOUT, graph.check)
            yield row(episode, scene, robot_model(), checkpoint)


def evaluate_in_lockstep(
    scenes: list[tuple[int, Scene]], shapes: Sequence[str], checkpoint: Path | None, period: float = PERIOD,
    moved_cameras: bool = False,
) -> Iterator[Row]:  # fmt: skip
    """The same without ROS, in simulated time. checkpoint: None: the scripted expert.

    moved_cameras: see `lockstep.run_scenes`.
    """
    robot = robot_model()
    cell = Workcell(robot, shapes=shapes)
    engine = WorkcellExpert(cell) if checkpoint is None else open_engine(EngineOptions(), checkpoint)
    vq = None if checkpoint is None else load_depth_decoder(checkpoint)
    yield from lockstep.run_scenes(cell, engine, vq, robot, scenes, period, moved_cameras)


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
    parser.add_argument(
        "--lockstep", action="store_true", help="without ROS, in simulated time, so that a busy machine changes nothing"
    )
    parser.add_argument(
        "--moved-cameras",
        action="store_true",
        help="with --lockstep: in each scene the cameras stand up to 2 cm and 2 degrees off, in another light",
    )
    parser.add_argument(
        "--period",
        type=not_negative(float),
        default=PERIOD,
        help="least time from one plan's image to the next's, s; 0: it plans all the time",
    )
    parser.add_argument(
        "--shapes",
        nargs="+",
        choices=SHAPES + LONG_SHAPES,
        help="of the scenes' objects; default: those that the checkpoint's tokenizer has names for",
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
    if (args.moved_cameras or args.expert) and not args.lockstep:
        raise ValueError("--moved-cameras and, in the workcell, --expert go with --lockstep; add it")
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
    rows: list[Row] = []
    checkpoint = None if args.expert else checkpoint_of(args)
    shapes = args.shapes or (SHAPES if checkpoint is None else known_shapes(read_tokenizer(checkpoint)))
    scenes = asked_scenes(args.episodes, args.seed, args.swap, args.task, shapes)
    if args.lockstep or checkpoint is None:
        outcomes = evaluate_in_lockstep(scenes, shapes, checkpoint, args.period, args.moved_cameras)
    else:
        outcomes = evaluate(scenes, shapes, checkpoint, args.period)
    made_by = "" if checkpoint is None else digest(checkpoint)
    for done in tqdm(outcomes, total=args.episodes, unit="episode", mininterval=5):
        rows.append(done)
        mark = "yes" if done.success else "no "
        tqdm.write(f"{done.seed} {mark} {done.instruction}; first lifted: {done.first_lifted or 'nothing'}")
        if args.json:
            figures = metrics.report(rows, made_by, args.seed) | _how(args)
            write_whole(args.json, json.dumps(figures, indent=1))
    show(rows, Console())
    return 0


def _how(args: argparse.Namespace) -> dict[str, object]:
    options = ("lockstep", "moved_cameras", "period", "expert")
    return {name: getattr(args, name) for name in options}
