"""`molmoact-ros to-lerobot`: converts bags into a LeRobot dataset."""

from __future__ import annotations

import argparse
from contextlib import ExitStack
from pathlib import Path

from molmoact_ros.bags.recording import Recording, TopicNames, parse_remap
from molmoact_ros.datasets.from_bag import of_bag
from molmoact_ros.datasets.lerobot_writer import write_dataset
from molmoact_ros.utils.paths import robot_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the dataset")
    parser.add_argument("--fps", type=int, default=10, help="frames a second")
    parser.add_argument("--video", action="store_true", help="pictures as H.264, with loss; default: PNG")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    parser.add_argument("--instruction", default="", help="the task, where a bag does not say it")
    parser.add_argument("--remap", action="append", default=[], metavar="FROM:=TO", help="as for replay")


def run(args: argparse.Namespace) -> int:
    """Write the dataset."""
    names = TopicNames(cameras=tuple(args.cameras.split(",")), remap=parse_remap(args.remap))
    with ExitStack() as stack:
        recordings = [stack.enter_context(Recording(bag, names)) for bag in args.bags]
        episodes = [of_bag(recording, robot_model(), args.fps, args.instruction) for recording in recordings]
        write_dataset(args.out, episodes, args.video)
    for bag, episode in zip(args.bags, episodes, strict=True):
        for note in episode.notes:
            print(f"{bag}: {note}")
    print(f"{len(episodes)} episodes, {sum(len(e.states) for e in episodes)} frames in {args.out}")
    return 0
