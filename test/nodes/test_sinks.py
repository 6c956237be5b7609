"""Every sink at its topics, and the grippers against real action servers."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import rclpy
from geometry_msgs.msg import PoseStamped
from rclpy.action import ActionServer, GoalResponse
from rclpy.node import Node
from rclpy.parameter import Parameter
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.nodes import qos
from molmoact_ros.nodes.sinks import GRIPPERS, SINKS, make_gripper, make_sink
from molmoact_ros.paths import robot_model
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q, Arm
from molmoact_ros.sim.franka_sim import FrankaSim

from .conftest import Peer

LEFT = Arm("left_")
VELOCITY = np.array([0.5, -0.4, 0.3, 0.2, -0.1, 0.6, 0.0])


def command(opening: float = 0.08, position: np.ndarray = HOME_Q, velocity: np.ndarray = VELOCITY) -> ArmCommand:
    return ArmCommand(position, velocity, np.zeros(7), opening, 0.02)


@pytest.fixture
def node(peer: Peer) -> Iterator[Callable[..., Node]]:
    """Makes nodes with parameters, spun with the peer."""
    nodes: list[Node] = []

    def make(**parameters: Any) -> Node:
        given = [Parameter(name, value=value) for name, value in parameters.items()]
        node = rclpy.create_node(f"controller{len(nodes)}", context=peer.context, parameter_overrides=given)
        peer._executor.add_node(node)
        nodes.append(node)
        return node

    yield make
    for node in nodes:
        peer._executor.remove_node(node)
        node.destroy_node()


def connected(peer: Peer, node: Node, topic: str) -> None:
    assert peer.until(lambda: node.count_publishers(topic) and node.count_subscribers(topic)), topic


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


def test_forward_velocity_pulls_back_and_ramps_to_zero(peer: Peer, node: Callable[..., Node]) -> None:
    topic = "/forward_velocity_controller/commands"
    heard = peer.listen(Float64MultiArray, topic, qos.RELIABLE)
    sink: Any = make_sink("forward_velocity", node(), Arm())
    assert np.allclose(sent(peer, sink, heard, command()).data, VELOCITY), "nothing is measured"
    assert peer.until(lambda: heard and not np.any(heard[-1].data)), "silence"
    steps = np.diff([m.data for m in heard], axis=0)
    assert np.abs(steps[1:]).max() <= 10.0 / 2 / 100 + 1e-9

    behind = JointState(name=[*Arm().joints], position=(HOME_Q - np.eye(7)[0] * 0.02 - np.eye(7)[1]).tolist())
    publisher = peer.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    wanted = VELOCITY + np.eye(7)[0] * 0.04 + np.eye(7)[1] * 0.1

    other = JointState(name=["another_joint"], position=[1.0])

    def pulled() -> bool:
        for said in (behind, other):  # a topic may have several speakers
            publisher.publish(said)
        sink.send(command())
        return bool(np.allclose(heard[-1].data, wanted))

    assert peer.until(pulled)
    heard.clear()
    sink.close()
    assert peer.until(lambda: heard and not np.any(heard[-1].data))
    peer.node.destroy_publisher(publisher)


def test_libfranka(peer: Peer, node: Callable[..., Node], tmp_path: Path) -> None:
    states = peer.listen(JointState, "/joint_states", qos.RELIABLE)
    fingers = peer.node.create_publisher(JointState, "/franka_gripper/joint_states", qos.RELIABLE)
    with FrankaSim(robot_model(), tmp_path / "franka_sim.log") as robot:
        sink = make_sink("libfranka", node(robot_address=robot.address), Arm())
        try:
            assert peer.until(lambda: states and states[-1].name == list(Arm().joints))
            fingers.publish(JointState(name=[*Arm().fingers], position=[0.01, 0.01]))
            assert peer.until(lambda: len(states[-1].name) == 9 and states[-1].position[7:].tolist() == [0.01, 0.01])
            q = np.array(states[-1].position[:7])
            goal = q + np.eye(7)[6] * 0.05

            def there() -> bool:
                sink.send(command(position=goal, velocity=np.zeros(7)))
                return bool(np.abs(np.array(states[-1].position[:7]) - goal).max() < 0.005)

            assert peer.until(there)
            sink.send(command(position=goal * np.nan))  # is logged, and no more
            assert peer.call(Trigger, "/controller0/recover").success
            assert abs(states[-1].header.stamp.sec - peer.now()) < 2
        finally:
            sink.close()
        assert not robot.refusals()


def test_parameters_and_names_that_do_not_fit(node: Callable[..., Node]) -> None:
    with pytest.raises(ValueError, match="left_robot_address"):
        make_sink("libfranka", node(), LEFT)
    with pytest.raises(ValueError, match="choose one of: joint_trajectory, target_pose"):
        make_sink("teleport", node(), LEFT)
    with pytest.raises(ValueError, match="choose one of: joint_trajectory, franka"):
        make_gripper("glue", node(), LEFT)
    with pytest.raises(ValueError, match="parameter grasp_force of controller3"):
        make_gripper("gripper_command", node(grasp_force=200.0), Arm())
    assert len(SINKS) == 6 and len(GRIPPERS) == 3


@pytest.mark.parametrize(("name", "package"), [("franka", "franka_msgs"), ("gripper_command", "control_msgs")])
def test_without_the_drivers_interfaces(
    node: Callable[..., Node], monkeypatch: pytest.MonkeyPatch, name: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, f"{package}.action", None)
    with pytest.raises(RuntimeError, match=f"needs {package}: sudo apt install ros-jazzy-{package.replace('_', '-')}"):
        make_gripper(name, node(), Arm())


# Grippers


def test_gripper_joint_trajectory(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(JointTrajectory, "/fr3_gripper_controller/joint_trajectory", qos.RELIABLE)
    controller = node()
    gripper = make_gripper("joint_trajectory", controller, Arm())
    connected(peer, controller, "/fr3_gripper_controller/joint_trajectory")
    for opening in (0.0, 0.0, 0.0004, 0.08, 0.08):
        gripper.send(command(opening))
    assert peer.until(lambda: len(heard) >= 2)
    peer.spin(0.2)
    assert [m.points[0].positions[0] for m in heard] == [0.0, 0.04], "each goal once"
    assert heard[0].joint_names == ["fr3_finger_joint1"]
    assert heard[1].points[0].time_from_start.nanosec == pytest.approx(0.04 / 0.075 * 1e9, rel=1e-3)
    peer.spin(0.7)
    gripper.send(command(0.08))
    assert peer.until(lambda: len(heard) == 3), "after a pause it is said again"


class Server:
    """A gripper's action, remembering its goals; `answer` fills each result."""

    def __init__(self, peer: Peer, kind: Any, name: str, answer: dict[str, Any], accept: bool = True) -> None:
        self.goals: list[Any] = []
        self._kind, self._answer = kind, answer
        decide = GoalResponse.ACCEPT if accept else GoalResponse.REJECT
        self._server = ActionServer(peer.node, kind, name, self._execute, goal_callback=lambda _: decide)

    def _execute(self, handle: Any) -> Any:
        self.goals.append(handle.request)
        handle.succeed()
        return self._kind.Result(**self._answer)

    def close(self) -> None:
        self._server.destroy()


