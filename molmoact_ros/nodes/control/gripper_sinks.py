"""Sinks of gripper commands, chosen by name. docs/sinks.md says which one suits which driver."""

from __future__ import annotations

import importlib
import time
from functools import partial
from typing import Any, Final, Protocol

import numpy as np
from pydantic import BaseModel, Field
from rclpy.logging import LoggingSeverity
from rclpy.node import Node
from rclpy.task import Future
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.nodes.control.measured_joints import Measured
from molmoact_ros.nodes.control.null_sink import NullSink
from molmoact_ros.nodes.control.trajectories import FINGER_SPEED, gripper_seconds, gripper_trajectory
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.hands import FIRST, FRANKA_HAND
from molmoact_ros.ros import qos
from molmoact_ros.ros.action_client import ThreadsafeActionClient
from molmoact_ros.ros.arm_topics import joint_states, of_arm
from molmoact_ros.ros.logging import ThreadedLog
from molmoact_ros.ros.parameters import declare

SAME_OPENING: Final = 1e-3
"""m; a smaller change is not a new goal for a gripper."""
SAID_AGAIN: Final = 0.5
"""s without commands after which a gripper's goal is sent again: another client may have moved it."""
OPENING_FORCE: Final = 10.0
"""Largest force with which GripperCommand may open, N: ours, a seventh of the hand's 70 N. Opening fingers should not
press against anything."""


class Gripper(Protocol):
    """A sink of the openings in one arm's commands."""

    def send(self, command: ArmCommand) -> None:
        """Send the command's opening to the gripper, where it is new."""

    def hold(self) -> None:
        """Cancel the goal in progress, if there is one. It is sent again when commands resume."""

    def close(self) -> None:
        """Release the sink; no more commands will follow. The gripper holds its object."""


class GripperConfig(BaseModel):
    """Parameters of the gripper sinks. Forces: Franka Hand datasheet, 70 N continuous."""

    gripper_topic: str = Field("", min_length=1, description="topic, action, or name of the gripper's driver")
    grasp_force: float = Field(40.0, gt=0, le=70, description="N with which what is grasped is held")


class _Gripper:
    """Sends a gripper its opening where that is new.

    The gripper closes where an opening is less than the one before and less than half of the stroke, and opens
    otherwise. The measured width decides only for the first opening.
    """

    def __init__(self, node: Node, arm: Arm) -> None:
        self._node, self._heard = node, -np.inf
        self._goal: float | None = None  # None: send the next one in any case
        self._before: float | None = None  # the last opening that was sent, also before a hold
        self._closing = True
        self._notes = ThreadedLog(node)
        self._hand, joints = arm.hand or FRANKA_HAND, arm.hand_joints
        self._config = declare(node, GripperConfig, arm.prefix, gripper_topic=self._usual_topic(arm))
        self._measured = Measured(node, joints, self._hand.topic or joint_states(node))

    def _usual_topic(self, arm: Arm) -> str:
        raise NotImplementedError

    def _of_controller(self, arm: Arm, name: str) -> str:
        """A topic or action of the hand's controller, as ros2_control names it."""
        topic = f"{self._hand.controller}/{name}"
        return of_arm(arm, topic) if "/" in self._hand.controller else f"{arm.prefix}{topic}"

    def _go(self, opening: float, measured: float, closing: bool) -> bool:
        """Move the fingers from `measured` to `opening` m between them. False: the goal could not be sent."""
        raise NotImplementedError

    def send(self, command: ArmCommand) -> None:
        """Send the opening where it differs from the one before, or with the first command after a pause."""
        now = time.monotonic()
        again, self._heard = now - self._heard > SAID_AGAIN, now
        opening = float(np.clip(command.opening, 0.0, self._hand.stroke))
        if not again and self._goal is not None and abs(opening - self._goal) < SAME_OPENING:
            return
        fingers = self._measured.positions()
        before = self._hand.stroke if self._before is None else self._before
        measured = before if fingers is None else self._hand.opening(fingers.tolist())
        closing = self._closes(opening, measured if self._before is None else before)
        if self._go(opening, measured, closing):
            self._goal, self._before, self._closing = opening, opening, closing
        else:
            self._goal = None

    def _closes(self, opening: float, before: float) -> bool:
        if opening >= self._hand.stroke / 2:
            return False
        return self._closing if abs(opening - before) < SAME_OPENING else opening < before

    def hold(self) -> None:
        """Clear the goal, so that it is sent again when commands resume."""
        self._goal = None

    def close(self) -> None:
        """The gripper holds its object."""


