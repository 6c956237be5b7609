"""Names of an arm's topics. All are relative, so a node in a namespace talks to the robot in the same namespace."""

from __future__ import annotations

from rclpy.node import Node

from molmoact_ros.robots.franka import Arm


def of_arm(arm: Arm, name: str) -> str:
    """The topic `name` of an arm: left/<name> or right/<name> for an arm of a pair, <name> for a single arm."""
    return f"{arm.prefix.rstrip('_')}/{name}" if arm.prefix else name


def joint_states(node: Node) -> str:
    """The topic of the robot's joint states: the node's parameter `joint_states`, where it has one."""
    return str(node.get_parameter("joint_states").value) if node.has_parameter("joint_states") else "joint_states"
