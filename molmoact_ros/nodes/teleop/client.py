"""A client of the controller's teleoperation topics: what keyboard, joystick and panel have in common."""

from __future__ import annotations

import time
from collections.abc import Mapping
from typing import Final

import numpy as np
from builtin_interfaces.msg import Time
from geometry_msgs.msg import TwistStamped
from pydantic import BaseModel, Field
from rclpy.node import Node
from std_msgs.msg import Empty, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from molmoact_ros.control.teleop_devices import Debounce
from molmoact_ros.msg import Deadman, GripperOpening, SafetyStatus
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.contained import ContainedNode

STATES: Final = {getattr(SafetyStatus, name): name.lower() for name in ("IDLE", "POLICY", "HOLD", "STOPPED", "TELEOP")}
"""Names of the controller's states."""


def name_of(names: Mapping[int, str], number: int) -> str:
    """The name of a constant in a message; the number itself for one that this version does not know."""
    return names.get(number, f"unknown ({number})")


OLD: Final = 0.2
"""Greatest age of a device's message that is acted on, s: the controller takes silence of that length for a release."""
AHEAD: Final = 0.05
"""s by which the clock of the device's computer may be ahead."""


def is_fresh(node: Node, stamp: Time) -> bool:
    """Whether a device's message of this stamp is recent. One without a stamp counts as made when it is received.

    Some drivers fill in no stamp, and would move nothing. A burst of such messages after a delay is accepted: at most
    the ten that the queue holds.
    """
    if not (stamp.sec or stamp.nanosec):
        return True
    age = node.get_clock().now().nanoseconds * 1e-9 - conversions.seconds(stamp)
    return bool(-AHEAD <= age <= OLD)


class TeleopClientConfig(BaseModel):
    """Parameters of every teleoperation device."""

    controller: str = Field("controller", description="node name of the controller")
    arms: list[str] = Field([""], min_length=1, max_length=2, description="prefix of each arm that is moved")
    in_tool: bool = Field(False, description="directions are the hand's own, not those of the arm's base")


