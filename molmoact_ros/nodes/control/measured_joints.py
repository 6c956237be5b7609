"""Measured positions of some joints, for sinks and grippers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from molmoact_ros.ros import qos
from molmoact_ros.ros.polling import PollingSubscription

FRESH: Final = 0.1
"""Greatest age of joint states that are used, s."""
RECENT: Final = 50
"""Joint states that are searched: fingers and arm may be published separately, the arm more often."""


class Measured:
    """The newest measured positions of some joints."""

    def __init__(self, node: Node, joints: Sequence[str], topic: str) -> None:
        self._joints, self._positions, self._heard = joints, np.zeros(len(joints)), -np.inf
        self._messages = PollingSubscription(node, JointState, topic, qos.sensor(RECENT))

    def positions(self, within: float = FRESH) -> np.ndarray | None:
        """Positions [n], rad or m, if they are no older than `within` s; else None."""
        for data, heard, _ in reversed(self._messages.take_serialized()):
            message = deserialize_message(data, JointState)
            known = dict(zip(message.name, message.position, strict=False))
            if all(np.isfinite(known.get(joint, np.nan)) for joint in self._joints):
                self._positions = np.array([known[joint] for joint in self._joints])
                self._heard = time.monotonic() - (time.time_ns() - heard) * 1e-9
                break
        return self._positions if time.monotonic() - self._heard < within else None
