"""Whether cameras and joints are there, by polling their topics: nothing is woken for an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

from rclpy.node import Node
from sensor_msgs.msg import JointState

from molmoact_ros.ros import qos
from molmoact_ros.ros.image_transport import ImageTransport, colour_topic
from molmoact_ros.ros.polling import PollingSubscription

SILENT: Final = 1.0
"""s without a message after which a camera or the joints count as gone."""


class StreamMonitor:
    """Polls the cameras' colour images and the joint states; `poll` is called some times a second."""

    def __init__(self, node: Node, cameras: Sequence[str], transport: ImageTransport, joint_states: str) -> None:
        topics = {f"camera {name}": colour_topic(name, transport) for name in cameras}
        topics["joint states"] = (JointState, joint_states)
        self._topics = {name: topic for name, (_, topic) in topics.items()}
        self._polled = {name: PollingSubscription(node, kind, at, qos.SENSOR) for name, (kind, at) in topics.items()}
        self._heard: dict[str, float] = {}

    def poll(self) -> None:
        """Note what has come since the last call."""
        for name, polled in self._polled.items():
            if polled.take_serialized():
                self._heard[name] = time.monotonic()

    @property
    def missing(self) -> str:
        """What is silent, one line; empty: nothing is."""
        now = time.monotonic()
        for name, topic in self._topics.items():
            since = now - self._heard.get(name, float("-inf"))
            if since > SILENT:
                how = "has sent nothing yet" if name not in self._heard else f"has been silent for {since:.1f} s"
                return f"{name} {how} on {topic}: is it plugged in, and does its node run?"
        return ""