class _TopicGripper(_Gripper):
    """For controllers that are commanded on a topic."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm)
        self._until = -np.inf

    def _publish(self, position: float, seconds: float) -> None:
        """Command each joint to `position`, in the driver's unit, within that time, s."""
        raise NotImplementedError

    def _go(self, opening: float, measured: float, closing: bool) -> bool:
        seconds = gripper_seconds(opening, measured)
        self._publish(self._hand.position(opening), seconds)
        self._until = time.monotonic() + seconds
        return True

    def hold(self) -> None:
        """Command moving fingers to stay where they are, since a topic has no cancel.

        Fingers that have arrived get no command: they may hold an object.
        """
        super().hold()
        fingers = self._measured.positions()
        if time.monotonic() < self._until and fingers is not None:
            here = self._hand.opening(fingers.tolist())
            self._publish(self._hand.position(here), gripper_seconds(here, here))
        self._until = -np.inf


class TrajectoryGripper(_TopicGripper):
    """For joint_trajectory_controller on the hand's first joint."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm)
        self._joint = arm.hand_joints[0]
        if self._joint == FIRST:
            raise ValueError(f"gripper joint_trajectory needs the joint's name: set {arm.prefix}finger_joints")
        self._publisher = node.create_publisher(JointTrajectory, self._config.gripper_topic, qos.RELIABLE)

    def _usual_topic(self, arm: Arm) -> str:
        return self._of_controller(arm, "joint_trajectory")

    def _publish(self, position: float, seconds: float) -> None:
        self._publisher.publish(gripper_trajectory(self._joint, position, seconds))


class ForwardPositionGripper(_TopicGripper):
    """For a position controller on the hand's joints, such as crisp's. They go as fast as the driver lets them."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm)
        self._publisher = node.create_publisher(Float64MultiArray, self._config.gripper_topic, qos.RELIABLE)

    def _usual_topic(self, arm: Arm) -> str:
        return self._of_controller(arm, "commands")

    def _publish(self, position: float, seconds: float) -> None:
        self._publisher.publish(Float64MultiArray(data=[position] * len(self._hand.joints)))


class _Goal:
    """An action goal, from the request to its result."""

    def __init__(self) -> None:
        self.handle: Any = None  # once it was accepted
        self.cancelled = False

    def cancel(self) -> None:
        self.cancelled = True
        if self.handle is not None:
            self.handle.cancel_goal_async()

    def accepted(self, handle: Any) -> None:
        self.handle = handle
        if self.cancelled:  # it was cancelled before it was accepted
            handle.cancel_goal_async()


