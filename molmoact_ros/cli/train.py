"""`molmoact-ros train`: a small model from scratch: for the simulated workcell, of either family, or for LIBERO."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path
from typing import Final

from molmoact_ros.evaluation.corrections import collect_corrections
from molmoact_ros.evaluation.libero_corrections import collect_libero_corrections
from molmoact_ros.training.libero_recipe import LiberoTrainConfig, train_libero
from molmoact_ros.training.molmoact2.recipe import RobotTrainConfig, train_robot_model
from molmoact_ros.training.train import TrainConfig, train_nano
from molmoact_ros.utils.arguments import above_zero
from molmoact_ros.utils.paths import robot_model

_SAMPLES: Final = {"molmoact": 48_000, "molmoact2": 24_000, "libero": 16_000}
_FOLDERS: Final = {"molmoact": "runs/nano", "molmoact2": "runs/nano2", "libero": "runs/libero"}
_USES: Final = {
    "molmoact": "use it with --checkpoint, or copy it to models/nano",
    "molmoact2": "use it with --checkpoint, or copy it to models/nano2",
    "libero": "use it with `eval --suite` and --checkpoint",
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add = parser.add_argument
    add("--family", choices=list(_SAMPLES), default="molmoact", help="molmoact2: state in, joints out; libero: a "
        "molmoact for LIBERO-Object and -Spatial")  # fmt: skip
    add("--out", type=Path, help="demonstrations, progress and result; default: runs/nano, runs/nano2 or runs/libero")
    add("--samples", type=above_zero(int), help="moments to demonstrate; default: 48000, of molmoact2 24000, of libero "
        "16000")  # fmt: skip
    add("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage and the rounds only; of "
        "molmoact2: whose tower it begins with; none of libero")  # fmt: skip
    add("--config", type=Path, help="a JSON file with changes of TrainConfig, RobotTrainConfig or LiberoTrainConfig")
    add("--workers", type=above_zero(int), help="processes that collect demonstrations and corrections; default: one a "
        "core")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, or resume a training run."""
    text, samples = args.config.read_text() if args.config else "{}", args.samples or _SAMPLES[args.family]
    robot, out, workers = robot_model(), args.out or Path(_FOLDERS[args.family]), args.workers or os.cpu_count() or 1
    correct = partial(collect_corrections, robot=robot, workers=workers)
    if args.family == "libero":
        if args.start is not None:
            raise ValueError("a model for LIBERO is trained from scratch; leave --start away")
        settings = LiberoTrainConfig.model_validate_json(text)
        on_libero = partial(collect_libero_corrections, tasks=settings.tasks, workers=workers)
        train_libero(out, samples, settings, workers, on_libero)
    elif args.family == "molmoact2":
        robot_settings = RobotTrainConfig.model_validate_json(text)
        train_robot_model(robot, out, samples, robot_settings, args.start, workers, correct)
    else:
        train_nano(robot, out, samples, TrainConfig.model_validate_json(text), args.start, workers, correct)
    print(f"checkpoint in {out / 'checkpoint'}; {_USES[args.family]}")
    print(f"report in {out / 'report.md'}")
    return 0
