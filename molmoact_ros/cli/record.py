"""The command `record`: the recorder's process, and repair of the bag that a killed recorder leaves."""

from __future__ import annotations

import argparse
import tempfile
from datetime import datetime
from pathlib import Path
from typing import Any, Final

from molmoact_ros.bags.bag import BagReader
from molmoact_ros.bags.bag_files import repair
from molmoact_ros.bringup.processes import command, write_parameters
from molmoact_ros.bringup.profiles import environment
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import whole_number

FLUSH: Final = 60.0
"""s for the recorder to write its queue."""


def record(bag: Path, parameters: dict[str, Any]) -> int:
    """Record into a new folder until a signal; returns the recorder's exit status. A damaged bag is repaired."""
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        file = write_parameters(Path(folder), "recorder", {"bag": str(bag), **parameters})
        status = child_process.run(command("recorder", file), FLUSH, env=environment(), cwd=folder)
    if status >= 128 and bag.exists():
        print(repair_bag(bag))
    return status


def repair_bag(bag: Path) -> str:
    """Repair a bag; returns one line on its contents. Raises ValueError where it cannot be repaired."""
    torn = repair(bag)
    with BagReader(bag) as reader:
        begin, end = reader.span_ns
        count = sum(reader.count(topic) for topic in reader.topics())
    state = "repaired" if torn else "whole already"
    return f"{bag} is {state}: {count} messages over {(end - begin) * 1e-9:.1f} s"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--out", type=Path, help="a new folder; default: runs/bag-<time>")
    parser.add_argument(
        "--images", choices=["raw", "png", "jpeg"], default="raw", help="png: without loss; jpeg: colour with loss"
    )
    parser.add_argument("--quality", type=whole_number(1, 100), default=95, help="of JPEG, 1..100")
    parser.add_argument("--exclude", action="append", default=[], metavar="REGEX", help="topics left out; repeat")
    parser.add_argument("--repair", type=Path, metavar="BAG", help="make a bag whole whose recorder was killed")


def run(args: argparse.Namespace) -> int:
    """Record until a signal, or repair a bag."""
    if args.repair:
        print(repair_bag(args.repair))
        return 0
    out = (args.out or Path("runs") / f"bag-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    return record(out, {"images": args.images, "quality": args.quality, "exclude": args.exclude or [""]})
