"""Answers a second that one engine generates for several robots at once."""

from __future__ import annotations

import argparse
import json
import sys
import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from rich.console import Console
from rich.table import Table

from molmoact_ros.engine.decoding.batching import BatchingRunner
from molmoact_ros.engine.model.checkpoint import torch_dtype
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.evaluation.rollout import sample_observations
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_dtype, add_json, add_seed, add_steps
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.progress import progress_bar
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

Row = dict[str, float]


def bench_batch(
    engine: TorchEngine, films: Sequence[Sequence[Observation]], counts: Sequence[int],
    tick: Callable[[], None] = lambda: None,
) -> list[Row]:  # fmt: skip
    """One row for each number of robots, each with observations of its own, which it sends without a pause.

    robots; rate: answers/s of all together; median: ms of a step; together: sequences in a batch, on average; turns:
    answers/s when the same robots are served one after another.
    """
    return [_row(engine, films[:count], tick) for count in counts]


def _row(engine: TorchEngine, films: Sequence[Sequence[Observation]], tick: Callable[[], None]) -> Row:
    engines = engine.together(len(films))
    began = time.perf_counter()
    for robot, frames in zip(engines, films, strict=True):
        _answer(robot, frames)
    turns = time.perf_counter() - began
    passes = engines[0].decoder.passes
    assert isinstance(passes, BatchingRunner)
    passes.passes = passes.shares = 0
    steps: list[list[float]] = [[] for _ in films]
    threads = [
        threading.Thread(target=lambda i=i: steps[i].extend(_answer(engines[i], films[i]))) for i in range(len(films))
    ]
    began = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    seconds, answers = time.perf_counter() - began, sum(map(len, films))
    tick()
    return {
        "robots": len(films), "rate": answers / seconds, "median": 1e3 * float(np.median(np.concatenate(steps))),
        "together": passes.shares / passes.passes, "turns": answers / turns,
    }  # fmt: skip


def _answer(engine: TorchEngine, sample_observations: Sequence[Observation]) -> list[float]:
    engine.forget()
    seconds = []
    for observation in sample_observations:
        began = time.perf_counter()
        for _ in engine.reason(observation):
            pass
        seconds.append(time.perf_counter() - began)
    return seconds


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument("--robots", type=above_zero(int), nargs="+", default=[1, 2, 4, 8], help="how many at once")
    parser.add_argument("--device", default="cpu", help="torch device, such as cuda")
    parser.add_argument("--quantization", default="", help="the decoder's weights in fp8 or int4")
    add_steps(parser)
    add_dtype(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    sys.setswitchinterval(0.0005)  # as in the policy's process
    engine = TorchEngine.load(
        checkpoint_of(args), args.device, 1, torch_dtype(args.dtype), quantization=args.quantization
    )
    with progress_bar("recording passes") as progress:
        engine.warm_up(progress)
    films = [sample_observations(robot_model(), args.steps, args.seed + i) for i in range(max(args.robots))]
    rows = bench_batch(engine, films, args.robots)
    table = Table(
        "robots", "answers/s", "in turns", "median step", "sequences a pass", title="one engine, several robots"
    )
    for row in rows:
        cells = row["rate"], row["turns"], row["median"], row["together"]
        table.add_row(f"{row['robots']}", *(f"{cell:.1f}" for cell in cells))
    Console().print(table)
    if args.json:
        write_whole(args.json, json.dumps({"seed": args.seed, **machine(engine.digest), "rows": rows}, indent=1))
    return 0
