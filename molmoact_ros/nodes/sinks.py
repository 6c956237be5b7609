"""Where commands go: one sink an arm, one a gripper, chosen by name. docs/sinks.md says which one suits which robot.

Every sink's `send` is called each control cycle while there is something to command. It waits for nobody.
"""

from __future__ import annotations

import importlib
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
from builtin_interfaces.msg import Duration
from geometry_msgs.msg import Point, Pose, PoseStamped, Quaternion
from pydantic import BaseModel, Field
from rclpy.duration import Duration as DurationOf
from rclpy.node import Node
from rclpy.serialization import deserialize_message
from rclpy.task import Future
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Header
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory, JointTrajectoryPoint

from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.actions import ThreadsafeActionClient
from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.polled import Polled
from molmoact_ros.paths import robot_model
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, OPENING_MAX, Arm
from molmoact_ros.robots.interpolator import RefusedCommand
from molmoact_ros.robots.libfranka import LibfrankaArm, Mode

FINGER_SPEED: Final = 0.075
"""m/s of one finger: the speed at which the demonstrations open and close the hand."""
SAME_OPENING: Final = 1e-3
"""m; less than this is not a new goal for a gripper."""
SAID_AGAIN: Final = 0.5
"""s without commands after which a gripper is told its goal again: somebody else may have moved it."""
PULL: Final = 2.0
"""1/s; how strongly velocity commands pull a joint back to the commanded position."""
PULL_MAX: Final = 0.1
"""rad/s; the most that this adds."""
FRESH: Final = 0.1
"""s; older joint states are not used."""
RECENT: Final = 50
"""Joint states that are looked through: fingers and arm may be told apart, the arm more often."""
HEARD: Final = DurationOf(seconds=0.5)
"""Greatest time in which the last command is acknowledged."""
RATE: Final = 100.0
"""Hz at which the libfranka process is asked for the robot's state, and a silent velocity is ramped down."""


class Sink(Protocol):
    """Takes one arm's commands."""

    def send(self, command: ArmCommand) -> None:
        """Hand a command to the robot's software."""

    def close(self) -> None:
        """No more commands will come."""


def make_sink(name: str, node: Node, arm: Arm) -> Sink:
    """The sink `name` for `arm`, as part of `node`. Its parameters are declared on the node, with the arm's prefix.

    Raises ValueError for an unknown name or a parameter that does not fit, RuntimeError where software is missing.
    """
    return _chosen(SINKS, "sink", name)(node, arm)


def make_gripper(name: str, node: Node, arm: Arm) -> Sink:
    """The same for the arm's gripper: it heeds the commands' `opening` alone."""
    return _chosen(GRIPPERS, "gripper", name)(node, arm)


def _chosen(kinds: dict[str, Any], what: str, name: str) -> Any:
    if name not in kinds:
        raise ValueError(f"there is no {what} {name!r}; choose one of: {', '.join(kinds)}")
    return kinds[name]


def _topic(arm: Arm, name: str) -> str:
    """Under the namespace of a pair's arm: /left/<name>, /right/<name>; of an arm alone: /<name>."""
    return f"/{arm.prefix.rstrip('_')}/{name}" if arm.prefix else f"/{name}"


class SinkConfig(BaseModel):
    """Parameters of the sinks that publish."""

    sink_topic: str = Field("", min_length=1, description="topic of the arm's commands")


class JointTrajectorySink:
    """For joint_trajectory_controller: each message replaces the one before, and ends in a stand."""

    def __init__(self, node: Node, arm: Arm) -> None:
        config = declare(node, SinkConfig, arm.prefix, sink_topic=f"/{arm.prefix}fr3_arm_controller/joint_trajectory")
        self._joints = list(arm.joints)
        self._publisher = node.create_publisher(JointTrajectory, config.sink_topic, qos.RELIABLE)

    def send(self, command: ArmCommand) -> None:
        """The command and braking behind it."""
        self._publisher.publish(rolling_trajectory(self._joints, command))

    def close(self) -> None:
        """What was sent last ends in a stand."""


