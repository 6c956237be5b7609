"""`molmoact-ros to-lerobot`: converts bags, and other LeRobot datasets, into a LeRobot dataset."""

from __future__ import annotations

import argparse
import re
import sys
from collections.abc import Iterator
from pathlib import Path

from molmoact_ros.bags.recording import TopicNames, parse_remap
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.episode_source import EpisodeSource, SourceOptions, is_dataset
from molmoact_ros.datasets.gripper_scale import parse_scale
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.lerobot_format import VERSIONS
from molmoact_ros.datasets.lerobot_writer import WriteOptions, write_dataset
from molmoact_ros.datasets.mapping_options import MappingOptions


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("bags", type=Path, nargs="+", metavar="BAG", help="bags, or folders of LeRobot datasets")
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the dataset")
    parser.add_argument("--version", choices=VERSIONS, default=VERSIONS[0], help="of the format; default: %(default)s")
    parser.add_argument("--fps", type=float, default=10, help="frames a second of bags, such as 29.97")
    parser.add_argument("--video", action="store_true", help="images as H.264, with loss; default: PNG")
    parser.add_argument("--size", default="", metavar="WxH", help="scale all images; default: as they are")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    parser.add_argument("--instruction", default="", help="the task, where a bag does not say it")
    parser.add_argument(
        "--gripper", default="", metavar="JOINT=OPEN:CLOSED",
        help="another hand's joint, or 1 for an arm without a hand; default: the Franka Hand's fingers. "
        "Of datasets: as for from-lerobot",
    )  # fmt: skip
    parser.add_argument(
        "--gripper-out", default="1:0", metavar="OPEN:CLOSED",
        help="the values that mean open and closed in the dataset; for MolmoAct's own fine-tuning script 0:1",
    )  # fmt: skip
    for kind in ("state", "actions"):
        parser.add_argument(f"--{kind}", default="", metavar="[KEY=]ROLE,...", help="of datasets: as for from-lerobot")
    parser.add_argument("--action-scale", default="", metavar="M,RAD", help="of datasets: as for from-lerobot")
    parser.add_argument("--remap", action="append", default=[], metavar="FROM:=TO", help="as for replay")


def run(args: argparse.Namespace) -> int:
    """Write the dataset; what was left out or changed goes to standard error, a line each."""
    if not 0 < args.fps <= 1000:
        raise ValueError(f"--fps {args.fps:g} is not possible; give frames per second, such as 10 or 29.97")
    scale = parse_scale(args.gripper_out, f"--gripper-out {args.gripper_out}")
    options = WriteOptions(args.version, args.video, _parse_size(args.size), scale)
    source = EpisodeSource(args.bags, source_options(args))
    written = write_dataset(args.out, _with_notes(source), options)
    left_out = source.left_out | written.left_out
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    for note in written.notes:
        print(note, file=sys.stderr)
    print(f"{written.episodes} episodes, {written.frames} frames in {args.out}")
    return 0


def source_options(args: argparse.Namespace) -> SourceOptions:
    """How episodes are read, from the command's options. Raises ValueError for one that is not understood."""
    datasets = [path for path in args.bags if is_dataset(path)]
    if datasets and len(datasets) < len(args.bags) and args.gripper:
        raise ValueError("--gripper means another thing for bags and for datasets; convert them apart")
    cameras = args.cameras.split(",")
    return SourceOptions(
        TopicNames(cameras=tuple(cameras), remap=parse_remap(args.remap)), args.fps, args.instruction,
        HandSource() if datasets else HandSource.parse(args.gripper),
        MappingOptions(cameras, args.state, args.actions, args.gripper if datasets else "", args.action_scale),
    )  # fmt: skip


def _with_notes(source: EpisodeSource) -> Iterator[Demonstration]:
    """The episodes; their notes are printed."""
    for demonstration in source:
        for note in demonstration.notes:
            print(f"{demonstration.name}: {note}", file=sys.stderr)
        yield demonstration


def _parse_size(given: str) -> tuple[int, int] | None:
    if not given:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", given)
    if found is None:
        raise ValueError(f"--size {given} is not understood; give width and height in pixels, such as 320x240")
    return int(found[1]), int(found[2])
