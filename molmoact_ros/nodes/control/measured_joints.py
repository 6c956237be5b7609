"""Measured positions of some joints, for sinks and grippers."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Final

import numpy as np
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from sensor_msgs.msg import JointState

from molmoact_ros.robots.hands import FIRST
from molmoact_ros.robots.joint_state import JointStateMonitor
from molmoact_ros.ros import qos
from molmoact_ros.ros.polling import PollingSubscription

FRESH: Final = 0.1
"""Greatest age of joint states that are used, s."""
RECENT: Final = 50
"""Joint states that are searched: fingers and arm may be published separately, the arm more often."""


class Measured:
    """The newest measured positions of some joints, put together by name.

    Args:
        node: subscribes to the joint states, and is not woken by them.
        joints: names of the joints; FIRST alone: the first joint of each message.
        topic: of the joint states.
    """

    def __init__(self, node: Node, joints: Sequence[str], topic: str) -> None:
        self._joints, self._monitor = tuple(joints), JointStateMonitor(joints)
        self._messages = PollingSubscription(node, JointState, topic, qos.sensor(RECENT))

    def positions(self, within: float = FRESH) -> np.ndarray | None:
        """Positions [n], in the driver's units, if none is older than `within` s; else None."""
        steady, wall, left = time.monotonic(), time.time_ns(), set(self._joints)
        for data, heard, _ in reversed(self._messages.take_serialized()):  # the newest first, until each joint is known
            message = deserialize_message(data, JointState)
            names = self._joints if FIRST in self._joints else message.name
            # The middleware stamps the arrival by the wall clock, which may have been set since.
            arrived = steady - max((wall - heard) * 1e-9, 0.0)
            known = {name: p for name, p in zip(names, message.position, strict=False) if name in left}
            updated = self._monitor.take_message(list(known), list(known.values()), 0.0, arrived)
            left -= {joint for joint, is_new in zip(self._joints, updated, strict=True) if is_new}
            if not left:
                break
        sample = self._monitor.sample()
        fresh = sample is not None and steady - float(sample.heard.min()) < within
        return sample.positions if fresh and sample is not None else None
