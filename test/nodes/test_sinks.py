"""Every sink at its topics."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from geometry_msgs.msg import PoseStamped
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.nodes.control.arm_sinks import GRIPPERS, SINKS, make_gripper, make_sink
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q, Arm
from molmoact_ros.ros import qos
from molmoact_ros.utils.paths import robot_model

from .conftest import Peer
from .driven import LEFT, VELOCITY, command, connected


def sent(peer: Peer, sink: Any, heard: list[Any], what: ArmCommand) -> Any:
    """The message that a command becomes."""

    def again() -> bool:
        sink.send(what)
        return bool(heard)

    assert peer.until(again)
    return heard[-1]


def test_joint_trajectory(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(JointTrajectory, "/left_fr3_arm_controller/joint_trajectory", qos.RELIABLE)
    message = sent(peer, make_sink("joint_trajectory", node(), LEFT), heard, command())
    assert message.joint_names == [f"left_fr3_joint{i}" for i in range(1, 8)]
    first, last = message.points
    assert first.time_from_start.nanosec == 20_000_000
    assert np.allclose(first.positions, HOME_Q) and np.allclose(first.velocities, VELOCITY)
    braking = (last.time_from_start.nanosec - first.time_from_start.nanosec) * 1e-9
    assert np.allclose(last.velocities, 0) and np.allclose(last.positions, HOME_Q + VELOCITY * braking / 2)
    assert np.all(np.abs(VELOCITY) / braking <= FR3.acceleration_max + 1e-6)


def test_target_pose(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(PoseStamped, "/target_pose", qos.RELIABLE)
    message = sent(peer, make_sink("target_pose", node(), Arm()), heard, command())
    pose, p, o = Kinematics(robot_model()).forward(HOME_Q), message.pose.position, message.pose.orientation
    assert message.header.frame_id == "fr3_link0"
    assert np.allclose([p.x, p.y, p.z], pose.position)
    assert abs(np.dot([o.x, o.y, o.z, o.w], pose.rotation.as_quat())) == pytest.approx(1.0)


def test_target_joint(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(JointState, "/left/target_joint", qos.RELIABLE)
    message = sent(peer, make_sink("target_joint", node(), LEFT), heard, command())
    assert tuple(message.name) == LEFT.joints
    assert np.allclose(message.position, HOME_Q) and np.allclose(message.velocity, VELOCITY)


def test_forward_position_at_another_topic(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(Float64MultiArray, "/mine", qos.RELIABLE)
    message = sent(peer, make_sink("forward_position", node(sink_topic="/mine"), Arm()), heard, command())
    assert np.allclose(message.data, HOME_Q)


@pytest.mark.parametrize(
    ("name", "holds"),
    [("joint_trajectory", False), ("target_pose", True), ("target_joint", True), ("forward_position", True),
     ("forward_velocity", False)],
)  # fmt: skip
def test_h4_a_sink_says_whether_its_robot_stays_at_the_last_position(
    node: Callable[..., Node], name: str, holds: bool
) -> None:
    sink = make_sink(name, node(), Arm())
    try:
        assert sink.holds_last is holds and sink.fault() == ""
    finally:
        sink.close()
    assert SINKS["libfranka"].holds_last is False


def test_topics_are_relative(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(JointTrajectory, "/cell/fr3_arm_controller/joint_trajectory", qos.RELIABLE)
    fingers = peer.listen(JointTrajectory, "/cell/fr3_gripper_controller/joint_trajectory", qos.RELIABLE)
    named = node(namespace="/cell")
    sent(peer, make_sink("joint_trajectory", named, Arm()), heard, command())
    sent(peer, make_gripper("joint_trajectory", named, Arm()), fingers, command())
    for topic in ("/cell/joint_states", "/cell/fr3_arm_controller/controller_state"):
        assert named.count_subscribers(topic), topic
    assert named.count_subscribers("/cell/franka_robot_state_broadcaster/robot_state")


# What the robot says of itself


def test_c3_a_stop_that_franka_ros2_reports(peer: Peer, node: Callable[..., Node]) -> None:
    from franka_msgs.msg import FrankaRobotState

    topic = "/left/franka_robot_state_broadcaster/robot_state"
    controller = node()
    sink = make_sink("target_joint", controller, LEFT)
    assert sink.fault() == "", "nothing is known"
    publisher = peer.node.create_publisher(FrankaRobotState, topic, qos.RELIABLE)
    connected(peer, controller, topic)
    state = FrankaRobotState(robot_mode=FrankaRobotState.ROBOT_MODE_MOVE)

    def reported(wanted: str) -> bool:
        publisher.publish(state)
        return sink.fault() == wanted

    for _ in range(10):
        assert reported("")
        peer.spin(0.02)
    state.robot_mode = FrankaRobotState.ROBOT_MODE_REFLEX
    state.current_errors.cartesian_reflex = True
    assert peer.until(lambda: reported("reflex, cartesian_reflex"))
    state.robot_mode, state.current_errors.cartesian_reflex = FrankaRobotState.ROBOT_MODE_USER_STOPPED, False
    assert peer.until(lambda: reported("stopped by the user"))
    state.robot_mode = FrankaRobotState.ROBOT_MODE_IDLE
    assert peer.until(lambda: reported("")), "it has been recovered"
    assert peer.until(lambda: sink.fault() == f"nothing comes on {topic.strip('/')} any more")
    assert peer.until(lambda: reported(""))
    peer.node.destroy_publisher(publisher)


def test_c3_a_stop_that_the_trajectory_controllers_state_shows(peer: Peer, node: Callable[..., Node]) -> None:
    from control_msgs.msg import JointTrajectoryControllerState

    topic = "/mine/controller_state"
    controller = node(sink_topic="/mine/joint_trajectory")
    sink = make_sink("joint_trajectory", controller, Arm())
    publisher = peer.node.create_publisher(JointTrajectoryControllerState, topic, qos.RELIABLE)
    connected(peer, controller, topic)
    state = JointTrajectoryControllerState(joint_names=Arm().joints)

    def reported(wanted: str) -> bool:
        publisher.publish(state)
        return sink.fault() == wanted

    state.error.positions = [0.1] * 7
    for _ in range(10):
        assert reported("")
        peer.spin(0.02)
    state.error.positions = [0.0, 0.1, -0.2, 0.0, 0.0, 0.0, 0.0]
    assert peer.until(lambda: reported("fr3_joint3 is 0.20 rad from where its controller wants it"))
    state.error.positions = [0.0] * 7
    assert peer.until(lambda: reported(""))
    assert peer.until(lambda: sink.fault() == f"nothing comes on {topic} any more"), "the controller was deactivated"
    peer.node.destroy_publisher(publisher)


@pytest.mark.parametrize("name", ["fr3", "realsense"])
def test_m8_a_real_arm_starts_slowly(name: str) -> None:
    assert 0 < Profile.read(name).nodes["controller"]["speed"] <= 0.1


def test_parameters_and_names_that_do_not_fit(node: Callable[..., Node]) -> None:
    with pytest.raises(ValueError, match="left_robot_address"):
        make_sink("libfranka", node(), LEFT)
    with pytest.raises(ValueError, match="choose one of: joint_trajectory, target_pose"):
        make_sink("teleport", node(), LEFT)
    with pytest.raises(ValueError, match="choose one of: joint_trajectory, franka"):
        make_gripper("glue", node(), LEFT)
    with pytest.raises(ValueError, match="parameter grasp_force of controller3"):
        make_gripper("gripper_command", node(grasp_force=200.0), Arm())
    assert len(SINKS) == 7 and len(GRIPPERS) == 6


@pytest.mark.parametrize(("name", "package"), [("franka", "franka_msgs"), ("gripper_command", "control_msgs")])
def test_without_the_drivers_interfaces(
    node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, f"{package}.action", None)
    with pytest.raises(RuntimeError, match=f"needs {package}: sudo apt install ros-jazzy-{package.replace('_', '-')}"):
        make_gripper(name, node(), Arm())