class TargetPoseSink:
    """For Cartesian impedance controllers such as crisp_controllers': where the tool centre point is to be."""

    def __init__(self, node: Node, arm: Arm) -> None:
        config = declare(node, SinkConfig, arm.prefix, sink_topic=_topic(arm, "target_pose"))
        self._node, self._frame, self._kinematics = node, arm.base_frame, Kinematics(robot_model())
        self._publisher = node.create_publisher(PoseStamped, config.sink_topic, qos.RELIABLE)

    def send(self, command: ArmCommand) -> None:
        """The pose of the commanded joints, in the arm's base frame."""
        target = self._kinematics.forward(command.position)
        x, y, z = map(float, target.position)
        qx, qy, qz, qw = map(float, target.rotation.as_quat())
        pose = Pose(position=Point(x=x, y=y, z=z), orientation=Quaternion(x=qx, y=qy, z=qz, w=qw))
        head = Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._frame)
        self._publisher.publish(PoseStamped(header=head, pose=pose))

    def close(self) -> None:
        """An impedance controller holds its last target."""


class TargetJointSink:
    """For joint impedance controllers such as crisp_controllers', which reads joints by their order."""

    def __init__(self, node: Node, arm: Arm) -> None:
        config = declare(node, SinkConfig, arm.prefix, sink_topic=_topic(arm, "target_joint"))
        self._node, self._arm = node, arm
        self._publisher = node.create_publisher(JointState, config.sink_topic, qos.RELIABLE)

    def send(self, command: ArmCommand) -> None:
        """Positions and velocities."""
        head = Header(stamp=self._node.get_clock().now().to_msg(), frame_id=self._arm.base_frame)
        position, velocity = command.position.tolist(), command.velocity.tolist()
        self._publisher.publish(JointState(header=head, name=self._arm.joints, position=position, velocity=velocity))

    def close(self) -> None:
        """An impedance controller holds its last target."""


class ForwardPositionSink:
    """For forward_command_controller with position interfaces. Nothing brakes behind the last message."""

    def __init__(self, node: Node, arm: Arm) -> None:
        topic = f"/{arm.prefix}forward_position_controller/commands"
        config = declare(node, SinkConfig, arm.prefix, sink_topic=topic)
        self._publisher = node.create_publisher(Float64MultiArray, config.sink_topic, qos.RELIABLE)

    def send(self, command: ArmCommand) -> None:
        """Positions, in the order of the joints."""
        self._publisher.publish(Float64MultiArray(data=command.position.tolist()))

    def close(self) -> None:
        """The controller holds the last position."""


class ForwardVelocitySink:
    """For forward_command_controller with velocity interfaces.

    That keeps the last velocity for ever, so silence is ramped to zero here; if this process is killed, nobody does it.
    """

    def __init__(self, node: Node, arm: Arm) -> None:
        topic = f"/{arm.prefix}forward_velocity_controller/commands"
        config = declare(node, SinkConfig, arm.prefix, sink_topic=topic)
        self._publisher = node.create_publisher(Float64MultiArray, config.sink_topic, qos.RELIABLE)
        self._measured = _Measured(node, arm.joints)
        self._velocity, self._due = np.zeros(7), -np.inf
        node.create_timer(1.0 / RATE, self._ramp)

    def send(self, command: ArmCommand) -> None:
        """Velocities, with a little pull toward the commanded positions where the measured ones are known."""
        measured = self._measured.positions()
        pull = np.zeros(7) if measured is None else np.clip(PULL * (command.position - measured), -PULL_MAX, PULL_MAX)
        self._due = time.monotonic() + 2 * command.period
        self._publish(command.velocity + pull)

    def close(self) -> None:
        """Nothing may go on moving: the last word has to arrive before the publisher is destroyed."""
        self._publish(np.zeros(7))
        self._publisher.wait_for_all_acked(HEARD)

    def _ramp(self) -> None:
        if time.monotonic() > self._due and self._velocity.any():
            change = FR3.acceleration_max / 2 / RATE
            self._publish(self._velocity - np.clip(self._velocity, -change, change))

    def _publish(self, velocity: np.ndarray) -> None:
        self._velocity = velocity
        self._publisher.publish(Float64MultiArray(data=velocity.tolist()))


