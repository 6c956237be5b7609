"""`molmoact-ros rehearse`: labelled samples of what a nano checkpoint knows already, for `finetune --rehearse`."""

from __future__ import annotations

import argparse
from pathlib import Path

from molmoact_ros.training.demonstrations import TRAIN_SEED
from molmoact_ros.training.rehearsal import write_rehearsal
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, not_negative
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.progress import progress_bar

ABOUT = """Samples states of the simulated workcell and labels them as in the nano model's training: images of both
cameras, depth tokens of the checkpoint's depth decoder, the expert's trace and actions, normalised by the checkpoint's
statistics under its own key."""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.description = ABOUT
    parser.add_argument("--samples", type=above_zero(int), default=4000, help="default 4000")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for them")
    add_checkpoint(parser)
    parser.add_argument("--unnorm-key", default="", help="of the checkpoint, where it has several")
    parser.add_argument(
        "--seed", type=not_negative(int), default=TRAIN_SEED, help="of the first state; default: as in training"
    )


def run(args: argparse.Namespace) -> int:
    """Write the samples."""
    with progress_bar("sampling") as progress:
        report = write_rehearsal(
            robot_model(), checkpoint_of(args), args.out, args.samples, args.seed, args.unnorm_key, progress
        )
    print(f"{report.frames} samples in {args.out}; train with: molmoact-ros finetune --rehearse {args.out}")
    return 0
