"""A suite of LIBERO's tasks: a checkpoint or the expert, by the released protocol or through the controller."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table
from tqdm import tqdm

from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.evaluation.libero_policy import EnginePolicy, ExpertPolicy, LiberoPolicy
from molmoact_ros.evaluation.libero_rollout import LATENCY, run_by_protocol, run_deployed
from molmoact_ros.evaluation.suite_report import PlanLog, SuiteEpisode, SuiteRecord, SuiteSettings
from molmoact_ros.sim.libero_cell import LiberoCell
from molmoact_ros.sim.libero_suite import LiberoTask, read_suite
from molmoact_ros.utils.arguments import above_zero, not_negative
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.visualization.video import VideoWriter

RECORD = "results.json"
FPS = 5.0
"""Of videos: two images of plans by protocol take a second of simulated time."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the options of suites to the command `eval`."""
    suite = parser.add_argument_group("a suite of LIBERO's (docs/benchmarks.md)")
    suite.add_argument("--suite", help="such as libero_object, libero_spatial or libero_object_swap")
    suite.add_argument("--trials", type=above_zero(int), default=10, help="initial states of each task; default 10")
    suite.add_argument("--tasks", type=_numbers, help="numbers of tasks, such as 0,3; default: all")
    suite.add_argument("--deployed", action="store_true", help="through our controller, in simulated time")
    suite.add_argument(
        "--latency", type=not_negative(float), default=LATENCY,
        help=f"with --deployed: s from image to plan; default {LATENCY}",
    )  # fmt: skip
    suite.add_argument("--expert", action="store_true", help="the scripted expert in place of a checkpoint")
    suite.add_argument("--out", type=Path, help="folder of the record and videos; default: runs/SUITE-MODE")
    suite.add_argument("--unnorm-key", default="", help="the checkpoint's statistics, where there are several")
    suite.add_argument("--device", default="cpu", help="torch device, such as cuda")
    suite.add_argument("--dtype", default="", help="float32, bfloat16 or float16; default: bfloat16 on a GPU")


def _numbers(text: str) -> list[int]:
    return [int(part) for part in text.split(",")]


def run(args: argparse.Namespace) -> int:
    """Run the episodes that are not recorded yet, and print the table."""
    tasks = read_suite(args.suite)
    chosen = [task for task in tasks if args.tasks is None or task.number in args.tasks]
    unknown = sorted(set(args.tasks or []) - {task.number for task in tasks})
    if unknown:
        raise ValueError(f"{args.suite} has the tasks 0 to {len(tasks) - 1}, not {unknown[0]}")
    policy = open_policy(args)
    mode = "deployed" if args.deployed else "protocol"
    settings = SuiteSettings(args.suite, mode, policy.name, args.latency if args.deployed else 0.0)
    out: Path = args.out or Path("runs") / f"{args.suite}-{mode}"
    record = open_record(out, settings)
    missing = [(task, trial) for task in chosen for trial in range(args.trials) if not record.has(task.number, trial)]
    keep_record(record, run_all(missing, policy, settings, out / "failures"), len(missing))
    return 0


def open_record(folder: Path, settings: SuiteSettings) -> SuiteRecord:
    """The record in a folder, which is made if it is missing. Raises ValueError if it is of other settings."""
    folder.mkdir(parents=True, exist_ok=True)
    return SuiteRecord(folder / RECORD, settings, machine(settings.policy.partition(" ")[0]))


def keep_record(record: SuiteRecord, episodes: Iterable[SuiteEpisode], total: int) -> None:
    """Run `total` episodes as they are asked for, write each down, and print the table."""
    for result in tqdm(episodes, total=total, unit="episode", mininterval=5):
        record.append(result)
        mark = "yes" if result.success else "no "
        tqdm.write(f"{result.task} {result.trial} {mark} {result.instruction}; {result.steps} steps")
    console = Console()
    show(record, console)
    console.print(f"the record is {record.file}", soft_wrap=True)


def open_policy(args: argparse.Namespace) -> LiberoPolicy:
    """Who plans, by the command's options."""
    if args.expert:
        return ExpertPolicy()
    return EnginePolicy(open_engine(engine_options(args), checkpoint_of(args)))


def engine_options(args: argparse.Namespace) -> EngineOptions:
    """How the checkpoint is run, by the command's options."""
    return EngineOptions(device=args.device, dtype=args.dtype, unnorm_key=args.unnorm_key)


def run_all(
    episodes: Sequence[tuple[LiberoTask, int]], policy: LiberoPolicy, settings: SuiteSettings, videos: Path
) -> Iterator[SuiteEpisode]:
    """Run episodes, tasks and trials, one after the other; a failed one with images leaves a video in `videos`."""
    cell: LiberoCell | None = None
    for task, trial in episodes:
        if cell is None or cell.task is not task:
            if cell is not None:
                cell.close()
            cell = LiberoCell(task, cameras=policy.needs_cameras)
        log = PlanLog()
        if settings.mode == "deployed":
            result = run_deployed(cell, policy, trial, log, robot_model(), settings.latency)
        else:
            result = run_by_protocol(cell, policy, trial, log)
        if not result.success and log.frames:
            save_video(videos / f"task{task.number}_trial{trial}.mp4", log)
        yield result
    if cell is not None:
        cell.close()


def save_video(file: Path, log: PlanLog) -> None:
    """Write what an episode's plans were made from, in a folder that is made if it is missing."""
    file.parent.mkdir(exist_ok=True)
    with VideoWriter(file, FPS) as video:
        for frame in log.frames:
            video.write(frame)


def show(record: SuiteRecord, console: Console) -> None:
    """Print the table: a line for each task, and one for all."""
    of = record.settings
    table = Table(title=f"{of.suite}, {of.mode}, {of.policy}")
    for heading in ("task", "episodes", "success", "95 % interval", "steps", "reasoning step", "refused"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for name, f in record.summary().items():
        low, high = f["interval"]
        table.add_row(
            name, str(f["episodes"]), f"{f['success']:.0%}", f"{low:.0%} to {high:.0%}", f"{f['steps']:.0f}",
            f"{f['step_seconds'] * 1e3:.0f} ms", str(f["refused_steps"] + f["refused_chunks"]),
        )  # fmt: skip
    console.print(table)
