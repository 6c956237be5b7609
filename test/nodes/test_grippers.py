"""The grippers at their topics, and against real action servers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from rclpy.action import ActionServer, CancelResponse, GoalResponse
from rclpy.node import Node
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.nodes.control.arm_sinks import make_gripper
from molmoact_ros.nodes.control.gripper_sinks import OPENING_FORCE, SAME_OPENING, _Gripper
from molmoact_ros.nodes.control.hand_config import with_hand
from molmoact_ros.nodes.control.measured_joints import Measured
from molmoact_ros.robots.franka import Arm
from molmoact_ros.ros import qos

from .conftest import Peer
from .driven import LEFT, command, connected


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
    """A gripper's action, remembering its goals; `answer` fills each result, `slow`: only once a goal is cancelled."""

    def __init__(
        self, peer: Peer, kind: Any, name: str, answer: dict[str, Any], accept: bool = True, slow: bool = False
    ) -> None:
        self.goals: list[Any] = []
        self.cancelled: list[Any] = []
        self._kind, self._answer = kind, answer
        decide = GoalResponse.ACCEPT if accept else GoalResponse.REJECT
        self._server = ActionServer(
            peer.node, kind, name, self._execute, goal_callback=lambda _: decide,
            handle_accepted_callback=self._keep if slow else self._run, cancel_callback=self._on_cancel,
        )  # fmt: skip

    def _keep(self, handle: Any) -> None:
        self.goals.append(handle.request)

    def _run(self, handle: Any) -> None:
        self._keep(handle)
        handle.execute()

    def _execute(self, handle: Any) -> Any:
        if handle.is_cancel_requested:
            handle.canceled()
        else:
            handle.succeed()
        return self._kind.Result(**self._answer)

    def _on_cancel(self, handle: Any) -> CancelResponse:
        self.cancelled.append(handle.request)
        return CancelResponse.ACCEPT

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
        assert peer.until(lambda: gripper._goal is None), "the refusal came"
    finally:
        server.close()


# Holding


@pytest.mark.parametrize("known", [True, False], ids=["accepted", "not answered yet"])
def test_m3_hold_cancels_the_goal_in_progress(peer: Peer, node: Callable[..., Node], known: bool) -> None:
    from control_msgs.action import GripperCommand

    topic = f"/slow{known}"
    gripper: Any = make_gripper("gripper_command", node(gripper_topic=topic), Arm())
    server = Server(peer, GripperCommand, topic, {"stalled": True}, slow=True)
    try:
        assert peer.until(gripper._action.server_is_ready)
        gripper.hold()
        gripper.send(command(0.0))
        if known:
            assert peer.until(lambda: server.goals)
            peer.spin(0.5)
        gripper.hold()
        assert peer.until(lambda: server.cancelled)
        peer.spin(0.5)
        assert len(server.goals) == len(server.cancelled) == 1, "and nothing new is sent"
        gripper.send(command(0.0))
        assert peer.until(lambda: len(server.goals) == 2), "when commands go on it is told again"
    finally:
        server.close()


def test_m3_hold_stops_the_franka_hand_only_while_it_moves(peer: Peer, node: Callable[..., Node]) -> None:
    """What it has grasped, it goes on to hold."""
    from franka_msgs.action import Grasp, Move

    stops: list[Any] = []

    def stop(request: Trigger.Request, response: Trigger.Response) -> Trigger.Response:
        stops.append(request)
        return response

    gripper: Any = make_gripper("franka", node(gripper_topic="/hand"), Arm())
    service = peer.node.create_service(Trigger, "/hand/stop", stop)
    grasp = Server(peer, Grasp, "/hand/grasp", {"success": True})
    move = Server(peer, Move, "/hand/move", {"success": True}, slow=True)
    try:
        assert peer.until(gripper._stop.service_is_ready)
        told(peer, gripper, 0.0, lambda: grasp.goals)
        assert peer.until(lambda: not gripper._goals), "it has grasped"
        gripper.hold()
        peer.spin(0.5)
        assert not stops and not grasp.cancelled
        told(peer, gripper, 0.08, lambda: move.goals)
        peer.spin(0.5)
        gripper.hold()
        assert peer.until(lambda: stops and move.cancelled)
        assert len(grasp.goals) == len(move.goals) == 1
    finally:
        grasp.close()
        move.close()
        peer.node.destroy_service(service)


