"""Whether the robot behind ros2_control has stopped by itself, from the states that its own software publishes.

The message types exist only on a workstation: where they are not installed, nothing is monitored.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np
from rclpy.node import Node

from molmoact_ros.ros import qos
from molmoact_ros.ros.message_types import message_class
from molmoact_ros.ros.polling import PollingSubscription

EVERY: Final = 0.02
"""s between reads of a topic: deserialising franka_ros2's message in Python takes 0.4 ms."""
SILENCE: Final = 0.5
"""s without a message, after there were some, that count as a stop: the controller or the hardware does not run."""
DEVIATION: Final = 0.15
"""Greatest difference between a controller's desired and actual joint position, rad; ours. Both have one stamp, so it
may be less than the supervisor's `following`, which includes the latency of a command and of a measurement."""


class RobotWatch:
    """Monitors one topic. judge: returns why the robot has stopped, from a message, or ""."""

    def __init__(self, node: Node, kind: type, topic: str, judge: Callable[[Any], str]) -> None:
        self._topic, self._judge = topic, judge
        self._messages = PollingSubscription(node, kind, topic, qos.SENSOR)
        self._reason, self._polled_at, self._received_at = "", -np.inf, np.inf  # inf: never

    def fault(self) -> str:
        """Why the robot has stopped by itself, one line; "" while it runs, and while its state is unknown."""
        now = time.monotonic()
        if now - self._polled_at < EVERY:
            return self._reason
        if now - self._polled_at > SILENCE and np.isfinite(self._received_at):
            self._received_at = now  # nothing was read for as long
        self._polled_at = now
        message = self._messages.newest()
        if message is not None:
            self._received_at, self._reason = now, self._judge(message)
        elif now - self._received_at > SILENCE:
            self._reason = f"nothing comes on {self._topic} any more"
        return self._reason


def watch_franka(node: Node, topic: str) -> list[RobotWatch]:
    """Monitor franka_ros2's robot state on `topic`; none where franka_msgs is not installed, or the topic is empty."""
    kind = message_class("franka_msgs/msg/FrankaRobotState")
    return [RobotWatch(node, kind, topic, franka_fault)] if kind and topic else []


def watch_trajectory_controller(node: Node, topic: str) -> list[RobotWatch]:
    """Monitor joint_trajectory_controller's state; none where control_msgs is not installed, or the topic is empty."""
    kind = message_class("control_msgs/msg/JointTrajectoryControllerState")
    return [RobotWatch(node, kind, topic, trajectory_fault)] if kind and topic else []


def franka_fault(state: Any) -> str:
    """The fault in a franka_msgs/FrankaRobotState: errors by the FCI's names, or a mode that accepts no commands."""
    errors = state.current_errors
    names = [name for name in errors.get_fields_and_field_types() if getattr(errors, name)]
    stopped = {
        state.ROBOT_MODE_GUIDING: "guided by hand",
        state.ROBOT_MODE_REFLEX: "reflex",
        state.ROBOT_MODE_USER_STOPPED: "stopped by the user",
        state.ROBOT_MODE_AUTOMATIC_ERROR_RECOVERY: "recovering",
    }.get(state.robot_mode, "")
    return ", ".join(filter(None, [stopped, *names]))


def trajectory_fault(state: Any) -> str:
    """The fault in a control_msgs/JointTrajectoryControllerState: a joint that does not follow its reference."""
    errors = np.nan_to_num(np.abs(np.array(state.error.positions, np.float64)))
    if not len(errors) or errors.max() <= DEVIATION:
        return ""
    joint = int(errors.argmax())
    name = state.joint_names[joint] if joint < len(state.joint_names) else f"joint {joint + 1}"
    return f"{name} is {errors[joint]:.2f} rad from where its controller wants it"
