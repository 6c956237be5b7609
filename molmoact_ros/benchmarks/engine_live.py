"""Engine timings under live conditions: beside the simulator and the controller, which share the machine."""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

from rich.console import Console
from rich.table import Table

from molmoact_ros.benchmarks.engine_chart import draw_engine
from molmoact_ros.benchmarks.engine_step import BASELINE, FLOOR, Figures, bench, floor, memory
from molmoact_ros.benchmarks.flow_step import REFERENCE, bench_flow
from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.engine.model.folder_kind import family
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vision.selection import VISIONS
from molmoact_ros.evaluation.rollout import sample_observations
from molmoact_ros.utils.arguments import add_checkpoint, add_json, add_seed, add_steps, output_file
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole


def bench_engine(
    checkpoint: Path, steps: int, seed: int, alone: bool, vision: str = "auto"
) -> tuple[Figures, dict[str, dict[str, float]], TorchEngine]:
    """Figures of `steps` reasoning steps, the lower bound of a forward pass and the peak memory (see
    engine_step.bench), and the engine. seed: of the scene. alone: with nothing else running. vision: what
    runs the vision tower.
    """
    pictures = sample_observations(robot_model(), steps, seed)
    engine = TorchEngine.load(checkpoint, threads=1, vision=vision)  # as in the simulated workcell's profile
    engine.warm_up()
    costs = {"floor": floor(engine)}
    with nullcontext() if alone else simulator():
        figures = bench(engine, pictures)
    return figures, costs | {"memory": memory()}, engine


@contextmanager
def simulator() -> Iterator[None]:
    """Simulator and controller beside what is measured."""
    use_environment()
    others = Profile.read("sim").without("policy")
    with (
        tempfile.TemporaryDirectory(prefix="molmoact-") as logs,
        Bringup(others, Path(logs)) as graph,
        Session() as client,
    ):
        client.wait_until_ready(others.nodes, graph.check)
        yield


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument("--alone", action="store_true", help="without simulator and controller beside it")
    parser.add_argument("--chart", type=output_file, help="also draw the figures into this PNG or SVG file")
    parser.add_argument("--vision", choices=VISIONS, default="auto", help="what runs the vision tower; default: auto")
    add_steps(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    if family(checkpoint_of(args)) == "molmoact2":
        return run_flow(args)
    figures, costs, engine = bench_engine(checkpoint_of(args), args.steps, args.seed, args.alone, args.vision)
    beside = "alone" if args.alone else "beside the simulator and the controller"
    table = Table("stage", "median", "p99", title=f"{args.steps} steps {beside}, checkpoint {engine.digest}")
    for name, f in figures.items():
        unit = "" if name.startswith(("passes", "tokens", "guesses")) else " ms"
        table.add_row(name, f"{f['median']:.1f}{unit}", f"{f['p99']:.1f}{unit}")
    console = Console()
    console.print(table)
    middle = {name: f["median"] for name, f in figures.items()}
    ratio, within = middle[BASELINE] / middle["step"], middle["step"] / middle[FLOOR]
    console.print(f"{ratio:.1f} times the speed of transformers' generate, greedy, over the same weights")
    console.print(
        "a step takes {0:.2f} times its floor of {floor:.1f} ms: {floor, passes:.1f} ms for {passes:.0f} passes over a "
        "token, {floor, vision:.1f} ms for the tower ({1}) and {floor, prefill:.1f} ms for the prefill, each measured "
        "apart in this run".format(within, engine.vision_by, **middle)
    )
    console.print(
        "a pass over one token takes {pass:.2f} ms; reading its {weights:.0f} MB of weights takes {floor:.2f} ms "
        "at the measured {copy:.0f} GB/s".format(**costs["floor"])
    )
    if args.json:
        about = {"seed": args.seed, "beside": beside, "vision": engine.vision_by, **machine(engine.digest)}
        ratios = {"ratio": ratio, "within": within}
        write_whole(args.json, json.dumps(about | ratios | {"figures": figures, **costs}, indent=1))
    if args.chart:
        draw_engine(figures, f"{args.steps} steps {beside}", args.chart)
    return 0


def run_flow(args: argparse.Namespace) -> int:
    """The same of a MolmoAct 2 checkpoint: its step without depth beside the reference's loop of eager steps."""
    pictures = sample_observations(robot_model(), args.steps, args.seed)
    engine = MolmoAct2Engine.load(checkpoint_of(args), threads=1, vision=args.vision)
    engine.warm_up()
    with nullcontext() if args.alone else simulator():
        figures = bench_flow(engine, pictures)
    beside = "alone" if args.alone else "beside the simulator and the controller"
    table = Table("stage", "median", "p99", title=f"{args.steps} steps {beside}, checkpoint {engine.digest}")
    for name, f in figures.items():
        table.add_row(name, *(f"{f[k]:.1e}" if name == "error" else f"{f[k]:.1f} ms" for k in ("median", "p99")))
    console, ratio = Console(), figures[REFERENCE]["median"] / figures["step"]["median"]
    console.print(table)
    console.print(
        f"{ratio:.1f} times the speed of the reference's way, a tower in torch and {engine.flow_steps} eager steps, "
        f"over the same weights; the tower is {engine.vision_by}"
    )
    if args.json:
        about = {"seed": args.seed, "beside": beside, "vision": engine.vision_by, **machine(engine.digest)}
        write_whole(args.json, json.dumps(about | {"ratio": ratio, "figures": figures, "memory": memory()}, indent=1))
    return 0
