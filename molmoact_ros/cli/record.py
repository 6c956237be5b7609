"""The command `record`: the recorder's process, and mending what it leaves when it is killed."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, Final

from molmoact_ros.bags.bag import BagReader
from molmoact_ros.bags.bag_files import repair
from molmoact_ros.bringup.processes import command, write_parameters
from molmoact_ros.bringup.profiles import environment
from molmoact_ros.utils import child_process

FLUSH: Final = 60.0
"""s that the recorder has for writing what waits."""


def record(bag: Path, parameters: dict[str, Any]) -> int:
    """Record into a new folder until a signal; the recorder's exit status. A bag that it leaves torn is mended."""
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        file = write_parameters(Path(folder), "recorder", {"bag": str(bag), **parameters})
        status = child_process.run(command("recorder", file), FLUSH, env=environment(), cwd=folder)
    if status >= 128 and bag.exists():
        print(mend(bag))
    return status


def mend(bag: Path) -> str:
    """Repair a bag; one line on what is in it. Raises ValueError where it cannot be."""
    torn = repair(bag)
    with BagReader(bag) as reader:
        begin, end = reader.span_ns
        count = sum(reader.count(topic) for topic in reader.topics())
    state = "mended" if torn else "whole already"
    return f"{bag} is {state}: {count} messages over {(end - begin) * 1e-9:.1f} s"
