"""No robot at all."""

from __future__ import annotations

from rclpy.node import Node

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import Arm


class NullSink:
    """Sends nothing anywhere, for an arm or a gripper: a controller that is replayed commands no robot."""

    holds_last, topic = False, ""

    def __init__(self, node: Node, arm: Arm) -> None:
        pass

    def send(self, command: ArmCommand) -> None:
        """Nothing is sent."""

    def fault(self) -> str:
        """There is no robot that could stop."""
        return ""

    def hold(self) -> None:
        """There is no goal to cancel."""

    def close(self) -> None:
        """Nothing was begun."""
