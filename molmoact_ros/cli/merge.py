"""Merges a LoRA adapter into the checkpoint that it was trained on."""

from __future__ import annotations

import argparse
from pathlib import Path

from molmoact_ros.engine.model.merge import base_of, merge
from molmoact_ros.utils.progress import progress_bar


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("adapter", type=Path, help="folder of the adapter, as PEFT or Ai2's trainer saved it")
    parser.add_argument("--out", type=Path, required=True, help="new folder of the merged checkpoint")
    parser.add_argument("--base", type=Path, help="folder of the checkpoint; default: the one that the adapter names")
    parser.add_argument(
        "--norm-stats",
        type=Path,
        help="of the training data, such as dataset_statistics.json; default: base's",
    )


def run(args: argparse.Namespace) -> int:
    """Merge, with a progress bar; the new folder appears only once it is whole."""
    base = base_of(args.adapter, args.base)
    with progress_bar("tensors") as progress:
        merge(args.adapter, base, args.out, args.norm_stats, progress)
    print(f"merged into {base}: {args.out}; look at it with: molmoact-ros doctor --checkpoint {args.out}")
    return 0
