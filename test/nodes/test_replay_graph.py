"""A bag that is replayed moves nothing: not a live arm in the user's domain, and no robot by its commands."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from rclpy.serialization import serialize_message
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import JointState
from std_msgs.msg import String
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bringup.processes import Bringup, command, write_parameters
from molmoact_ros.bringup.profiles import Profile, environment
from molmoact_ros.cli.replay_graph import free_domains, refuse_company
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.ros import qos
from molmoact_ros.ros.message_types import message_class

from .conftest import DOMAINS, Peer

GOLDEN = Path(__file__).parents[1] / "golden" / "bags" / "pick"


class LiveArm(Peer):
    """Joint states of an arm that stands at home, and a real controller for it in IDLE."""

    def __init__(self, bringup: Bringup) -> None:
        super().__init__()
        self.bringup = bringup
        joints = self.node.create_publisher(JointState, "joint_states", qos.RELIABLE)

        def publish() -> None:
            message = JointState(name=[*SINGLE.joints, *SINGLE.fingers], position=[*HOME_Q.tolist(), 0.04, 0.04])
            message.velocity, message.header.stamp = [0.0] * 9, self.node.get_clock().now().to_msg()
            joints.publish(message)

        self.node.create_timer(0.01, publish)
        self.safety = self.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        self.heard = {
            "/clock": self.listen(Clock, "/clock", qos.RELIABLE),
            "/policy/instruction": self.listen(String, "/policy/instruction", qos.RELIABLE),
            "commands": self.listen(JointTrajectory, "/fr3_arm_controller/joint_trajectory", qos.RELIABLE),
        }
        assert self.until(lambda: self.safety and self.safety[-1].joints_age >= 0), "the controller sees no joints"


@pytest.fixture(scope="module")
def live(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[LiveArm]:
    nodes = {"controller": {"joints_deadline": 2.0, "following": 3.0}}
    with Bringup(Profile(nodes=nodes), tmp_path_factory.mktemp("logs")) as bringup:
        arm = LiveArm(bringup)
        yield arm
        arm.close()


def test_c4_a_replayed_graph_leaves_a_live_robot_alone(live: LiveArm, tmp_path: Path) -> None:
    """Once it has played: on a busy machine the replayed policy may be late for a bag of a few seconds."""
    live.safety.clear()
    assert any(SafetyStatus.POLICY in replayed_states(live, tmp_path / str(k)) for k in range(3)), "it was started"
    assert len(live.safety) > 10 and {message.state for message in live.safety} == {SafetyStatus.IDLE}
    assert {name for name, messages in live.heard.items() if messages} == set()


def replayed_states(live: LiveArm, folder: Path) -> list[int]:
    """The states of the replayed controller, which commanded no robot, in a domain of its own."""
    folder.mkdir()
    arguments = ["replay", str(GOLDEN), "--graph", "--rate", "2", "--out", str(folder / "out")]
    seen: set[str] = set()
    with (folder / "log").open("w") as log:
        replay = subprocess.Popen(
            [sys.executable, "-m", "molmoact_ros.cli.main", *arguments], stdout=log, stderr=log, cwd=folder
        )

        def over() -> bool:
            seen.update(live.node.get_node_names())
            return replay.poll() is not None

        try:
            ended = live.until(over, 120.0)
        finally:
            replay.terminate()
            replay.wait(30)
    words = (folder / "log").read_text()
    assert ended and replay.returncode in (0, 1, 2), words  # 1: nothing was compared, on a busy machine
    with BagReader(folder / "out" / "bag") as reader:
        states = [reader.decode(message).state for message in reader.messages(["/controller/safety_status"])]
        commands = [topic for topic in reader.topics() if "joint_trajectory" in topic]
    assert not commands, "and commanded no robot"
    assert seen <= {"peer", "controller"}, "no node of the replay was in the live robot's domain"
    return states


def test_c4_a_replay_takes_a_domain_in_which_nothing_runs(live: LiveArm, domain: int) -> None:
    free = free_domains()
    assert len(free) > 10 and domain not in free
    with pytest.raises(RuntimeError, match=f"a controller runs in the ROS domain {domain}"):
        refuse_company(domain)


def test_c4_a_player_refuses_to_play_beside_a_controller(live: LiveArm, tmp_path: Path) -> None:
    file = write_parameters(tmp_path, "player", {"bag": str(GOLDEN)})
    done = subprocess.run(
        command("player", file), env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1
    line = done.stderr.strip().splitlines()[-1]
    assert line.startswith("error: the bag cannot be played: the controller /controller runs in this domain")
    assert {name for name, messages in live.heard.items() if messages} == set()


@pytest.fixture
def elsewhere(domain: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[Peer]:
    """A peer in a domain in which nothing runs."""
    monkeypatch.setenv("ROS_DOMAIN_ID", str(next(DOMAINS)))
    peer = Peer()
    yield peer
    peer.close()


def test_c4_a_player_stops_when_a_controller_is_started(elsewhere: Peer, tmp_path: Path) -> None:
    nodes = {"player": {"bag": str(GOLDEN), "loop": 100}, "controller": {}}
    clock = elsewhere.listen(Clock, "/clock", qos.RELIABLE)
    with Bringup(Profile(nodes={}), tmp_path) as bringup:
        bringup._profile = Profile(nodes=nodes)
        bringup.start("player")
        assert elsewhere.until(lambda: clock), bringup.log("player").read_text()
        bringup.start("controller")
        assert elsewhere.until(lambda: "cannot be played" in bringup.log("player").read_text())
        assert elsewhere.until(lambda: "player" in bringup.ended()), "and the node with it"
        assert "the controller /controller runs" in bringup.ended()["player"]


MOVERS = {
    "/controller/teleop/twist": "geometry_msgs/msg/TwistStamped",
    "/controller/teleop/gripper": "std_msgs/msg/Float64",
    "/left/controller/teleop/twist": "geometry_msgs/msg/TwistStamped",
    "/left/policy/action_chunk": "molmoact_ros/msg/ActionChunk",
    "/somewhere/chunks": "molmoact_ros/msg/ActionChunk",
    "/forward_velocity_controller/commands": "std_msgs/msg/Float64MultiArray",
    "/my_own/velocities": "std_msgs/msg/Float64MultiArray",
    "/target_pose": "geometry_msgs/msg/PoseStamped",
    "/left/target_joint": "sensor_msgs/msg/JointState",
    "/my_own/goal": "sensor_msgs/msg/JointState",  # by the recorded parameters
    "/cmd_vel": "geometry_msgs/msg/Twist",
    "/my_own/trajectory": "trajectory_msgs/msg/JointTrajectory",
}
SHOWN = {"/joint_states": "sensor_msgs/msg/JointState", "/front/color/image_raw": "sensor_msgs/msg/Image"}


def bag_with(folder: Path, topics: dict[str, str]) -> Path:
    """A bag of a second with two empty messages on each topic; its controller's sink was at /my_own/goal."""
    with BagWriter(folder) as writer:
        make = writer.types
        none: list[np.ndarray] = [np.zeros(0, dtype) for dtype in (np.uint8, bool, np.int64, np.float64)]
        value = make["rcl_interfaces/msg/ParameterValue"](4, False, 0, 0.0, "my_own/goal", *none, [])
        sink = make["rcl_interfaces/msg/Parameter"]("sink_topic", value)
        stamp = make["builtin_interfaces/msg/Time"](1000, 0)
        kind = "rcl_interfaces/msg/ParameterEvent"
        event = make.encode(make[kind](stamp, "/controller", [sink], [], []))
        writer.write(BagMessage("/parameter_events", kind, event, 1000 * 10**9))
        for second in (1000, 1001):
            for topic, name in topics.items():
                data = bytes(serialize_message(message_class(name)()))  # type: ignore[misc]
                writer.write(BagMessage(topic, name, data, second * 10**9))
    return folder


def test_c4_a_player_never_plays_what_moves_an_arm(elsewhere: Peer, tmp_path: Path) -> None:
    bag = bag_with(tmp_path / "bag", MOVERS | SHOWN)
    with Bringup(Profile(nodes={"player": {"bag": str(bag)}}), tmp_path / "logs") as bringup:
        done = "done: the bag is over"
        played = set[str]()

        def over() -> bool:
            if "player" in elsewhere.node.get_node_names():
                found = elsewhere.node.get_publisher_names_and_types_by_node("player", "/")
                played.update(topic for topic, _ in found)
            return done in bringup.log("player").read_text()

        assert elsewhere.until(over), bringup.log("player").read_text()
    assert played >= set(SHOWN) and not played & set(MOVERS)
    assert played <= {*SHOWN, "/clock", "/rosout", "/parameter_events"}
