"""What the tests of sinks and of grippers have in common."""

from __future__ import annotations

import numpy as np
from rclpy.node import Node

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import HOME_Q, Arm

from .conftest import Peer

LEFT = Arm("left_")
VELOCITY = np.array([0.5, -0.4, 0.3, 0.2, -0.1, 0.6, 0.0])


def command(opening: float = 0.08, position: np.ndarray = HOME_Q, velocity: np.ndarray = VELOCITY) -> ArmCommand:
    return ArmCommand(position, velocity, np.zeros(7), opening, 0.02)


def connected(peer: Peer, node: Node, topic: str) -> None:
    assert peer.until(lambda: node.count_publishers(topic) and node.count_subscribers(topic)), topic