def told(peer: Peer, gripper: Any, opening: float, happened: Callable[[], Any]) -> None:
    def again() -> bool:
        gripper.send(command(opening))
        return bool(happened())

    assert peer.until(again)


def test_gripper_franka(peer: Peer, node: Callable[..., Node]) -> None:
    from franka_msgs.action import Grasp, Move

    controller = node(left_grasp_force=25.0)
    gripper = make_gripper("franka", controller, LEFT)
    gripper.send(command(0.0))  # nobody is there yet: logged, and told again later
    grasp = Server(peer, Grasp, "/left/franka_gripper/grasp", {"success": True})
    move = Server(peer, Move, "/left/franka_gripper/move", {"success": False, "error": "stuck"})
    try:
        told(peer, gripper, 0.0, lambda: grasp.goals)
        (goal,) = grasp.goals
        assert (goal.width, goal.force, goal.speed) == (0.0, 25.0, 0.15)
        assert goal.epsilon.inner == goal.epsilon.outer == 0.08, "whatever it holds is held"
        told(peer, gripper, 0.08, lambda: move.goals)
        for _ in range(5):
            gripper.send(command(0.08))
        peer.spin(0.3)
        (opened,) = move.goals
        assert opened.width == 0.08 and len(grasp.goals) == 1
    finally:
        grasp.close()
        move.close()


def test_gripper_command(peer: Peer, node: Callable[..., Node]) -> None:
    from control_msgs.action import GripperCommand

    gripper: Any = make_gripper("gripper_command", node(), Arm())
    server = Server(peer, GripperCommand, "/fr3_gripper_controller/gripper_cmd", {"stalled": True})
    try:
        told(peer, gripper, 0.02, lambda: server.goals)
        (goal,) = server.goals
        assert (goal.command.position, goal.command.max_effort) == (0.01, 40.0), "of one finger"
    finally:
        server.close()


def test_a_gripper_that_refuses_is_asked_again(peer: Peer, node: Callable[..., Node]) -> None:
    from control_msgs.action import GripperCommand

    gripper: Any = make_gripper("gripper_command", node(gripper_topic="/stubborn"), Arm())
    server = Server(peer, GripperCommand, "/stubborn", {}, accept=False)
    try:
        told(peer, gripper, 0.02, lambda: gripper._goal == 0.02)
        assert peer.until(lambda: gripper._goal < 0), "the refusal came"
    finally:
        server.close()
