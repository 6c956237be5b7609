"""`molmoact-ros from-lerobot`: converts episodes of a LeRobot dataset into bags."""

from __future__ import annotations

import argparse
from pathlib import Path

from tqdm import tqdm

from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.to_bag import write_bag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the bags")
    parser.add_argument("--episode", type=int, action="append", help="which; repeat; default: all")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")


def run(args: argparse.Namespace) -> int:
    """Write the bags."""
    dataset = Dataset.open(args.dataset)
    numbers = args.episode or list(range(dataset.episodes))
    for number in tqdm(numbers, unit="episode"):
        write_bag(args.out / f"episode_{number:06d}", dataset.episode(number), args.cameras.split(","))
    print(f"{len(numbers)} bags in {args.out}")
    return 0
