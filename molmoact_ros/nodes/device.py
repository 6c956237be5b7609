"""A person's device at the controller's topics: what keyboard and joystick have in common."""

from __future__ import annotations

from typing import Final

import numpy as np
from geometry_msgs.msg import TwistStamped
from pydantic import BaseModel, Field
from rclpy.node import Node
from std_msgs.msg import Bool, Float64
from std_srvs.srv import Trigger

from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes import qos
from molmoact_ros.robots.franka import Arm

STATES: Final = {getattr(SafetyStatus, name): name.lower() for name in ("IDLE", "POLICY", "HOLD", "STOPPED", "TELEOP")}
"""Names of the controller's states."""


class DeviceConfig(BaseModel):
    """Parameters of every device."""

    controller: str = Field("/controller", description="node name of the controller")
    arms: list[str] = Field([""], min_length=1, max_length=2, description="prefix of each arm that is moved")
    in_tool: bool = Field(False, description="directions are the hand's own, not those of the arm's base")


class Device(Node):
    """Says twists, grippers and the dead-man's switch for one of some arms, stop and resume for all."""

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.safety = SafetyStatus()

    def connect(self, config: DeviceConfig) -> None:
        """Create the topics."""
        there = config.controller
        self._arms, self._in_tool = [Arm(prefix) for prefix in config.arms], config.in_tool
        self._twists, self._grippers, self._switches = (
            [self.create_publisher(kind, f"{there}/teleop/{arm.prefix}{name}", qos.RELIABLE) for arm in self._arms]
            for kind, name in ((TwistStamped, "twist"), (Float64, "gripper"), (Bool, "deadman"))
        )
        self._triggers = {name: self.create_client(Trigger, f"{there}/{name}") for name in ("stop", "resume")}
        self.create_subscription(SafetyStatus, f"{there}/safety_status", self._on_safety, qos.STATE)

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety = message

    def say_twist(self, number: int, twist: np.ndarray) -> None:
        """Move arm `number`'s hand with `twist` [6] m/s and rad/s; the dead-man's switch is held."""
        arm, message = self._arms[number], TwistStamped()
        message.header.stamp = self.get_clock().now().to_msg()
        message.header.frame_id = arm.tcp_frame if self._in_tool else arm.base_frame
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, twist)
        self._switches[number].publish(Bool(data=True))
        self._twists[number].publish(message)

    def let_go(self, number: int) -> None:
        """Stand at once, and release the dead-man's switch."""
        self.say_twist(number, np.zeros(6))
        self._switches[number].publish(Bool(data=False))

    def say_gripper(self, number: int, opening: float) -> None:
        """Bring arm `number`'s fingers to `opening` m."""
        self._grippers[number].publish(Float64(data=opening))

    def ask(self, name: str) -> None:
        """Ask for stop or resume; a controller that is not there is said."""
        client = self._triggers[name]
        if client.service_is_ready():
            client.call_async(Trigger.Request())
        else:
            self.get_logger().error(f"no controller answers at {client.srv_name}; is it running?")
