"""A sink without a robot."""

from __future__ import annotations

from rclpy.node import Node

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import Arm


class NullSink:
    """Discards commands, of an arm or a gripper: a controller in a replay commands no robot."""

    holds_last, topic = False, ""

    def __init__(self, node: Node, arm: Arm) -> None:
        pass

    def send(self, command: ArmCommand) -> None:
        """Discard the command."""

    def fault(self) -> str:
        """There is no robot that could stop."""
        return ""

    def hold(self) -> None:
        """There is no goal to cancel."""

    def close(self) -> None:
        """There is nothing to release."""
