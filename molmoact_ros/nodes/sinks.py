"""Where an arm's commands go: one small class for each way to reach a robot."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
from builtin_interfaces.msg import Duration
from rclpy.node import Node
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from molmoact_ros.nodes import qos
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import OPENING_MAX, Arm

FINGER_SPEED: Final = 0.075
"""m/s of one finger: the speed at which the demonstrations open and close the hand."""


class Sink(Protocol):
    """Takes one arm's commands to a robot."""

    def send(self, command: ArmCommand) -> None:
        """Called every control cycle while something must be commanded; a gripper's when its opening changes."""

    def close(self) -> None:
        """No more commands."""


def make_sink(name: str, node: Node, arm: Arm) -> Sink:
    """The arm's sink called `name`. Raises ValueError, naming those there are."""
    return _choose({"joint_trajectory": JointTrajectorySink}, name, node, arm)


def make_gripper(name: str, node: Node, arm: Arm) -> Sink:
    """The gripper's sink called `name`. Raises ValueError, naming those there are."""
    return _choose({"joint_trajectory": GripperTrajectorySink}, name, node, arm)


def _choose(kinds: dict[str, Callable[[Node, Arm], Sink]], name: str, node: Node, arm: Arm) -> Sink:
    if name not in kinds:
        raise ValueError(f"there is no sink {name!r}; choose one of: {', '.join(kinds)}")
    return kinds[name](node, arm)


class JointTrajectorySink:
    """For joint_trajectory_controller: the command, and braking to a stand behind it.

    The next one replaces it; should this process end, the arm has been told to come to rest. A stamp of zero: now.
    """

    def __init__(self, node: Node, arm: Arm) -> None:
        self._joints, self._braking = list(arm.joints), arm.limits.acceleration_max
        topic = f"/{arm.prefix}{arm.robot}_arm_controller/joint_trajectory"
        self._publisher = node.create_publisher(JointTrajectory, topic, qos.RELIABLE)

    def send(self, command: ArmCommand) -> None:
        """Publish the command."""
        q, dq = command.position, command.velocity
        braking = float(np.max(np.abs(dq) / self._braking))
        points = [_point(command.period, q, dq)]
        if braking > 1e-3:
            points.append(_point(command.period + braking, q + dq * braking / 2, np.zeros(len(q))))
        else:
            points[0].velocities = [0.0] * len(q)
        self._publisher.publish(JointTrajectory(joint_names=self._joints, points=points))

    def close(self) -> None:
        """Nothing to do: the last trajectory ends at rest."""


class GripperTrajectorySink:
    """For a joint_trajectory_controller of the fingers: joint 1 leads, 2 mirrors it."""

    def __init__(self, node: Node, arm: Arm) -> None:
        self._fingers, self._opening = arm.fingers, OPENING_MAX
        topic = f"/{arm.prefix}{arm.robot}_gripper_controller/joint_trajectory"
        self._publisher = node.create_publisher(JointTrajectory, topic, qos.RELIABLE)
        node.create_subscription(JointState, "/joint_states", self._on_joints, qos.SENSOR)

    def _on_joints(self, message: JointState) -> None:
        if self._fingers[0] in message.name and len(message.position) == len(message.name):
            self._opening = 2 * message.position[message.name.index(self._fingers[0])]

    def send(self, command: ArmCommand) -> None:
        """Bring the fingers from where they are to the command's opening, at FINGER_SPEED."""
        duration = max(0.05, abs(command.opening - self._opening) / 2 / FINGER_SPEED)
        points = [_point(duration, np.array([command.opening / 2]), None)]
        self._publisher.publish(JointTrajectory(joint_names=[self._fingers[0]], points=points))

    def close(self) -> None:
        """Nothing to do: the fingers stay."""


def _point(after: float, positions: np.ndarray, velocities: np.ndarray | None) -> JointTrajectoryPoint:
    nanoseconds = round(after * 1e9)
    return JointTrajectoryPoint(
        time_from_start=Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9),
        positions=positions.tolist(),
        velocities=[] if velocities is None else velocities.tolist(),
    )
