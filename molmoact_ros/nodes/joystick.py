"""A joystick (sensor_msgs/Joy, as ros joy_node publishes it) moves an arm while its dead-man's switch is held."""

from __future__ import annotations

from pydantic import Field
from sensor_msgs.msg import Joy

from molmoact_ros.control.teleop_devices import Joystick, JoystickLayout
from molmoact_ros.nodes.teleop.client import OLD, TeleopClient, TeleopClientConfig, is_fresh
from molmoact_ros.robots.franka import OPENING_MAX
from molmoact_ros.ros import qos
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run


class JoystickConfig(TeleopClientConfig, JoystickLayout):
    """Parameters of the joystick node."""

    joy: str = Field("joy", description="topic of the joystick; its autorepeat_rate must be 10 Hz at least")


class JoystickNode(TeleopClient):
    """Publishes once for each message, so that a joystick that falls silent releases the arm."""

    def __init__(self) -> None:
        super().__init__("joystick")
        self.config = declare(self, JoystickConfig)
        self.connect(self.config)
        self._joystick, self._arm = Joystick(self.config), 0
        self.create_subscription(Joy, self.config.joy, self._on_joy, qos.RELIABLE)
        self.get_logger().info(f"ready: hold button {self.config.deadman} of {self.config.joy} to move the arm")

    def _on_joy(self, message: Joy) -> None:
        try:
            hand = self._joystick.read(message.axes, message.buttons)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            self.let_go_if_held(self._arm)
            return
        if "stop" in hand.pressed:
            self.ask("stop")  # however old: a stop too many does no harm
        if not is_fresh(self, message.header.stamp):
            self.get_logger().warning(
                f"a message of {self.config.joy} is older than {OLD:g} s, or of the future; it moves nothing",
                throttle_duration_sec=5.0,
            )
            self.let_go_if_held(self._arm)
            return
        if hand.present:
            self.say_present()
        if "resume" in hand.pressed:
            self.ask("resume")
        if hand.twist is None or "other_arm" in hand.pressed:
            self.let_go_if_held(self._arm)
            if hand.twist is not None:
                self._arm = (self._arm + 1) % len(self.config.arms)
            return
        self.say_twist(self._arm, hand.twist)
        for button, opening in (("close", 0.0), ("open", OPENING_MAX)):
            if button in hand.pressed:
                self.say_gripper(self._arm, opening)


def main() -> None:
    """Start the node."""
    run(JoystickNode)


if __name__ == "__main__":
    main()