class TeleopClient(ContainedNode):
    """Publishes twists, gripper openings and the dead-man's switch of one arm; stop, resume and presence for all arms.

    All messages are stamped with the current time: the controller refuses old ones, such as those of a bag that is
    played back. Subclasses call `connect` once their parameters are declared; arms are numbered as in `config.arms`.
    `safety` is the last SafetyStatus.

    Args of `__init__`:
        name: of the node.

    Example:
        class Pedal(TeleopClient):
            def __init__(self):
                super().__init__("pedal")
                self.connect(declare(self, TeleopClientConfig))

            def on_press(self):
                self.say_twist(0, np.array([0.05, 0, 0, 0, 0, 0]))  # m/s and rad/s; holds the dead-man's switch

            def on_release(self):
                self.let_go(0)
    """

    def __init__(self, name: str) -> None:
        super().__init__(name)
        self.safety = SafetyStatus()
        self._resumes = Debounce()
        self._held: set[int] = set()  # arms whose dead-man's switch was last published as held

    def connect(self, config: TeleopClientConfig) -> None:
        """Create the topics."""
        there = config.controller
        self._arms, self._in_tool = [Arm(prefix) for prefix in config.arms], config.in_tool
        self._twists, self._grippers, self._switches = (
            [self.create_publisher(kind, f"{there}/teleop/{arm.prefix}{name}", qos.RELIABLE) for arm in self._arms]
            for kind, name in (
                (TwistStamped, "twist"), (GripperOpening, "gripper_stamped"), (Deadman, "deadman_stamped"),
            )
        )  # fmt: skip
        self._stop = self.create_publisher(Empty, f"{there}/stop", qos.RELIABLE)
        self._presence = self.create_publisher(Header, f"{there}/presence", qos.RELIABLE)
        self._triggers = {name: self.create_client(Trigger, f"{there}/{name}") for name in ("stop", "resume")}
        # SafetyStatus is periodic, so it needs no history, and publishers of any durability match.
        self.create_subscription(SafetyStatus, f"{there}/safety_status", self._on_safety, qos.RELIABLE)

    def connect_home(self) -> None:
        """Create the topics of `say_home`, after `connect`."""
        names = [f"{arm.prefix}home" for arm in self._arms]
        prefix = self._stop.topic_name.removesuffix("stop")
        self._homes = [self.create_publisher(Header, f"{prefix}teleop/{name}", qos.RELIABLE) for name in names]

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety = message

    def _head(self, frame: str = "") -> Header:
        return Header(stamp=self.get_clock().now().to_msg(), frame_id=frame)

    def say_twist(self, number: int, twist: np.ndarray) -> None:
        """Move arm `number`'s hand with `twist` [6] m/s and rad/s; the dead-man's switch is held."""
        arm, message = self._arms[number], TwistStamped()
        message.header = self._head(arm.tcp_frame if self._in_tool else arm.base_frame)
        linear, angular = message.twist.linear, message.twist.angular
        linear.x, linear.y, linear.z, angular.x, angular.y, angular.z = map(float, twist)
        self._publish_held(number)
        self._twists[number].publish(message)

    def connect_joints(self) -> None:
        """Create the topics of `say_joints`, after `connect`."""
        prefix = self._stop.topic_name.removesuffix("stop")
        self._joints = [
            self.create_publisher(JointTrajectory, f"{prefix}teleop/{arm.prefix}joint", qos.RELIABLE)
            for arm in self._arms
        ]

    def say_joints(self, number: int, q: np.ndarray) -> None:
        """Move arm `number` to the joints `q` [7] rad; the dead-man's switch is held."""
        point = JointTrajectoryPoint(positions=q.tolist())
        message = JointTrajectory(header=self._head(), joint_names=list(self._arms[number].joints), points=[point])
        self._publish_held(number)
        self._joints[number].publish(message)

    def say_home(self, number: int) -> None:
        """Move arm `number` to its home position while this is repeated; the dead-man's switch is held."""
        self._publish_held(number)
        self._homes[number].publish(self._head())

    def say_home_to_all(self) -> None:
        """Move all arms to their home positions while this is repeated."""
        for number in range(len(self._arms)):
            self.say_home(number)

    def is_home_found(self) -> bool:
        """Whether a controller subscribes to `say_home` of all arms."""
        return all(home.get_subscription_count() for home in self._homes)

    @property
    def stop_topic(self) -> str:
        """The controller's topic `stop`, which names the controller to people."""
        return str(self._stop.topic_name)

    def let_go_of_all(self) -> None:
        """Stop the motion of all arms."""
        for number in range(len(self._arms)):
            self.let_go(number)

    def let_go(self, number: int) -> None:
        """Stop the motion at once, and release the dead-man's switch."""
        self.say_twist(number, np.zeros(6))
        self._held.discard(number)
        self._switches[number].publish(Deadman(header=self._head(), held=False))

    def let_go_if_held(self, number: int) -> None:
        """Let go once: an arm that this client does not move is left alone, since somebody else may move it."""
        if number in self._held:
            self.let_go(number)

    def _publish_held(self, number: int) -> None:
        self._held.add(number)
        self._switches[number].publish(Deadman(header=self._head(), held=True))

    def say_gripper(self, number: int, opening: float) -> None:
        """Open arm `number`'s fingers to `opening` m."""
        self._grippers[number].publish(GripperOpening(header=self._head(), opening=float(opening)))

    def say_present(self) -> None:
        """Publish that an operator is here now; see the controller's `presence_timeout`."""
        self._presence.publish(self._head())

    def say_stop(self) -> None:
        """Stop through the topic, which needs neither a response nor an available service."""
        self._stop.publish(Empty())
        self._resumes.forget()

    def ask(self, name: str) -> None:
        """Call stop or resume; logs a controller that is not there.

        A resume soon after another one counts as the same press: from STOPPED one leads to HOLD and the next to motion.
        """
        if name == "stop":
            self.say_stop()
        elif not self._resumes.press(time.monotonic()):
            return
        client = self._triggers[name]
        if client.service_is_ready():
            client.call_async(Trigger.Request())
        else:
            self.get_logger().error(f"no controller answers at {client.service_name}; is it running?")
