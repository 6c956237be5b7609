"""`molmoact-ros to-lerobot`: converts bags, and other LeRobot datasets, into a LeRobot dataset."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from molmoact_ros.cli.episode_options import add_episode_options, episode_source, with_notes
from molmoact_ros.datasets.gripper_scale import parse_scale
from molmoact_ros.datasets.lerobot_format import VERSIONS
from molmoact_ros.datasets.lerobot_writer import WriteOptions, write_dataset
from molmoact_ros.datasets.staging import refuse_inside


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_episode_options(parser)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the dataset")
    parser.add_argument("--version", choices=VERSIONS, default=VERSIONS[0], help="of the format; default: %(default)s")
    parser.add_argument("--video", action="store_true", help="images as H.264, with loss; default: PNG")
    parser.add_argument("--size", default="", metavar="WxH", help="scale all images; default: as they are")
    parser.add_argument(
        "--gripper-out", default="1:0", metavar="OPEN:CLOSED",
        help="the values that mean open and closed in the dataset; for MolmoAct's own fine-tuning script 0:1",
    )  # fmt: skip


def run(args: argparse.Namespace) -> int:
    """Write the dataset; what was left out or changed goes to standard error, a line each."""
    scale = parse_scale(args.gripper_out, f"--gripper-out {args.gripper_out}")
    options = WriteOptions(args.version, args.video, _parse_size(args.size), scale)
    refuse_inside(args.out, args.bags)
    source = episode_source(args)
    written = write_dataset(args.out, with_notes(source), options)
    left_out = source.left_out | written.left_out
    for name, reason in left_out.items():
        print(f"{name} is left out: {reason}", file=sys.stderr)
    for note in written.notes:
        print(note, file=sys.stderr)
    print(f"{written.episodes} episodes, {written.frames} frames in {args.out}")
    return 0


def _parse_size(given: str) -> tuple[int, int] | None:
    if not given:
        return None
    found = re.fullmatch(r"([1-9]\d{0,3})x([1-9]\d{0,3})", given)
    if found is None:
        raise ValueError(f"--size {given} is not understood; give width and height in pixels, such as 320x240")
    return int(found[1]), int(found[2])
