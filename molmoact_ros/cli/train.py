"""`molmoact-ros train`: a small model from scratch, for the simulated workcell or for LIBERO."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Final

from molmoact_ros.evaluation.corrections import collect_corrections
from molmoact_ros.evaluation.libero_corrections import collect_libero_corrections
from molmoact_ros.training.libero_recipe import LiberoTrainConfig, train_libero
from molmoact_ros.training.train import TrainConfig, train_nano
from molmoact_ros.utils.arguments import above_zero
from molmoact_ros.utils.paths import robot_model

_SAMPLES: Final = {"molmoact": 48_000, "libero": 16_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add = parser.add_argument
    add("--family", choices=list(_SAMPLES), default="molmoact", help="libero: for LIBERO-Object and -Spatial")
    add("--out", type=Path, help="demonstrations, progress and result; default: runs/nano, of libero runs/libero")
    add("--samples", type=above_zero(int), help="moments to demonstrate; default: 48000, of libero 16000")
    add("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage and the rounds only; "
        "none of libero")  # fmt: skip
    add("--config", type=Path, help="a JSON file with changes of TrainConfig, of libero of LiberoTrainConfig")
    add("--workers", type=above_zero(int), help="processes that collect moments and episodes; default: one a core")


def run(args: argparse.Namespace) -> int:
    """Train, or resume a training run."""
    text, samples = args.config.read_text() if args.config else "{}", args.samples or _SAMPLES[args.family]
    workers = args.workers or os.cpu_count() or 1
    if args.family == "libero":
        if args.start is not None:
            raise ValueError("a model for LIBERO is trained from scratch; leave --start away")
        out, use = args.out or Path("runs/libero"), "use it with `eval --suite` and --checkpoint"
        settings = LiberoTrainConfig.model_validate_json(text)
        correct = partial(collect_libero_corrections, tasks=settings.tasks, workers=workers)
        train_libero(out, samples, settings, workers, correct)
    else:
        robot, out = robot_model(), args.out or Path("runs/nano")
        use = "use it with --checkpoint, or copy it to models/nano"
        config = TrainConfig.model_validate_json(text)
        label = partial(collect_corrections, robot=robot, workers=workers)
        train_nano(robot, out, samples, config, args.start, workers, label)
    print(f"checkpoint in {out / 'checkpoint'}; {use}")
    print(f"report in {out / 'report.md'}")
    return 0
