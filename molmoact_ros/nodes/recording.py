"""The command `record`: the recorder's process, and mending what it leaves when it is killed."""

from __future__ import annotations

import signal
import subprocess
import tempfile
from pathlib import Path
from typing import Any

from molmoact_ros.nodes.bringup import command, environment, write_parameters
from molmoact_ros.record.bag import BagReader
from molmoact_ros.record.bag_files import repair


def record(bag: Path, parameters: dict[str, Any]) -> int:
    """Record into a new folder until Ctrl-C; the recorder's exit status. A bag that it leaves torn is mended."""
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        file = write_parameters(Path(folder), "recorder", {"bag": str(bag), **parameters})
        process = subprocess.Popen(command("recorder", file), env=environment(), cwd=folder)
        for number in (signal.SIGINT, signal.SIGTERM):  # from a terminal the recorder hears it twice, which is once
            signal.signal(number, lambda *_: process.send_signal(signal.SIGINT))
        status = process.wait()
    if status < 0 and bag.exists():
        print(mend(bag))
    return max(status, 1) if status else 0


def mend(bag: Path) -> str:
    """Repair a bag; one line on what is in it. Raises ValueError where it cannot be."""
    torn = repair(bag)
    with BagReader(bag) as reader:
        begin, end = reader.span_ns
        count = sum(reader.count(topic) for topic in reader.topics())
    state = "mended" if torn else "whole already"
    return f"{bag} is {state}: {count} messages over {(end - begin) * 1e-9:.1f} s"
