"""Where commands go: one sink an arm, one a gripper, chosen by name. docs/sinks.md says which one suits which robot.

Every sink's `send` is called each control cycle while there is something to command. It waits for nobody.
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
    """Takes one arm's commands.

    holds_last: without a new message the robot stays at the last position that was sent, with no braking behind it, so
    after a stall the commands go on from there. topic: of the commands; "" where there is none.
    """

    holds_last: bool
    topic: str

    def send(self, command: ArmCommand) -> None:
        """Hand a command to the robot's software."""

    def fault(self) -> str:
        """Why the robot has stopped by itself, one line; "" while it goes on. Never waits; asked each cycle."""

    def close(self) -> None:
        """No more commands will come."""


def make_sink(name: str, node: Node, arm: Arm) -> Sink:
    """The sink `name` for `arm`, as part of `node`. Its parameters are declared on the node, with the arm's prefix.

    Raises ValueError for an unknown name or a parameter that does not fit, RuntimeError where software is missing.
    """
    sink: Sink = _chosen(SINKS, "sink", name)(node, arm)
    return sink


def make_gripper(name: str, node: Node, arm: Arm) -> Gripper:
    """The same for the arm's gripper: it heeds the commands' `opening` alone."""
    gripper: Gripper = _chosen(GRIPPERS, "gripper", name)(node, arm)
    return gripper


def _chosen(kinds: dict[str, Any], what: str, name: str) -> Any:
    if name not in kinds:
        raise ValueError(f"there is no {what} {name!r}; choose one of: {', '.join(kinds)}")
    return kinds[name]


class SinkConfig(BaseModel):
    """Parameters of the sinks that publish."""

    sink_topic: str = Field("", min_length=1, description="topic of the arm's commands")
    robot_state: str = Field("", description="topic of franka_ros2's robot state; empty: not watched")


class _PublishingSink:
    """Publishes commands for a controller of ros2_control, and watches what is said of the robot."""

    holds_last = True

    def __init__(self, node: Node, arm: Arm, kind: type, topic: str) -> None:
        state = of_arm(arm, "franka_robot_state_broadcaster/robot_state")
        config = declare(node, SinkConfig, arm.prefix, sink_topic=topic, robot_state=state)
        self._node, self._arm, self.topic = node, arm, config.sink_topic
        self._publisher = node.create_publisher(kind, config.sink_topic, qos.RELIABLE)
        self._watches: list[RobotWatch] = watch_franka(node, config.robot_state)

    def fault(self) -> str:
        """What is said of the robot on the topics that are watched."""
        return next(filter(None, (watch.fault() for watch in self._watches)), "")

    def close(self) -> None:
        """The controller holds what was sent last."""

    def _header(self) -> Header:
        return Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._arm.base_frame)


class ControllerStateConfig(BaseModel):
    """Further parameters of the sink for joint_trajectory_controller."""

    controller_state: str = Field("", description="topic of the controller's state; empty: not watched")


class JointTrajectorySink(_PublishingSink):
    """For joint_trajectory_controller: each message replaces the one before, and ends in a stand."""

    holds_last = False

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, JointTrajectory, f"{arm.prefix}fr3_arm_controller/joint_trajectory")
        controller = self.topic.rpartition("/")[0]
        state = f"{controller}/controller_state" if controller else ""
        config = declare(node, ControllerStateConfig, arm.prefix, controller_state=state)
        self._watches += watch_trajectory_controller(node, config.controller_state)

    def send(self, command: ArmCommand) -> None:
        """The command and braking behind it."""
        self._publisher.publish(rolling_trajectory(self._arm.joints, command))


class TargetPoseSink(_PublishingSink):
    """For Cartesian impedance controllers such as crisp_controllers': where the tool centre point is to be."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, PoseStamped, of_arm(arm, "target_pose"))
        self._kinematics = Kinematics(robot_model())

    def send(self, command: ArmCommand) -> None:
        """The pose of the commanded joints, in the arm's base frame."""
        target = self._kinematics.forward(command.position)
        x, y, z = map(float, target.position)
        qx, qy, qz, qw = map(float, target.rotation.as_quat())
        pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
        self._publisher.publish(PoseStamped(header=self._header(), pose=pose))


class TargetJointSink(_PublishingSink):
    """For joint impedance controllers such as crisp_controllers', which reads joints by their order."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, JointState, of_arm(arm, "target_joint"))

    def send(self, command: ArmCommand) -> None:
        """Positions and velocities."""
        position, velocity = command.position.tolist(), command.velocity.tolist()
        names = self._arm.joints
        self._publisher.publish(JointState(header=self._header(), name=names, position=position, velocity=velocity))


class ForwardPositionSink(_PublishingSink):
    """For forward_command_controller with position interfaces. Nothing brakes behind the last message."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, Float64MultiArray, f"{arm.prefix}forward_position_controller/commands")

    def send(self, command: ArmCommand) -> None:
        """Positions, in the order of the joints."""
        self._publisher.publish(Float64MultiArray(data=command.position.tolist()))


class ForwardVelocitySink(_PublishingSink):
    """For forward_command_controller with velocity interfaces.

    That keeps the last velocity for ever, so a thread of its own ramps silence to zero, whatever the rest of this
    process does; if the process is killed, nobody does it.
    """

    holds_last = False

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm, Float64MultiArray, f"{arm.prefix}forward_velocity_controller/commands")
        self._ramp = VelocityRamp(node, arm, self._publisher)

    def send(self, command: ArmCommand) -> None:
        """Velocities, with a little pull toward the commanded positions where the measured ones are known."""
        self._ramp.send(command)

    def fault(self) -> str:
        """As of the others, and when velocities are no longer sent."""
        return self._ramp.fault() or super().fault()

    def close(self) -> None:
        """Ramp to zero, and wait for that: nothing may go on moving."""
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
