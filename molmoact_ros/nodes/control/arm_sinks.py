"""Sinks of arm and gripper commands, chosen by name, one for each arm. docs/sinks.md says which suits which robot.

The control loop calls every sink's `send` each cycle while there is something to command. `send` never blocks.
"""

from __future__ import annotations

from typing import Any, Final, Protocol

from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from pydantic import BaseModel, Field
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.nodes.control.gripper_sinks import GRIPPERS, Gripper
from molmoact_ros.nodes.control.libfranka_sink import LibfrankaSink
from molmoact_ros.nodes.control.null_sink import NullSink
from molmoact_ros.nodes.control.robot_monitor import RobotWatch, watch_franka, watch_trajectory_controller
from molmoact_ros.nodes.control.trajectories import rolling_trajectory
from molmoact_ros.nodes.control.velocity_sink import VelocityRamp
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import qos
from molmoact_ros.ros.arm_topics import of_arm
from molmoact_ros.ros.parameters import declare
from molmoact_ros.utils.paths import robot_model


class Sink(Protocol):
    """A sink of one arm's commands.

    holds_last: without a new message the robot stays at the last position that was sent, with no braking behind it, so
    after a stall the commands go on from there. topic: of the commands; "" where there is none.

    Example:
        sink = make_sink("joint_trajectory", node, arm)
        sink.send(command)  # an ArmCommand, each control cycle
        if reason := sink.fault():
            ...  # the robot has stopped by itself
    """

    holds_last: bool
    topic: str

    def send(self, command: ArmCommand) -> None:
        """Pass a command to the robot's software."""

    def fault(self) -> str:
        """Why the robot has stopped by itself, one line; "" while it runs. Never blocks; called each cycle."""

    def close(self) -> None:
        """Release the sink; no more commands will follow."""


def make_sink(name: str, node: Node, arm: Arm) -> Sink:
    """Create the sink `name` for `arm`, as part of `node`.

    Declares the sink's parameters on the node, with the arm's prefix.

    Raises ValueError for an unknown name or a parameter that does not fit, RuntimeError where software is missing.
    """
    sink: Sink = _chosen(SINKS, "sink", name)(node, arm)
    return sink


def make_gripper(name: str, node: Node, arm: Arm) -> Gripper:
    """The same for the arm's gripper, which uses only the commands' `opening`."""
    gripper: Gripper = _chosen(GRIPPERS, "gripper", name)(node, arm)
    return gripper


def _chosen(kinds: dict[str, Any], what: str, name: str) -> Any:
    if name not in kinds:
        raise ValueError(f"there is no {what} {name!r}; choose one of: {', '.join(kinds)}")
    return kinds[name]


class SinkConfig(BaseModel):
    """Parameters of the sinks that publish on a topic."""

    sink_topic: str = Field("", min_length=1, description="topic of the arm's commands")
    robot_state: str = Field("", description="topic of franka_ros2's robot state; empty: not watched")


class _PublishingSink:
    """Publishes commands for a controller of ros2_control, and monitors the robot's state."""

    holds_last = True

    def __init__(self, node: Node, arm: Arm, kind: type, topic: str) -> None:
        state = of_arm(arm, "franka_robot_state_broadcaster/robot_state")
        config = declare(node, SinkConfig, arm.prefix, sink_topic=topic, robot_state=state)
        self._node, self._arm, self.topic = node, arm, config.sink_topic
        self._publisher = node.create_publisher(kind, config.sink_topic, qos.RELIABLE)
        self._watches: list[RobotWatch] = watch_franka(node, config.robot_state)

    def fault(self) -> str:
        """The first fault on the monitored topics."""
        return next(filter(None, (watch.fault() for watch in self._watches)), "")

    def close(self) -> None:
        """The controller holds the last command."""

    def _header(self) -> Header:
        return Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._arm.base_frame)


class ControllerStateConfig(BaseModel):
    """Further parameters of the sink for joint_trajectory_controller."""

    controller_state: str = Field("", description="topic of the controller's state; empty: not watched")


class JointTrajectorySink(_PublishingSink):
    """For joint_trajectory_controller: each message replaces the one before, and ends at standstill."""

    holds_last = False

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, JointTrajectory, f"{arm.prefix}fr3_arm_controller/joint_trajectory")
        controller = self.topic.rpartition("/")[0]
        state = f"{controller}/controller_state" if controller else ""
        config = declare(node, ControllerStateConfig, arm.prefix, controller_state=state)
        self._watches += watch_trajectory_controller(node, config.controller_state)

    def send(self, command: ArmCommand) -> None:
        """Send the command, with braking behind it."""
        self._publisher.publish(rolling_trajectory(self._arm.joints, command))


class TargetPoseSink(_PublishingSink):
    """For Cartesian impedance controllers such as crisp_controllers': target poses of the tool centre point."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, PoseStamped, of_arm(arm, "target_pose"))
        self._kinematics = Kinematics(robot_model())

    def send(self, command: ArmCommand) -> None:
        """Send the pose of the commanded joints, in the arm's base frame."""
        target = self._kinematics.forward(command.position)
        x, y, z = map(float, target.position)
        qx, qy, qz, qw = map(float, target.rotation.as_quat())
        pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
        self._publisher.publish(PoseStamped(header=self._header(), pose=pose))


class TargetJointSink(_PublishingSink):
    """For joint impedance controllers such as crisp_controllers', which read joints by their order."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, JointState, of_arm(arm, "target_joint"))

    def send(self, command: ArmCommand) -> None:
        """Send positions and velocities."""
        position, velocity = command.position.tolist(), command.velocity.tolist()
        names = self._arm.joints
        self._publisher.publish(JointState(header=self._header(), name=names, position=position, velocity=velocity))


class ForwardPositionSink(_PublishingSink):
    """For forward_command_controller with position interfaces. No braking follows the last message."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, Float64MultiArray, f"{arm.prefix}forward_position_controller/commands")

    def send(self, command: ArmCommand) -> None:
        """Send positions, in the order of the joints."""
        self._publisher.publish(Float64MultiArray(data=command.position.tolist()))


class ForwardVelocitySink(_PublishingSink):
    """For forward_command_controller with velocity interfaces.

    That controller holds the last velocity for ever, so without new commands a separate thread ramps it to zero,
    whatever the rest of this process does. If the process is killed, nothing does.
    """

    holds_last = False

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, Float64MultiArray, f"{arm.prefix}forward_velocity_controller/commands")
        self._ramp = VelocityRamp(node, arm, self._publisher)

    def send(self, command: ArmCommand) -> None:
        """Send velocities, with a small pull toward the commanded positions where the measured ones are known."""
        self._ramp.send(command)

    def fault(self) -> str:
        """The first fault on the monitored topics, or why velocities are no longer sent."""
        return self._ramp.fault() or super().fault()

    def close(self) -> None:
        """Ramp to zero and wait for that: no motion may outlast the sink."""
        self._ramp.close()


SINKS: Final[dict[str, Any]] = {
    "joint_trajectory": JointTrajectorySink,
    "target_pose": TargetPoseSink,
    "target_joint": TargetJointSink,
    "forward_position": ForwardPositionSink,
    "forward_velocity": ForwardVelocitySink,
    "libfranka": LibfrankaSink,
    "null": NullSink,
}
