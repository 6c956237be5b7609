"""The controller's joint states: those of the arms, and those of hands that have a topic of their own."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Final

from rclpy.node import Node
from sensor_msgs.msg import JointState

from molmoact_ros.control.arm_controller import ArmController
from molmoact_ros.control.controller import Controller
from molmoact_ros.robots.joint_state import JointGroups
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.logging import NUMBER
from molmoact_ros.ros.polling import PollingSubscription

LASTING: Final = 2.0
"""s after which what is wrong with the joint states is logged: robots are often started after the controller."""


class JointInputs:
    """Subscriptions whose messages go to the controller, joint by joint. The control loop polls them.

    subscriptions: each with what takes its messages and their arrival on the steady clock, s. groups: which joints are
    published together on the arms' topic.
    """

    def __init__(self, node: Node, topic: str, controller: Controller) -> None:
        self._controller, self.groups = controller, JointGroups()
        self.subscriptions: list[tuple[PollingSubscription, Callable[[JointState, float], None]]] = []
        self._fault, self._since, self._logged = "", 0.0, False
        self._subscribe(node, topic, self._on_joints)
        for arm in controller.arms:
            if arm.arm.hand is not None and arm.arm.hand.topic:
                self._subscribe(node, arm.arm.hand.topic, partial(self._on_hand, arm))

    def _subscribe(self, node: Node, topic: str, take: Callable[[JointState, float], None]) -> None:
        self.subscriptions.append((PollingSubscription(node, JointState, topic, qos.HEARTBEAT), take))

    def _on_joints(self, message: JointState, steady: float) -> None:
        self.groups.take_names(message.name, steady)
        stamp = conversions.seconds(message.header.stamp)
        self._controller.update_joint_state(message.name, message.position, stamp, steady)

    def _on_hand(self, arm: ArmController, message: JointState, steady: float) -> None:
        arm.update_hand(message.name, message.position, conversions.seconds(message.header.stamp), steady)

    def is_to_log(self, fault: str, steady: float) -> bool:
        """Whether what is wrong with the joint states, in one line, has lasted and was not logged yet. steady: s."""
        kind = NUMBER.sub("#", fault)
        if kind != self._fault:
            self._fault, self._since, self._logged = kind, steady, False
        if not fault or self._logged or steady - self._since < LASTING:
            return False
        self._logged = True
        return True
