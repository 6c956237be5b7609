"""One node in the foreground, as the commands `teleop`, `panel` and `foxglove` run it."""

from __future__ import annotations

import sys
import tempfile
import termios
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Final

from molmoact_ros.bringup.processes import command, write_parameters
from molmoact_ros.bringup.profiles import environment
from molmoact_ros.utils import child_process

ARMS: Final = {None: [""], "left": ["left_"], "right": ["right_"], "both": ["left_", "right_"]}
"""Prefixes of the arms that `--arm` names."""


def run_node(name: str, parameters: dict[str, Any]) -> int:
    """Run a node until a signal; returns its exit status."""
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder:
        file = write_parameters(Path(folder), name, parameters)
        with _terminal_kept():
            return child_process.run(command(name, file), terminal=name == "keyboard", env=environment(), cwd=folder)


@contextmanager
def _terminal_kept() -> Iterator[None]:
    """Restore the terminal's mode on exit, even where a node that has changed it is killed."""
    try:
        before = termios.tcgetattr(sys.stdin)
    except (termios.error, OSError, ValueError):  # no terminal
        yield
        return
    try:
        yield
    finally:
        with suppress(termios.error):  # it was closed
            if termios.tcgetattr(sys.stdin) != before:  # to set it from the background would stop this process
                termios.tcsetattr(sys.stdin, termios.TCSADRAIN, before)
