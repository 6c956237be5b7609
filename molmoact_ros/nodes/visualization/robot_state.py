"""The robot's description and its frames, from the joint states, where no robot_state_publisher runs."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage

from molmoact_ros.robots.forward_kinematics import Links
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.joint_state import JointStateMonitor
from molmoact_ros.robots.urdf import urdf
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.polling import LazyPollingSubscription
from molmoact_ros.ros.transforms import transform_message
from molmoact_ros.utils.paths import robot_model

DESCRIPTION = "robot_description"
MOST_PARTS: Final = 20
"""Messages of joint states between two looks: arms and hands may be published separately."""

UNSTAMPED: Final = "joint states are stamped 0; the frames on /tf are stamped with the time of receipt"


class RobotFrames:
    """Publishes what robot_state_publisher does, while no other node describes a robot: two would fight over /tf."""

    def __init__(self, node: Node, arms: Sequence[Arm], joint_states: str, rate: float) -> None:
        """joint_states: topic; rate: of the frames, Hz, which are published where somebody subscribes to them."""
        self._node, self._links, self._arms = node, Links(robot_model(), arms), tuple(arms)
        self._joints = LazyPollingSubscription(node, JointState, joint_states, qos.sensor(MOST_PARTS))
        self._monitor = JointStateMonitor(self._links.joints)
        self._description: Any = None
        self._tf: Any = None
        self._static: Any = None
        fixed = {name for name in self._links.parents if self._links.is_fixed(name)}
        self._fixed, self._moving = sorted(fixed), [name for name in self._links.parents if name not in fixed]
        node.create_timer(1.0, self._check_publishers, clock=STEADY)
        self._timer = node.create_timer(1.0 / rate, self._publish, clock=STEADY, autostart=False)

    @property
    def wanted(self) -> bool:
        """Whether /tf has a subscriber."""
        return self._tf is not None and self._tf.get_subscription_count() > 0

    def _check_publishers(self) -> None:
        alone = self._node.count_publishers(DESCRIPTION) <= (self._description is not None)
        if alone and self._description is None:
            self._begin()
        elif not alone and self._description is not None:
            self._node.get_logger().info(f"{DESCRIPTION} comes from another node; frames are left to it")
            self._end()
        self._joints.want(self.wanted)
        if self._timer.is_canceled() is self.wanted:
            (self._timer.reset if self.wanted else self._timer.cancel)()

    def _begin(self) -> None:
        create = self._node.create_publisher
        self._description = create(String, DESCRIPTION, qos.STATE)
        self._tf, self._static = create(TFMessage, "/tf", qos.TF), create(TFMessage, "/tf_static", qos.TF_STATIC)
        self._description.publish(String(data=urdf(self._links, self._arms)))
        self._static.publish(self._message(self._fixed))

    def _end(self) -> None:
        for publisher in (self._description, self._tf, self._static):
            self._node.destroy_publisher(publisher)
        self._description = self._tf = self._static = None

    def _publish(self) -> None:
        messages = self._joints.messages()
        for joints in messages:
            self._monitor.take_message(joints.name, joints.position, conversions.seconds(joints.header.stamp), 0.0)
        if not self.wanted or not messages:
            return
        self._links.update(self._monitor.positions())
        stamp = conversions.seconds(messages[-1].header.stamp)
        if stamp <= 0.0:
            self._node.get_logger().warning(UNSTAMPED, once=True)
            stamp = float(self._node.get_clock().now().nanoseconds * 1e-9)
        self._tf.publish(self._message(self._moving, stamp))

    def _message(self, names: Sequence[str], stamp: float = 0.0) -> TFMessage:
        links = self._links
        heads = [conversions.header(stamp, links.parents[name]) for name in names]
        return TFMessage(
            transforms=[
                transform_message(head, name, links.in_parent(name)) for head, name in zip(heads, names, strict=True)
            ]
        )
