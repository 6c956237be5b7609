"""Whether cameras and joints are there, by polling their topics: nothing is woken for an image."""

from __future__ import annotations

import time
from collections.abc import Sequence
from math import inf
from typing import Final

from rclpy.node import Node
from sensor_msgs.msg import JointState

from molmoact_ros.ros import qos
from molmoact_ros.ros.image_transport import ImageTransport, colour_topic
from molmoact_ros.ros.polling import PollingSubscription

SILENT: Final = 1.0
"""s without a message after which a camera or the joints count as gone."""
COUNTED: Final = 0.2
"""s between two polls that count as silence at most: a process that was not scheduled does not blame the camera."""


class StreamMonitor:
    """Polls the cameras' colour images and the joint states; `poll` is called some times a second."""

    def __init__(self, node: Node, cameras: Sequence[str], transport: ImageTransport, joint_states: str) -> None:
        topics = {f"camera {name}": colour_topic(name, transport) for name in cameras}
        topics["joint states"] = (JointState, joint_states)
        self._topics = {name: topic for name, (_, topic) in topics.items()}
        self._polled = {name: PollingSubscription(node, kind, at, qos.SENSOR) for name, (kind, at) in topics.items()}
        self._silence = dict.fromkeys(topics, inf)
        """s since each one's last message."""
        self._last = time.monotonic()

    def poll(self) -> None:
        """Note what has come since the last call."""
        since, self._last = time.monotonic() - self._last, time.monotonic()
        for name, polled in self._polled.items():
            self._silence[name] = 0.0 if polled.take_serialized() else self._silence[name] + min(since, COUNTED)

    @property
    def missing(self) -> str:
        """What is silent, one line; empty: nothing is."""
        for name, silence in self._silence.items():
            if silence > SILENT:
                how = "has sent nothing yet" if silence == inf else f"has been silent for {silence:.1f} s"
                return f"{name} {how} on {self._topics[name]}: is it plugged in, and does its node run?"
        return ""