class _ActionGripper(_Gripper):
    """For drivers with actions. A new goal does not wait for the result of the last; it preempts it in the driver."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm)
        self._goals: list[_Goal] = []  # in progress, the newest last

    def hold(self) -> None:
        """Cancel the goals in progress, including those that the driver has not accepted yet."""
        super().hold()
        for goal in list(self._goals):
            goal.cancel()

    def _client(self, kind: Any, name: str) -> ThreadsafeActionClient:
        return ThreadsafeActionClient(self._node, kind, name)

    def _start(self, client: ThreadsafeActionClient, message: Any) -> bool:
        if not client.server_is_ready():
            self._notes.note(f"no gripper at the action {client._action_name}; is it started?")
            return False
        goal = _Goal()
        self._goals.append(goal)
        client.send_goal_async(message).add_done_callback(partial(self._on_answer, goal))
        return True

    def _on_answer(self, goal: _Goal, answer: Future) -> None:
        handle = answer.result()
        if handle.accepted:
            goal.accepted(handle)
            handle.get_result_async().add_done_callback(partial(self._on_end, goal))
            return
        newest = goal is self._goals[-1]
        self._goals.remove(goal)
        if newest and not goal.cancelled:
            self._notes.note("the gripper refuses its goal")
            self._goal = None

    def _on_end(self, goal: _Goal, result: Future) -> None:
        self._goals.remove(goal)
        if not goal.cancelled and (complaint := self._failure(result.result().result)):
            self._notes.note(f"the gripper did not reach its goal{complaint}", LoggingSeverity.WARN)

    def _failure(self, result: Any) -> str:
        """What is wrong with a result, as the end of a sentence; "" for nothing."""
        raise NotImplementedError


class FrankaGripper(_ActionGripper):
    """For franka_ros2's franka_gripper: Grasp to close, Move to open."""

    def __init__(self, node: Node, arm: Arm) -> None:
        actions = _interfaces("franka_msgs.action", "gripper franka", "ros-jazzy-franka-msgs, or build franka_ros2")
        super().__init__(node, arm)
        self._actions, driver = actions, self._config.gripper_topic
        self._grasp = self._client(actions.Grasp, f"{driver}/grasp")
        self._move = self._client(actions.Move, f"{driver}/move")
        self._stop = node.create_client(Trigger, f"{driver}/stop")

    def _usual_topic(self, arm: Arm) -> str:
        return of_arm(arm, "franka_gripper")

    def _go(self, opening: float, measured: float, closing: bool) -> bool:
        speed = 2 * FINGER_SPEED
        if not closing:
            return self._start(self._move, self._actions.Move.Goal(width=opening, speed=speed))
        goal = self._actions.Grasp.Goal(width=opening, speed=speed, force=self._config.grasp_force)
        # Whatever is between the fingers is held: its width is not known beforehand.
        goal.epsilon.inner = goal.epsilon.outer = self._hand.stroke
        return self._start(self._grasp, goal)

    def hold(self) -> None:
        """Cancel the goal and call `stop`: the driver checks for a cancel at its feedback's rate, 10 Hz; the service
        acts at once."""
        if self._goals and self._stop.service_is_ready():
            self._stop.call_async(Trigger.Request())
        super().hold()

    def _failure(self, result: Any) -> str:
        return "" if result.success else f": {result.error or 'nothing was grasped'}"


class CommandGripper(_ActionGripper):
    """For control_msgs' GripperCommand: gripper_controllers, franka_gripper's gripper_action, MoveIt's."""

    def __init__(self, node: Node, arm: Arm) -> None:
        actions = _interfaces("control_msgs.action", "gripper gripper_command", "ros-jazzy-control-msgs")
        super().__init__(node, arm)
        self._kind = actions.GripperCommand
        self._action = self._client(self._kind, self._config.gripper_topic)

    def _usual_topic(self, arm: Arm) -> str:
        return self._of_controller(arm, "gripper_cmd")

    def _go(self, opening: float, measured: float, closing: bool) -> bool:
        force = self._config.grasp_force
        goal = self._kind.Goal()
        goal.command.position = self._hand.position(opening)  # of one joint
        goal.command.max_effort = force if closing else min(force, OPENING_FORCE)
        return self._start(self._action, goal)

    def _failure(self, result: Any) -> str:
        reached = result.reached_goal or result.stalled
        return "" if reached else f"; its joint is at {result.position:.3f}"


GRIPPERS: Final[dict[str, Any]] = {
    "joint_trajectory": TrajectoryGripper,
    "franka": FrankaGripper,
    "gripper_command": CommandGripper,
    "forward_position": ForwardPositionGripper,
    "none": NullSink,
    "null": NullSink,
}


def _interfaces(module: str, what: str, package: str) -> Any:
    """Action types that exist only on a workstation. Raises RuntimeError, saying what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RuntimeError(f"the {what} needs {module.split('.')[0]}: sudo apt install {package}") from None
