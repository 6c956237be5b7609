"""The nodes that publish on a topic."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from rclpy.node import Node


def crowded(node: Node, topics: Iterable[str], most: int = 1) -> list[str]:
    """One line for each of these topics that has more publishers than `most`, or than one, in their order."""
    lines = []
    for topic in topics:
        names = sorted(map(publisher_name, node.get_publishers_info_by_topic(topic)))
        if len(names) > max(most, 1):
            lines.append(f"{topic} has {len(names)} publishers ({', '.join(names)}); end all but one")
    return lines


def publisher_name(info: Any) -> str:
    """The fully qualified name of a publisher's node."""
    return f"{info.node_namespace.rstrip('/')}/{info.node_name}"
