"""`molmoact-ros to-lerobot`: converts bags into a LeRobot dataset."""

from __future__ import annotations

import argparse
import re
import sys
from contextlib import ExitStack
from pathlib import Path

from molmoact_ros.bags.recording import Recording, TopicNames, parse_remap
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.from_bag import of_bag
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.lerobot_writer import write_dataset
from molmoact_ros.utils.paths import robot_model


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the dataset")
    parser.add_argument("--fps", type=float, default=10, help="frames a second, such as 29.97")
    parser.add_argument("--video", action="store_true", help="images as H.264, with loss; default: PNG")
    parser.add_argument("--size", default="", metavar="WxH", help="scale all images; default: as they are")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    parser.add_argument("--instruction", default="", help="the task, where a bag does not say it")
    parser.add_argument(
        "--gripper", default="", metavar="JOINT=OPEN:CLOSED",
        help="another hand's joint, or 1 for an arm without a hand; default: the Franka Hand's fingers",
    )  # fmt: skip
    parser.add_argument("--remap", action="append", default=[], metavar="FROM:=TO", help="as for replay")


def run(args: argparse.Namespace) -> int:
    """Write the dataset; what was left out or changed goes to standard error, a line each."""
    if not 0 < args.fps <= 1000:
        raise ValueError(f"--fps {args.fps:g} is not possible; give frames per second, such as 10 or 29.97")
    names = TopicNames(cameras=tuple(args.cameras.split(",")), remap=parse_remap(args.remap))
    hand, size = HandSource.parse(args.gripper), _parse_size(args.size)
    with ExitStack() as stack:
        recordings = [stack.enter_context(Recording(bag, names)) for bag in args.bags]
        episodes = [_episode(recording, args, hand) for recording in recordings]
        notes = write_dataset(args.out, episodes, args.video, size)
    for bag, episode in zip(args.bags, episodes, strict=True):
        for note in episode.notes:
            print(f"{bag}: {note}", file=sys.stderr)
    for note in notes:
        print(note, file=sys.stderr)
    print(f"{len(episodes)} episodes, {sum(len(e.states) for e in episodes)} frames in {args.out}")
    return 0


def _episode(recording: Recording, args: argparse.Namespace, hand: HandSource) -> Demonstration:
    """One bag's demonstration. Raises ValueError, which names the bag if there are several."""
    try:
        return of_bag(recording, robot_model(), args.fps, args.instruction, hand)
    except ValueError as error:
        raise ValueError(f"{recording.bag}: {error}" if len(args.bags) > 1 else str(error)) from None


def _parse_size(given: str) -> tuple[int, int] | None:
    if not given:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", given)
    if found is None:
        raise ValueError(f"--size {given} is not understood; give width and height in pixels, such as 320x240")
    return int(found[1]), int(found[2])
