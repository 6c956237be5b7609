"""`molmoact-ros train`: the nano model from scratch."""

from __future__ import annotations

import argparse
import os
from functools import partial
from pathlib import Path

from molmoact_ros.evaluation.corrections import collect_corrections
from molmoact_ros.training.train import TrainConfig, train_nano
from molmoact_ros.utils.arguments import above_zero
from molmoact_ros.utils.paths import robot_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--out", type=Path, default=Path("runs/nano"), help="demonstrations, progress and result")
    parser.add_argument("--samples", type=above_zero(int), default=48_000, help="moments to demonstrate")
    parser.add_argument(
        "--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage and the rounds only"
    )
    parser.add_argument("--config", type=Path, help="a JSON file with changes of training/train.py's TrainConfig")
    parser.add_argument(
        "--workers", type=above_zero(int), help="processes that collect moments and episodes; default: one a core"
    )


def run(args: argparse.Namespace) -> int:
    """Train, or resume a training run."""
    config = TrainConfig.model_validate_json(args.config.read_text()) if args.config else TrainConfig()
    robot, workers = robot_model(), args.workers or os.cpu_count() or 1
    correct = partial(collect_corrections, robot=robot, workers=workers)
    train_nano(robot, args.out, args.samples, config, args.start, workers, correct)
    print(f"checkpoint in {args.out / 'checkpoint'}; use it with --checkpoint, or copy it to models/nano")
    print(f"report in {args.out / 'report.md'}")
    return 0
