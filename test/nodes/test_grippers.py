"""The grippers at their topics, and against real action servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from rclpy.action import ActionServer, GoalResponse
from rclpy.node import Node
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.nodes import qos
from molmoact_ros.nodes.sinks import make_gripper
from molmoact_ros.robots.franka import Arm

from .conftest import Peer
from .driven import LEFT, command, connected

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