class NullSink:
    """Sends nothing anywhere, for an arm or a gripper: a controller that is replayed commands no robot."""

    holds_last = False

    def __init__(self, node: Node, arm: Arm) -> None:
        pass

    def send(self, command: ArmCommand) -> None:
        """Nothing is sent."""

    def fault(self) -> str:
        """There is no robot that could stop."""
        return ""

    def hold(self) -> None:
        """There is no goal to cancel."""

    def close(self) -> None:
        """Nothing was begun."""


class LibfrankaConfig(BaseModel):
    """Parameters of the libfranka sink."""

    robot_address: str = Field("", description="the robot's host name or IP address")
    finger_states: str = Field("", min_length=1, description="topic of the gripper driver's joint states")
    record: str = Field("", description="file (.npz) to write every cycle at 1 kHz to, at the end; empty: none")


class LibfrankaSink:
    """The arm by pylibfranka, without ros2_control. Publishes /joint_states, with the fingers' once they are heard."""

    def __init__(self, node: Node, arm: Arm) -> None:
        topic = _topic(arm, "franka_gripper/joint_states")
        config = declare(node, LibfrankaConfig, arm.prefix, finger_states=topic)
        if not config.robot_address:
            raise ValueError(f"the sink libfranka needs the parameter {arm.prefix}robot_address")
        self._node, self._description = node, arm
        self._mode, self._refused = Mode.CONNECTING, 0
        self._fingers = _Measured(node, arm.fingers, config.finger_states)
        self._publisher = node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
        self._arm = LibfrankaArm(config.robot_address, Path(config.record) if config.record else None)
        node.create_service(Trigger, f"~/{arm.prefix}recover", self._on_recover)
        node.create_timer(1.0 / RATE, self._tell)

    def send(self, command: ArmCommand) -> None:
        """To the process, which interpolates, and brakes where no further one comes."""
        try:
            self._arm.send(command)
        except (RefusedCommand, ConnectionError) as error:
            self._node.get_logger().error(str(error), throttle_duration_sec=1.0)

    def close(self) -> None:
        """The arm comes to rest before this returns."""
        self._arm.close()

    def _tell(self) -> None:
        state = self._arm.state()
        if state.refused > self._refused:
            self._node.get_logger().warning(state.message, throttle_duration_sec=1.0)
        self._refused = state.refused
        if state.mode is not self._mode:
            self._mode = state.mode
            say = self._node.get_logger()
            if state.mode in (Mode.FAULT, Mode.ENDED):
                how = (
                    f"; call {self._node.get_fully_qualified_name()}/{self._description.prefix}recover when it is safe"
                )
                say.error(f"the robot has stopped: {state.message}{how if state.mode is Mode.FAULT else ''}")
            else:
                say.info(f"the robot is {state.mode.name.lower()}")
        if state.mode in (Mode.CONNECTING, Mode.ENDED):
            return
        stamp = self._node.get_clock().now().nanoseconds * 1e-9 - (time.monotonic() - state.stamp)
        message = JointState(header=conversions.header(stamp, self._description.base_frame))
        message.name, message.position, message.velocity = self._description.joints, state.q.tolist(), state.dq.tolist()
        fingers = self._fingers.positions(within=1.0)  # franka_gripper tells them at 15 Hz
        if fingers is not None:
            message.name = [*self._description.joints, *self._description.fingers]
            message.position, message.velocity = [*state.q, *fingers], [*state.dq, 0.0, 0.0]
        self._publisher.publish(message)

    def _on_recover(self, _: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        """A person says that the arm may be used again after the robot stopped by itself."""
        try:
            self._arm.recover()
            response.success, response.message = (
                True,
                "asked for; /joint_states goes on, and the next command moves the arm",
            )
        except ConnectionError as error:
            response.success, response.message = False, str(error)
        return response


class GripperConfig(BaseModel):
    """Parameters of the grippers. Forces: Franka Hand datasheet, 70 N continuous."""

    gripper_topic: str = Field("", min_length=1, description="topic, action, or name of the gripper's driver")
    grasp_force: float = Field(40.0, gt=0, le=70, description="N with which what is grasped is held")


class _Gripper:
    """Tells a gripper its opening where that is new."""

    usual = ""

    def __init__(self, node: Node, arm: Arm) -> None:
        self._node, self._goal, self._heard = node, -1.0, -np.inf
        self._config = declare(node, GripperConfig, arm.prefix, gripper_topic=self._usual_topic(arm))
        self._measured = _Measured(node, arm.fingers)

    def _usual_topic(self, arm: Arm) -> str:
        raise NotImplementedError

    def _go(self, opening: float, measured: float) -> bool:
        """Bring the fingers from `measured` to `opening` m between them. False: could not be said."""
        raise NotImplementedError

    def send(self, command: ArmCommand) -> None:
        """Tell the gripper where this is another opening than before, or the first command after a pause."""
        now = time.monotonic()
        again, self._heard = now - self._heard > SAID_AGAIN, now
        opening = float(np.clip(command.opening, 0.0, OPENING_MAX))
        if not again and abs(opening - self._goal) < SAME_OPENING:
            return
        fingers = self._measured.positions()
        measured = (OPENING_MAX if self._goal < 0 else self._goal) if fingers is None else float(fingers.sum())
        self._goal = opening if self._go(opening, measured) else -1.0

    def close(self) -> None:
        """The gripper keeps what it holds."""


class TrajectoryGripper(_Gripper):
    """For joint_trajectory_controller on the fingers."""

    def __init__(self, node: Node, arm: Arm) -> None:
        super().__init__(node, arm)
        self._joint = arm.fingers[0]
        self._publisher = node.create_publisher(JointTrajectory, self._config.gripper_topic, qos.RELIABLE)

    def _usual_topic(self, arm: Arm) -> str:
        return f"/{arm.prefix}fr3_gripper_controller/joint_trajectory"

    def _go(self, opening: float, measured: float) -> bool:
        self._publisher.publish(gripper_trajectory(self._joint, opening, measured))
        return True


class _ActionGripper(_Gripper):
    """For drivers with actions. A new goal does not wait for the end of the last; drivers take over."""

    def _client(self, kind: Any, name: str) -> ThreadsafeActionClient:
        return ThreadsafeActionClient(self._node, kind, name)

    def _start(self, client: ThreadsafeActionClient, goal: Any) -> bool:
        if not client.server_is_ready():
            name = client._action_name
            self._node.get_logger().error(f"no gripper at the action {name}; is it started?", throttle_duration_sec=2.0)
            return False
        client.send_goal_async(goal).add_done_callback(self._on_answer)
        return True

    def _on_answer(self, answer: Future) -> None:
        handle = answer.result()
        if not handle.accepted:
            self._node.get_logger().error("the gripper refuses its goal")
            self._goal = -1.0
            return
        handle.get_result_async().add_done_callback(lambda result: self._on_result(result.result().result))

    def _on_result(self, result: Any) -> None:
        raise NotImplementedError


class FrankaGripper(_ActionGripper):
    """For franka_ros2's franka_gripper: Grasp to close, Move to open."""

    def __init__(self, node: Node, arm: Arm) -> None:
        actions = _interfaces("franka_msgs.action", "gripper franka", "ros-jazzy-franka-msgs, or build franka_ros2")
        super().__init__(node, arm)
        self._actions = actions
        self._grasp = self._client(actions.Grasp, f"{self._config.gripper_topic}/grasp")
        self._move = self._client(actions.Move, f"{self._config.gripper_topic}/move")

    def _usual_topic(self, arm: Arm) -> str:
        return _topic(arm, "franka_gripper")

    def _go(self, opening: float, measured: float) -> bool:
        speed = 2 * FINGER_SPEED
        if opening > measured:
            return self._start(self._move, self._actions.Move.Goal(width=opening, speed=speed))
        goal = self._actions.Grasp.Goal(width=opening, speed=speed, force=self._config.grasp_force)
        # Whatever is between the fingers is held: its width is not known beforehand.
        goal.epsilon.inner = goal.epsilon.outer = OPENING_MAX
        return self._start(self._grasp, goal)

    def _on_result(self, result: Any) -> None:
        if not result.success:
            self._node.get_logger().warning(
                f"the gripper did not reach its goal: {result.error or 'nothing was grasped'}"
            )


class CommandGripper(_ActionGripper):
    """For control_msgs' GripperCommand: gripper_controllers, franka_gripper's gripper_action, MoveIt's."""

    def __init__(self, node: Node, arm: Arm) -> None:
        actions = _interfaces("control_msgs.action", "gripper gripper_command", "ros-jazzy-control-msgs")
        super().__init__(node, arm)
        self._kind = actions.GripperCommand
        self._action = self._client(self._kind, self._config.gripper_topic)

    def _usual_topic(self, arm: Arm) -> str:
        return f"/{arm.prefix}fr3_gripper_controller/gripper_cmd"

    def _go(self, opening: float, measured: float) -> bool:
        goal = self._kind.Goal()
        goal.command.position, goal.command.max_effort = opening / 2, self._config.grasp_force  # of one finger
        return self._start(self._action, goal)

    def _on_result(self, result: Any) -> None:
        if not result.reached_goal and not result.stalled:
            self._node.get_logger().warning(
                f"the gripper did not reach its goal; a finger is at {result.position:.3f} m"
            )


SINKS: Final[dict[str, Any]] = {
    "joint_trajectory": JointTrajectorySink,
    "target_pose": TargetPoseSink,
    "target_joint": TargetJointSink,
    "forward_position": ForwardPositionSink,
    "forward_velocity": ForwardVelocitySink,
    "libfranka": LibfrankaSink,
    "null": NullSink,
}
GRIPPERS: Final[dict[str, Any]] = {
    "joint_trajectory": TrajectoryGripper,
    "franka": FrankaGripper,
    "gripper_command": CommandGripper,
    "null": NullSink,
}


class _Measured:
    """The newest positions of some joints."""

    def __init__(self, node: Node, joints: Sequence[str], topic: str = "/joint_states") -> None:
        self._joints, self._positions, self._heard = joints, np.zeros(len(joints)), -np.inf
        self._messages = Polled(node, JointState, topic, qos.sensor(RECENT))

    def positions(self, within: float = FRESH) -> np.ndarray | None:
        """Their positions [n], rad or m, if they are no older than `within` s."""
        for data, heard, _ in reversed(self._messages.take()):
            message = deserialize_message(data, JointState)
            known = dict(zip(message.name, message.position, strict=False))
            if all(np.isfinite(known.get(joint, np.nan)) for joint in self._joints):
                self._positions = np.array([known[joint] for joint in self._joints])
                self._heard = time.monotonic() - (time.time_ns() - heard) * 1e-9
                break
        return self._positions if time.monotonic() - self._heard < within else None


def rolling_trajectory(joints: Sequence[str], command: ArmCommand) -> JointTrajectory:
    """The command in its period, and braking to a stand behind it.

    The next one replaces it; should this process end, the arm has been told to come to rest. A stamp of zero: now.
    """
    q, dq, after = command.position, command.velocity, command.period
    braking = float(np.max(np.abs(dq) / FR3.acceleration_max))
    points = [_point(after, q, dq)]
    if braking > 1e-3:
        points.append(_point(after + braking, q + dq * braking / 2, np.zeros(7)))
    else:
        points[0].velocities = [0.0] * 7
    return JointTrajectory(joint_names=list(joints), points=points)


def gripper_trajectory(joint: str, opening: float, measured: float) -> JointTrajectory:
    """Bring the fingers from `measured` to `opening` m between them, at FINGER_SPEED; `joint` is the one that leads."""
    duration = max(0.05, abs(opening - measured) / 2 / FINGER_SPEED)
    return JointTrajectory(joint_names=[joint], points=[_point(duration, np.array([opening / 2]), None)])


def _point(after: float, positions: np.ndarray, velocities: np.ndarray | None) -> JointTrajectoryPoint:
    nanoseconds = round(after * 1e9)
    return JointTrajectoryPoint(
        time_from_start=Duration(sec=nanoseconds // 10**9, nanosec=nanoseconds % 10**9),
        positions=positions.tolist(),
        velocities=[] if velocities is None else velocities.tolist(),
    )


def _interfaces(module: str, what: str, package: str) -> Any:
    """Actions that are only on a workstation. Raises RuntimeError, saying what to install."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise RuntimeError(f"the {what} needs {module.split('.')[0]}: sudo apt install {package}") from None
