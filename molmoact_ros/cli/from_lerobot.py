"""`molmoact-ros from-lerobot`: converts episodes of a LeRobot dataset into bags."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tqdm import tqdm

from molmoact_ros.datasets.episode import DamagedEpisode
from molmoact_ros.datasets.gripper_scale import HOW_GRIPPER
from molmoact_ros.datasets.lerobot_reader import Dataset
from molmoact_ros.datasets.mapping_options import MappingOptions
from molmoact_ros.datasets.staging import built_beside, refuse_existing, refuse_inside
from molmoact_ros.datasets.to_bag import write_bag


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("dataset", type=Path)
    parser.add_argument("--out", type=Path, required=True, help="a new folder for the bags")
    parser.add_argument("--episode", type=int, action="append", help="which; repeat; default: all")
    parser.add_argument(
        "--cameras", default="front,wrist",
        help="names of the cameras, front first; the dataset's are matched by name, or given: front=KEY,wrist=KEY",
    )  # fmt: skip
    parser.add_argument(
        "--state", default="", metavar="[KEY=]ROLE,...",
        help="what each value of the state is, such as x,y,z,rx,ry,rz,finger,finger; default: by their names",
    )  # fmt: skip
    parser.add_argument(
        "--actions", default="", metavar="[KEY=]ROLE,...",
        help="what each value of an action is: dx,... is a displacement, x,... a pose; default: by their names",
    )  # fmt: skip
    parser.add_argument(
        "--gripper", default="", metavar="PRESET",
        help="how gripper values are meant: libero, droid, metres, or state=OPEN:CLOSED,actions=OPEN:CLOSED; "
        "default: as the dataset states it; where it does not, the bags have no gripper and no plans",
    )  # fmt: skip
    parser.add_argument(
        "--action-scale", default="", metavar="M,RAD", help="m and rad of a displacement of 1; LIBERO: 0.05,0.5"
    )


def run(args: argparse.Namespace) -> int:
    """Write the bags; all of them or, if it fails, none. Damaged episodes are left out and counted."""
    dataset = Dataset.open(args.dataset)
    refuse_inside(args.out, [args.dataset])
    given = (args.state, args.actions, args.gripper, args.action_scale)
    options = MappingOptions(args.cameras.split(","), *given, needs_gripper=False)
    numbers = args.episode or dataset.episodes
    if not numbers:
        raise ValueError(f"{args.dataset} has no episodes")
    if unknown := [number for number in numbers if number not in dataset.episodes]:
        raise ValueError(f"there is no episode {unknown[0]}; the dataset has {dataset.numbers}")
    mapping = dataset.mapping(options)
    names = {number: f"episode_{number:06d}" for number in numbers}
    refuse_existing([args.out / name for name in names.values()])
    print(f"mapping: {mapping}")
    if mapping.joints:
        print(f"joints: {mapping.joints}")
    damaged, silent = {}, 0
    with built_beside(args.out) as unfinished:
        for number, name in tqdm(names.items(), unit="episode"):
            try:
                demonstration = dataset.episode(number, mapping)
                write_bag(unfinished / name, demonstration)
                silent += "" in demonstration.tasks
            except DamagedEpisode as error:
                damaged[number] = str(error)
        if len(damaged) == len(names):
            raise ValueError(f"episode {min(damaged)} cannot be read: {damaged[min(damaged)]}")
    if damaged:
        first = min(damaged)
        print(f"{len(damaged)} of {len(names)} episodes are left out; {first}: {damaged[first]}", file=sys.stderr)
    if silent:
        print(f"{silent} episodes do not say their task; replay them with --instruction", file=sys.stderr)
    if mapping.lacks_gripper:
        print(
            "the dataset does not say which value of the gripper is open, so the bags have no plans, and no gripper "
            f"where it is unknown: say it with {HOW_GRIPPER}", file=sys.stderr,
        )  # fmt: skip
    print(f"{len(names) - len(damaged)} bags in {args.out}")
    return 0
