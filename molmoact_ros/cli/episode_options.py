"""Options of the commands that read episodes, from bags, sessions and LeRobot datasets."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path

from molmoact_ros.bags.recording import TopicNames, parse_remap
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.episode_source import EpisodeSource, SourceOptions, is_dataset
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.mapping_options import MappingOptions


def add_episode_options(parser: argparse.ArgumentParser) -> None:
    """Add what is read, and how."""
    parser.add_argument(
        "bags", type=Path, nargs="+", metavar="EPISODES", help="bags, folders of collect, or of LeRobot datasets"
    )
    parser.add_argument("--fps", type=float, default=10, help="frames a second of bags, such as 29.97")
    parser.add_argument("--cameras", default="front,wrist", help="names of the cameras, front first")
    parser.add_argument("--instruction", default="", help="the task, where a bag does not say it")
    parser.add_argument(
        "--gripper", default="", metavar="JOINT=OPEN:CLOSED",
        help="another hand's joint, or 1 for an arm without a hand; default: the Franka Hand's fingers. "
        "Of datasets: as for from-lerobot",
    )  # fmt: skip
    for kind in ("state", "actions"):
        parser.add_argument(f"--{kind}", default="", metavar="[KEY=]ROLE,...", help="of datasets: as for from-lerobot")
    parser.add_argument("--action-scale", default="", metavar="M,RAD", help="of datasets: as for from-lerobot")
    parser.add_argument("--remap", action="append", default=[], metavar="FROM:=TO", help="as for replay")


def episode_source(args: argparse.Namespace) -> EpisodeSource:
    """The episodes that the options name. Raises ValueError for an option that is not understood."""
    if not 0 < args.fps <= 1000:
        raise ValueError(f"--fps {args.fps:g} is not possible; give frames per second, such as 10 or 29.97")
    datasets = [path for path in args.bags if is_dataset(path)]
    if datasets and len(datasets) < len(args.bags) and args.gripper:
        raise ValueError("--gripper means another thing for bags and for datasets; convert them apart")
    cameras = args.cameras.split(",")
    options = SourceOptions(
        TopicNames(cameras=tuple(cameras), remap=parse_remap(args.remap)), args.fps, args.instruction,
        HandSource() if datasets else HandSource.parse(args.gripper),
        MappingOptions(cameras, args.state, args.actions, args.gripper if datasets else "", args.action_scale),
    )  # fmt: skip
    return EpisodeSource(args.bags, options)


def with_notes(source: EpisodeSource) -> Iterator[Demonstration]:
    """The episodes; their notes are printed."""
    for demonstration in source:
        for note in demonstration.notes:
            print(f"{demonstration.name}: {note}", file=sys.stderr)
        yield demonstration
