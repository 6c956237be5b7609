"""A SpaceMouse moves an arm, through the ROS driver `spacenav`, while its cap is deflected."""

from __future__ import annotations

import time

from geometry_msgs.msg import Twist
from pydantic import Field
from sensor_msgs.msg import Joy

from molmoact_ros.control.teleop_devices import SpaceMouse, SpaceMouseLayout
from molmoact_ros.nodes.teleop.client import AHEAD, OLD, TeleopClient, TeleopClientConfig, is_fresh
from molmoact_ros.ros import qos
from molmoact_ros.ros.bounded_subscription import subscribe
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run


class SpaceMouseConfig(TeleopClientConfig, SpaceMouseLayout):
    """Parameters of the SpaceMouse node."""

    twist: str = Field("spacenav/twist", description="topic of the deflection, geometry_msgs/Twist")
    joy: str = Field("spacenav/joy", description="topic of the buttons, sensor_msgs/Joy")


class SpaceMouseNode(TeleopClient):
    """Publishes once for each message, so that a driver that falls silent releases the arm. The first arm is moved."""

    def __init__(self) -> None:
        super().__init__("spacemouse")
        self.config = declare(self, SpaceMouseConfig)
        self.connect(self.config)
        self._mouse = SpaceMouse(self.config)
        subscribe(self, Twist, self.config.twist, self._on_twist, qos.RELIABLE, self.get_logger().error)
        self.create_subscription(Joy, self.config.joy, self._on_joy, qos.RELIABLE)
        self.get_logger().info(f"ready: the arm moves while {self.config.twist} is not zero")

    def _on_twist(self, message: Twist, sent: float) -> None:
        """A twist has no stamp: it is as old as the driver's middleware says."""
        v, w = message.linear, message.angular
        twist = self._mouse.twist([v.x, v.y, v.z, w.x, w.y, w.z])
        if twist is None or not -AHEAD <= time.time() - sent <= OLD:
            self.let_go_if_held(0)
            return
        self.say_twist(0, twist)

    def _on_joy(self, message: Joy) -> None:
        opening = self._mouse.opening(message.buttons)
        if opening is not None and is_fresh(self, message.header.stamp):
            self.say_gripper(0, opening)


def main() -> None:
    """Start the node."""
    run(SpaceMouseNode)


if __name__ == "__main__":
    main()