def test_m3_a_late_refusal_of_a_cancelled_goal_changes_nothing(peer: Peer, node: Callable[..., Node]) -> None:
    from control_msgs.action import GripperCommand

    gripper: Any = make_gripper("gripper_command", node(gripper_topic="/late"), Arm())
    server = Server(peer, GripperCommand, "/late", {}, accept=False)
    try:
        assert peer.until(gripper._action.server_is_ready)
        gripper.send(command(0.0))
        gripper.hold()
        gripper._goal = 0.08  # what it was told meanwhile
        assert peer.until(lambda: not gripper._goals)
        assert gripper._goal == 0.08
    finally:
        server.close()


def test_m3_fingers_on_their_way_stay_where_they_are(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(JointTrajectory, "/fingers", qos.RELIABLE)
    controller = node(gripper_topic="/fingers")
    gripper = make_gripper("joint_trajectory", controller, Arm())
    publisher = peer.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    connected(peer, controller, "/fingers")
    fingers = JointState(name=[*Arm().fingers], position=[0.04, 0.04])

    def measured(position: float) -> None:
        fingers.position = [position, position]
        publisher.publish(fingers)
        peer.spin(0.05)

    measured(0.04)
    gripper.hold()
    gripper.send(command(0.0))
    assert peer.until(lambda: len(heard) == 1), "nothing was under way to be held"
    measured(0.03)
    gripper.hold()
    assert peer.until(lambda: len(heard) == 2)
    assert heard[1].points[0].positions[0] == pytest.approx(0.03)
    gripper.send(command(0.0))
    assert peer.until(lambda: len(heard) == 3)
    peer.spin(0.8)
    measured(0.02)  # something is between them
    gripper.hold()
    peer.spin(0.5)
    assert len(heard) == 3, "what is held is held"
    peer.node.destroy_publisher(publisher)


class Recording(_Gripper):
    """What is decided of each opening, with fingers that measure what they are told to."""

    def __init__(self, node: Node) -> None:
        super().__init__(node, Arm())
        self.told: list[tuple[float, bool]] = []
        self.fingers = 0.0
        self._measured = self  # type: ignore[assignment]

    def positions(self) -> np.ndarray:
        return np.array([self.fingers / 2] * 2)

    def _usual_topic(self, arm: Arm) -> str:
        return "nowhere"

    def _go(self, opening: float, measured: float, closing: bool) -> bool:
        self.told.append((opening, closing))
        return True


@given(
    openings=st.lists(st.floats(0.0, 0.08), min_size=1, max_size=12),
    noise=st.lists(st.floats(-0.003, 0.003), min_size=12, max_size=12),
    held=st.sets(st.integers(0, 11)),
)
@settings(
    max_examples=100, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
def test_m3_force_is_for_closing_alone(
    node: Callable[..., Node], openings: list[float], noise: list[float], held: set[int]
) -> None:
    """Whatever the fingers measure, and whether they were held in between."""
    gripper, before = Recording(node()), 0.08
    gripper.fingers = before
    for number, opening in enumerate(openings):
        if number in held:
            gripper.hold()
        gripper.told.clear()
        gripper.send(command(opening))
        for width, closing in gripper.told:
            assert width == opening
            if opening >= 0.04 or opening >= before + SAME_OPENING:
                assert not closing
            elif opening <= before - SAME_OPENING:
                assert closing
            before = opening
        gripper.fingers = before + noise[number]


def test_m3_the_first_opening_is_no_grasp(node: Callable[..., Node]) -> None:
    gripper = Recording(node())
    gripper.send(command(0.02))
    assert gripper.told == [(0.02, False)]
    gripper.hold()
    gripper.send(command(0.02))
    assert gripper.told[1:] == [(0.02, False)], "told again, it is what it was"
    gripper.send(command(0.0))
    gripper.hold()
    gripper.send(command(0.0))
    assert gripper.told[2:] == [(0.0, True)] * 2, "what was grasped is grasped again"


def test_m3_gripper_command_opens_with_little_force(peer: Peer, node: Callable[..., Node]) -> None:
    from control_msgs.action import GripperCommand

    gripper: Any = make_gripper("gripper_command", node(gripper_topic="/weak"), Arm())
    server = Server(peer, GripperCommand, "/weak", {"reached_goal": True})
    try:
        told(peer, gripper, 0.0, lambda: server.goals)
        told(peer, gripper, 0.06, lambda: len(server.goals) == 2)
        assert [goal.command.max_effort for goal in server.goals] == [40.0, OPENING_FORCE]
    finally:
        server.close()


# Other hands


def test_a_robotiq_by_its_knuckle(peer: Peer, node: Callable[..., Node]) -> None:
    heard = peer.listen(JointTrajectory, "/robotiq_gripper_controller/joint_trajectory", qos.RELIABLE)
    controller = node()
    arm = with_hand(controller, Arm(), "robotiq_2f85", "joint_trajectory")
    gripper = make_gripper("joint_trajectory", controller, arm)
    connected(peer, controller, "/robotiq_gripper_controller/joint_trajectory")
    for opening in (0.0, 0.085, 0.2):
        gripper.send(command(opening))
    assert peer.until(lambda: len(heard) >= 2)
    assert [m.points[0].positions[0] for m in heard] == pytest.approx([0.8, 0.0])
    assert heard[0].joint_names == ["robotiq_85_left_knuckle_joint"]


def test_crisps_gripper_by_its_topics(peer: Peer, node: Callable[..., Node]) -> None:
    """The finger is whatever joint is first on its own topic, and values run from closed to open as calibrated."""
    heard = peer.listen(Float64MultiArray, "/gripper/gripper_position_controller/commands", qos.RELIABLE)
    controller = node(finger_scale=0.08 / 1.2, finger_offset=0.08 / 1.2 * 1.3)
    arm = with_hand(controller, Arm(), "crisp", "forward_position")
    gripper = make_gripper("forward_position", controller, arm)
    connected(peer, controller, "/gripper/gripper_position_controller/commands")
    topic = "/gripper/gripper_state_broadcaster/joint_states"
    publisher = peer.node.create_publisher(JointState, topic, qos.RELIABLE)
    connected(peer, controller, topic)
    publisher.publish(JointState(name=["a_joint", "another"], position=[-0.7, 9.0]))
    peer.spin(0.05)
    gripper.send(command(0.0))
    gripper.hold()  # on its way it stays where it is measured
    gripper.send(command(0.08))
    assert peer.until(lambda: len(heard) == 3), heard
    assert [m.data[0] for m in heard] == pytest.approx([-1.3, -0.7, -0.1])
    peer.node.destroy_publisher(publisher)


def test_hands_by_parameters(node: Callable[..., Node]) -> None:
    bare = with_hand(node(), Arm(), "franka_hand", "none")
    assert bare.hand is None and bare.hand_joints == ()
    make_gripper("none", node(), bare).send(command(0.0))
    own = with_hand(
        node(left_finger_joints=["thumb", "index"], left_finger_scale=-0.5, left_hand_states="hand"), LEFT,
        "franka_hand", "gripper_command",
    )  # fmt: skip
    assert own.hand is not None and own.hand_joints == ("thumb", "index") and own.hand.topic == "hand"
    pair = with_hand(node(), LEFT, "crisp", "forward_position")
    assert pair.hand is not None and pair.hand.topic == "left/gripper/gripper_state_broadcaster/joint_states"
    for wrong, words in (
        ({"finger_scale": 0.0}, "parameter finger_scale .* a scale of 0"),
        ({"finger_stroke": -1.0}, "parameter finger_stroke"),
        ({"finger_offset": float("nan")}, "parameter finger_offset"),
    ):
        with pytest.raises(ValueError, match=words):
            with_hand(node(**wrong), Arm(), "franka_hand", "joint_trajectory")
    with pytest.raises(ValueError, match="no hand 'schunk'; choose one of: franka_hand, robotiq_2f85, crisp"):
        with_hand(node(), Arm(), "schunk", "joint_trajectory")
    nameless = with_hand(node(), Arm(), "crisp", "joint_trajectory")
    with pytest.raises(ValueError, match="set finger_joints"):
        make_gripper("joint_trajectory", node(), nameless)


def test_measured_joints_are_put_together_by_name(peer: Peer, node: Callable[..., Node]) -> None:
    controller = node()
    measured = Measured(controller, ["a", "b", "c"], "/parts")
    publisher = peer.node.create_publisher(JointState, "/parts", qos.RELIABLE)
    connected(peer, controller, "/parts")
    publisher.publish(JointState(name=["c", "a"], position=[3.0, 1.0]))
    peer.spin(0.1)
    assert measured.positions(60.0) is None, "b is not known"
    for k in range(5):
        publisher.publish(JointState(name=["b"], position=[float(k)]))
    publisher.publish(JointState(name=["b", "a"], position=[float("nan"), 7.0]))
    assert peer.until(lambda: (found := measured.positions(60.0)) is not None and found.tolist() == [7.0, 4.0, 3.0])
    peer.spin(0.2)
    publisher.publish(JointState(name=["a", "b"], position=[0.0, 0.0]))
    peer.spin(0.05)
    assert measured.positions(0.2) is None, "c is old"
    peer.node.destroy_publisher(publisher)
