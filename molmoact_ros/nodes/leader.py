"""A leader arm moves a robot's arm: the robot follows its joints while an operator moves it."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Literal

import numpy as np
from pydantic import Field
from sensor_msgs.msg import JointState
from std_msgs.msg import Header
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.control.leader_arm import LeaderClutch, LeaderLayout
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes.teleop.client import TeleopClient, TeleopClientConfig, is_fresh
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.ros.spin import run


class LeaderNodeConfig(TeleopClientConfig, LeaderLayout):
    """Parameters of the leader node."""

    topic: str = Field("leader/joint_states", min_length=1, description="topic of the leader's joints")
    kind: Literal["joint_state", "joint_trajectory"] = Field("joint_state", description="type of that topic")
    joint_states: str = Field("joint_states", min_length=1, description="topic of the robot's joints")


class LeaderNode(TeleopClient):
    """Publishes once for each message of the leader while its operator moves it. The first arm follows."""

    def __init__(self) -> None:
        super().__init__("leader")
        self.config = config = declare(self, LeaderNodeConfig)
        self.connect(config)
        self.connect_joints()
        self._clutch = LeaderClutch()
        self._arm, self._robot = Arm(config.arms[0]), dict[str, float]()
        self._joint_states = PollingSubscription(self, JointState, config.joint_states, qos.SENSOR)
        kind, take = {
            "joint_state": (JointState, self._on_state), "joint_trajectory": (JointTrajectory, self._on_trajectory),
        }[config.kind]  # fmt: skip
        self.create_subscription(kind, config.topic, take, qos.SENSOR)
        self.get_logger().info(f"ready: the arm follows {config.topic} when the leader has rested and is moved")

    def _on_state(self, message: JointState) -> None:
        self._on_joints(message.header, message.name, message.position)

    def _on_trajectory(self, message: JointTrajectory) -> None:
        if message.points:
            self._on_joints(message.header, message.joint_names, message.points[-1].positions)

    def _on_joints(self, head: Header, names: Sequence[str], positions: Sequence[float]) -> None:
        try:
            leader = self.config.read(names, positions)
        except ValueError as error:
            self.get_logger().error(str(error), throttle_duration_sec=5.0)
            self.let_go_if_held(0)
            return
        if (newest := self._joint_states.newest()) is not None:
            self._robot |= conversions.joint_positions(newest)
        known = all(joint in self._robot for joint in self._arm.joints)
        robot = np.array([self._robot[joint] for joint in self._arm.joints]) if known else None
        followed = self.safety.state == SafetyStatus.TELEOP
        if not self._clutch.is_engaged(leader, robot, time.monotonic(), followed) or not is_fresh(self, head.stamp):
            self.let_go_if_held(0)
            return
        self.say_joints(0, leader)
        if (opening := self.config.opening(names, positions)) is not None:
            self.say_gripper(0, opening)


def main() -> None:
    """Start the node."""
    run(LeaderNode)


if __name__ == "__main__":
    main()
