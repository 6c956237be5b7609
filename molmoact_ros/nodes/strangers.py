"""Who else publishes where one node should: a second camera driver, a second robot, a second node of one's own name."""

from __future__ import annotations

from collections.abc import Iterable

from rclpy.node import Node


def crowded(node: Node, topics: Iterable[str]) -> list[str]:
    """One line for each of these topics that has more than one publisher, in their order."""
    lines = []
    for topic in topics:
        publishers = node.get_publishers_info_by_topic(topic)
        if len(publishers) > 1:
            names = sorted(f"{one.node_namespace.rstrip('/')}/{one.node_name}" for one in publishers)
            lines.append(f"{topic} has {len(names)} publishers ({', '.join(names)}); end all but one")
    return lines
