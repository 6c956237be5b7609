"""Detects other nodes that command the arm, publish on a topic that should have one publisher, or bear this name."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Sequence
from typing import Any, Final

from rclpy.node import Node
from rclpy.serialization import deserialize_message

from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes.control.joint_inputs import JointInputs
from molmoact_ros.ros import qos
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.publishers import crowded, publisher_name

REMEMBERED: Final = 100
"""Stored stamps of our own status: 10 s of them, and every change of state besides."""
GONE: Final = 1.0
"""s without a status of another controller after which it counts as gone: it publishes 10 a second."""


class PublisherMonitor:
    """Checks publishers by topic, and the node's own status topic for statuses that this node has not published."""

    def __init__(
        self, node: Node, plans: str, joint_states: str, joints: JointInputs, commands: Sequence[str]
    ) -> None:  # fmt: skip
        """plans: topic that should have one publisher; joint_states: topic whose publishers should publish different
        joints, by what `joints` receives; commands: topics on which only this node should publish.
        """
        self._node, self._plans, self._commands = node, plans, commands
        self._joint_states, self._joints = joint_states, joints
        self._status = PollingSubscription(node, SafetyStatus, "~/safety_status", qos.HEARTBEAT)
        self._own: deque[tuple[int, int]] = deque(maxlen=REMEMBERED)
        self._heard = float("-inf")

    def said(self, status: SafetyStatus) -> None:
        """Record a status that this node publishes."""
        self._own.append((status.header.stamp.sec, status.header.stamp.nanosec))

    def another_controller(self) -> bool:
        """Whether another controller of this name runs; dead ones, which the graph lists for a while, do not count."""
        for data, _, _ in self._status.take_serialized():
            stamp = deserialize_message(data, SafetyStatus).header.stamp
            if (stamp.sec, stamp.nanosec) not in self._own:
                self._heard = time.monotonic()
        return time.monotonic() - self._heard < GONE

    def warnings(self) -> list[str]:
        """One line for each topic with a publisher that should not be there."""
        out = []
        for topic in self._commands:
            if others := sorted({publisher_name(info) for info in self._publishers(topic) if not self._is_own(info)}):
                out.append(f"{', '.join(others)} commands the arm, too, on {topic}; stop one of them")
        out += crowded(self._node, [self._joint_states], self._joints.groups.count(time.monotonic()))
        return [*out, *crowded(self._node, [self._plans])]

    def _publishers(self, topic: str) -> list[Any]:
        return list(self._node.get_publishers_info_by_topic(topic))

    def _is_own(self, info: Any) -> bool:
        return (info.node_namespace, info.node_name) == (self._node.get_namespace(), self._node.get_name())
