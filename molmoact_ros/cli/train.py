"""`molmoact-ros train`: the nano model, or a small MolmoAct 2, from scratch."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from molmoact_ros.evaluation.corrections import collect_corrections
from molmoact_ros.training.molmoact2.recipe import RobotTrainConfig, train_robot_model
from molmoact_ros.training.train import TrainConfig, train_nano
from molmoact_ros.utils.arguments import above_zero
from molmoact_ros.utils.paths import robot_model

_SAMPLES = {"molmoact": 48_000, "molmoact2": 24_000}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add = parser.add_argument
    add("--family", choices=list(_SAMPLES), default="molmoact", help="molmoact2: state in, absolute joints out")
    add("--out", type=Path, help="demonstrations, progress and result; default: runs/nano, of MolmoAct 2 runs/nano2")
    add("--samples", type=above_zero(int), help="moments to demonstrate; default: 48000, of MolmoAct 2 24000")
    add("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage and the rounds only; of "
        "MolmoAct 2: whose tower it begins with")  # fmt: skip
    add("--config", type=Path, help="a JSON file with changes of TrainConfig, of MolmoAct 2 of RobotTrainConfig")
    add("--workers", type=above_zero(int), help="processes that collect demonstrations and corrections; default: one a "
        "core")  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Train, or resume a training run."""
    robot, text = robot_model(), args.config.read_text() if args.config else "{}"
    samples, workers = args.samples or _SAMPLES[args.family], args.workers or os.cpu_count() or 1
    correct = partial(collect_corrections, robot=robot, workers=workers)
    if args.family == "molmoact2":
        out, place = args.out or Path("runs/nano2"), "models/nano2"
        settings = RobotTrainConfig.model_validate_json(text)
        train_robot_model(robot, out, samples, settings, args.start, workers, correct)
    else:
        out, place = args.out or Path("runs/nano"), "models/nano"
        train_nano(robot, out, samples, TrainConfig.model_validate_json(text), args.start, workers, correct)
    print(f"checkpoint in {out / 'checkpoint'}; use it with --checkpoint, or copy it to {place}")
    print(f"report in {out / 'report.md'}")
    return 0
