"""`molmoact-ros train`: a small model from scratch, for the simulated workcell or for LIBERO."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Final

from molmoact_ros.evaluation.libero_corrections import correct_task
from molmoact_ros.training.libero_recipe import LiberoConfig, train_libero
from molmoact_ros.training.train import TrainConfig, train_nano
from molmoact_ros.utils.arguments import above_zero
from molmoact_ros.utils.paths import robot_model

FAMILIES: Final = {"nano": 48_000, "libero": 24_000}
"""Small models that are trained here, and how many moments are demonstrated for each."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument(
        "--family", choices=FAMILIES, default="nano",
        help="nano: for the workcell; libero: for LIBERO-Object and -Spatial (docs/benchmarks.md)",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, help="demonstrations, progress and result; default: runs/FAMILY")
    parser.add_argument(
        "--samples", type=above_zero(int),
        help="moments to demonstrate; default: " + ", ".join(f"{n} for {name}" for name, n in FAMILIES.items()),
    )  # fmt: skip
    parser.add_argument("--start", type=Path, help="a nano checkpoint to train on: its weights, the last stage only")
    parser.add_argument("--config", type=Path, help="a JSON file with changes of the family's TrainConfig")


def run(args: argparse.Namespace) -> int:
    """Train, or resume a training run."""
    out, samples = args.out or Path("runs") / args.family, args.samples or FAMILIES[args.family]
    settings = args.config.read_text() if args.config else "{}"
    if args.family == "libero":
        if args.start is not None:
            raise ValueError("--start is for the nano only; a model for LIBERO is trained from scratch")
        train_libero(out, samples, LiberoConfig.model_validate_json(settings), correct_task)
        print(f"checkpoint in {out / 'checkpoint'}; use it with `eval --suite` and --checkpoint")
        return 0
    train_nano(robot_model(), out, samples, TrainConfig.model_validate_json(settings), args.start)
    print(f"checkpoint in {out / 'checkpoint'}; use it with --checkpoint, or copy it to models/nano")
    return 0
