"""A stop that outlives the process: an operator or a failure latched it, and only an operator resets it."""

from __future__ import annotations

import os
from pathlib import Path

from rclpy.node import Node


class StopLatch:
    """A small file in ROS_HOME (~/.ros), one for this node in this ROS domain."""

    def __init__(self, node: Node) -> None:
        home = Path(os.environ.get("ROS_HOME") or Path.home() / ".ros")
        domain = os.environ.get("ROS_DOMAIN_ID") or "0"
        name = node.get_fully_qualified_name().strip("/").replace("/", ".")
        self.file = home / "molmoact_ros" / f"stopped.{domain}.{name}"

    def reason(self) -> str:
        """Why the stop is latched, in one line; empty: it is not."""
        try:
            return self.file.read_text(errors="replace").strip() or "a stop that was latched before"
        except OSError:
            return ""

    def set(self, reason: str) -> None:
        """Latch the stop. Raises OSError where the file cannot be written."""
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(f"{reason}\n")

    def clear(self) -> None:
        """Reset the stop, as an operator has requested."""
        self.file.unlink(missing_ok=True)
