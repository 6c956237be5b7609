"""`molmoact-ros up`: the nodes of a profile."""

from __future__ import annotations

import argparse
from pathlib import Path

from molmoact_ros.bringup.processes import up
from molmoact_ros.utils.arguments import add_images


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("profile", help="a file of config/profiles without .yaml, or the path of your own with it")
    parser.add_argument("--logs", type=Path, default=Path("runs/logs"))
    parser.add_argument("--namespace", default="", metavar="NS", help="start every node in it, such as /left")
    parser.add_argument("--record", type=Path, metavar="BAG", help="also record everything into this new folder")
    add_images(parser)


def run(args: argparse.Namespace) -> int:
    """Run the nodes until Ctrl-C."""
    print(f"starting {args.profile}; logs in {args.logs}; Ctrl-C ends it")
    recorder = {"bag": str(args.record.resolve()), "images": args.images} if args.record else None
    up(args.profile, args.logs.resolve(), {"recorder": recorder} if recorder else None, args.namespace)
    return 0
