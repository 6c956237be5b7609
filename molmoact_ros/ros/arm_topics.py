"""Names of an arm's topics. All are relative: a node in a namespace speaks to the robot in the same one."""

from __future__ import annotations

from rclpy.node import Node

from molmoact_ros.robots.franka import Arm


def of_arm(arm: Arm, name: str) -> str:
    """Under the namespace of a pair's arm: left/<name>, right/<name>; of an arm alone: <name>."""
    return f"{arm.prefix.rstrip('_')}/{name}" if arm.prefix else name


def joint_states(node: Node) -> str:
    """The topic of the robot's joint states: the node's parameter of that name, where it has one."""
    return str(node.get_parameter("joint_states").value) if node.has_parameter("joint_states") else "joint_states"
