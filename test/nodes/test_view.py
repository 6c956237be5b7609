"""What people look at, through the running graph; rviz's and Foxglove's files against what is published there."""

from __future__ import annotations

import asyncio
import json
import os
import struct
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import websockets
import yaml
from rclpy.qos import DurabilityPolicy, ReliabilityPolicy
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import Marker, MarkerArray

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.cameras.static_frames import StaticFrames
from molmoact_ros.msg import ActionChunk, EngineStatus, Trace
from molmoact_ros.reasoning.trace import pixels_from_trace
from molmoact_ros.robots.franka import BASE_FRAME
from molmoact_ros.ros import conversions, qos
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.utils.paths import robot_model, share

from .conftest import INSTRUCTION, Peer

PORT = 18000 + os.getpid() % 10000
RVIZ_TYPES = {
    "Image": "sensor_msgs/msg/Image",
    "Camera": "sensor_msgs/msg/Image",
    "MarkerArray": "visualization_msgs/msg/MarkerArray",
    "RobotModel": "std_msgs/msg/String",
}
OPTICAL = "front_color_optical_frame"


@pytest.fixture(scope="module")
def graph(domain: int, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bringup]:
    """Everything of the profile but a policy that thinks: the tests say what is planned."""
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [320, 240], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "controller": {},
        "policy": {"checkpoint": str(checkpoint)},
        "view": {"rate": 10.0},
        "foxglove": {"port": PORT},
    }
    with Bringup(Profile(nodes=parameters), tmp_path_factory.mktemp("logs")) as bringup:
        yield bringup


class Planner:
    """Speaks in the policy's place, on its topics."""

    def __init__(self, peer: Peer) -> None:
        node = peer.node
        self.peer = peer
        self.trace = node.create_publisher(Trace, "/policy/trace", qos.RELIABLE)
        self.chunk = node.create_publisher(ActionChunk, "/policy/action_chunk", qos.RELIABLE)
        self.pending = node.create_publisher(ActionChunk, "/policy/pending_chunk", qos.RELIABLE)
        self.depth = node.create_publisher(Image, "/policy/depth_image", qos.RELIABLE)
        self.overlay = node.create_publisher(Image, "/policy/model_overlay", qos.RELIABLE)

    def say_trace(self, points: np.ndarray, source: int = Trace.MODEL) -> None:
        head = conversions.header(self.peer.now(), OPTICAL)
        self.trace.publish(conversions.trace_message(points, source, 1, head))


@pytest.fixture(scope="module")
def planner(graph: Bringup, peer: Peer) -> Planner:
    return Planner(peer)


def decode(message: CompressedImage) -> np.ndarray:
    """The image, uint8 [H, W, 3] RGB."""
    pixels: Any = cv2.imdecode(np.frombuffer(bytes(message.data), np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None and message.format == "jpeg"
    return np.asarray(pixels[..., ::-1])


def near(pixels: np.ndarray, colour: tuple[int, int, int]) -> np.ndarray:
    return np.abs(pixels.astype(int) - colour).max(axis=-1) < 60


def test_nothing_is_listened_to_that_nobody_looks_at(graph: Bringup, domain: int) -> None:
    def listens(peer: Peer, node: str, topic: str) -> bool:
        return node in [info.node_name for info in peer.node.get_subscriptions_info_by_topic(topic)]

    colour, depth = "/front/color/image_raw", "/front/aligned_depth_to_color/image_raw"
    viewer, bystander = Peer(), Peer()
    try:
        assert bystander.until(
            lambda: listens(bystander, "policy", colour) and bystander.node.count_publishers("/view/markers")
        )
        assert not listens(bystander, "view", colour) and not listens(bystander, "view", depth)
        heard = viewer.listen(MarkerArray, "/view/markers", qos.RELIABLE)
        assert viewer.until(lambda: heard)
        assert bystander.until(lambda: listens(bystander, "view", depth))
        assert not listens(bystander, "view", colour), "markers need none"
        viewer.close()
        assert bystander.until(lambda: not listens(bystander, "view", depth))
        assert not listens(bystander, "foxglove", colour)
    finally:
        bystander.close()


def test_the_trace_is_drawn_on_the_live_picture_raw_and_compressed(planner: Planner, peer: Peer) -> None:
    raw = peer.listen(Image, "/view/trace_overlay", qos.RELIABLE)
    small = peer.listen(CompressedImage, "/view/trace_overlay/compressed", qos.RELIABLE)
    assert peer.until(lambda: planner.trace.get_subscription_count() and raw)
    assert not near(conversions.image_pixels(raw[-1]), (255, 170, 0)).sum() > 200, "nobody has drawn yet"
    line = np.array([[60, 200], [200, 200]])

    shown: dict[str, np.ndarray] = {}

    def drawn() -> bool:
        """Said again and again: the policy, which has nothing to do, says that there is no plan."""
        planner.say_trace(line, Trace.HUMAN)
        pictures = {"raw": conversions.image_pixels(raw[-1]), "compressed": decode(small[-1]) if small else None}
        shown.update({n: p for n, p in pictures.items() if p is not None and near(p, (255, 170, 0)).sum() > 150})
        return len(shown) == 2

    assert peer.until(drawn)
    column, row = pixels_from_trace(line, 320, 240).mean(axis=0).astype(int)
    for picture in shown.values():
        assert picture.shape == (240, 320, 3)
        assert near(picture[row - 2 : row + 3, column - 20 : column + 20], (255, 170, 0)).any()


def test_depth_and_both_and_the_models_own_picture(planner: Planner, peer: Peer) -> None:
    both = peer.listen(Image, "/view/side_by_side", qos.RELIABLE)
    depth = peer.listen(Image, "/view/depth_picture", qos.RELIABLE)
    model = peer.listen(CompressedImage, "/policy/model_overlay/compressed", qos.RELIABLE)
    assert peer.until(lambda: planner.depth.get_subscription_count() and planner.overlay.get_subscription_count())
    ramp = np.tile(np.linspace(0, 1, 320, dtype=np.float32), (320, 1))
    head = conversions.header(peer.now(), OPTICAL)
    planner.depth.publish(conversions.image_message(ramp, "32FC1", head))
    planner.overlay.publish(conversions.image_message(np.full((48, 64, 3), 200, np.uint8), "rgb8", head))
    assert peer.until(lambda: both and depth and model)
    colours = conversions.image_pixels(depth[-1])
    assert colours.shape == (320, 320, 3)
    far, close = colours[160, 20], colours[160, 300]
    assert far[2] > far[0] and close[0] > close[2], "far is blue, near is red"
    both.clear()
    assert peer.until(lambda: both) and conversions.image_pixels(both[-1]).shape == (240, 320 + 240, 3)
    decoded = decode(model[-1])
    assert decoded.shape == (48, 64, 3) and abs(int(decoded.mean()) - 200) < 3


def test_the_plan_in_space_lies_where_the_simulator_has_it(planner: Planner, peer: Peer) -> None:
    heard = peer.listen(MarkerArray, "/view/markers", qos.RELIABLE)
    cell = Workcell(robot_model())
    cell.begin(7, None, INSTRUCTION)
    table = np.array([[0.45, -0.15, 0.0], [0.45, 0.15, 0.0]])
    scale = (cell.cameras["front"].width - 1, cell.cameras["front"].height - 1)
    line = np.round(cell.project(table) / scale * 255).astype(int)
    actions = np.zeros((8, 7))
    actions[:, 1], actions[:, 6] = 0.01, [1, 1, 1, 1, 0, 0, 0, 0]
    assert peer.until(lambda: planner.trace.get_subscription_count() and planner.pending.get_subscription_count())

    def shown() -> dict[str, list[Marker]]:
        out: dict[str, list[Marker]] = {}
        for marker in heard[-1].markers if heard else []:
            out.setdefault(marker.ns, []).append(marker)
        return out

    def say() -> bool:
        planner.say_trace(line)
        chunk = conversions.chunk_message(actions, 0.1, "", 1, conversions.header(peer.now(), BASE_FRAME))
        planner.pending.publish(chunk)
        return {"trace", "chunk", "workspace", "status"} <= set(shown())

    assert peer.until(say)
    found = shown()
    strip = found["trace"][0]
    assert strip.header.frame_id == OPTICAL and strip.type == Marker.LINE_STRIP
    position, rotation = cell.camera_pose("front")
    local = np.array([[p.x, -p.y, -p.z] for p in strip.points])  # MuJoCo's camera looks along -z, y up
    world = local @ rotation.T + position
    np.testing.assert_allclose(world[[0, -1]], table, atol=0.02)
    balls, hands, _ = found["chunk"]
    assert balls.header.frame_id == BASE_FRAME and len(balls.points) == 8
    steps = np.diff([p.y for p in balls.points])
    np.testing.assert_allclose(steps, 0.01, atol=1e-3)
    assert balls.colors[0].g > balls.colors[0].r and balls.colors[-1].r > balls.colors[-1].g
    assert balls.colors[0].a < 1, "what waits for approval is pale"
    tips = np.array([[p.x, p.y, p.z] for p in hands.points]).reshape(8, 2, 3)
    assert np.diff(tips, axis=1)[:, 0, 2].max() < -0.02, "the hand points down"
    corners = np.array([[p.x, p.y, p.z] for p in found["workspace"][0].points])
    assert corners.min(axis=0).tolist() == [0.25, -0.45, 0.012] and corners.max(axis=0).tolist() == [0.75, 0.45, 0.70]
    assert "no instruction" in found["status"][0].text


def test_frames_and_description_come_from_the_view_unless_somebody_else_tells_them(graph: Bringup, peer: Peer) -> None:
    described = peer.listen(String, "/robot_description", qos.STATE)
    moving = peer.listen(TFMessage, "/tf", qos.TF)
    still: StaticFrames = StaticFrames()
    peer.node.create_subscription(TFMessage, "/tf_static", still.add_transforms, qos.TF_STATIC)
    assert peer.until(lambda: described and moving)
    assert "<robot" in described[-1].data
    assert {t.child_frame_id for t in moving[-1].transforms} >= {f"fr3_link{n}" for n in range(1, 8)}
    assert peer.until(lambda: still.pose(OPTICAL, BASE_FRAME) is not None)
    cell = Workcell(robot_model())
    cell.begin(7, None, INSTRUCTION)
    position, rotation = cell.camera_pose("front")
    pose = still.pose(OPTICAL, BASE_FRAME)
    assert pose is not None
    np.testing.assert_allclose(pose[:3, 3], position, atol=1e-6)
    np.testing.assert_allclose(pose[:3, :3], rotation * (1, -1, -1), atol=1e-6)
    assert still.pose("wrist_color_optical_frame", "fr3_hand_tcp") is not None
    other = peer.node.create_publisher(String, "/robot_description", qos.STATE)
    assert peer.until(lambda: peer.node.count_publishers("/robot_description") == 1), "ours is gone"
    assert peer.until(lambda: peer.node.count_publishers("/tf") == 0)
    peer.node.destroy_publisher(other)
    assert peer.until(lambda: peer.node.count_publishers("/tf") == 1), "and back"


def test_what_is_malformed_is_not_shown_and_ends_nothing(planner: Planner, graph: Bringup, peer: Peer) -> None:
    heard = peer.listen(MarkerArray, "/view/markers", qos.RELIABLE)
    head = conversions.header(peer.now(), OPTICAL)
    actions = np.zeros((8, 7))
    actions[3, 3] = np.nan
    assert peer.until(lambda: heard and planner.chunk.get_subscription_count())
    planner.trace.publish(Trace(header=head, x=[0.5] * 7, y=[0.5] * 7))
    planner.trace.publish(Trace(header=head, x=[0.5, 7.0], y=[0.5, 0.5]))
    planner.chunk.publish(conversions.chunk_message(actions, 0.1, "", 2, head))
    planner.chunk.publish(conversions.chunk_message(actions[:, :5], 0.1, "", 2, head))
    planner.chunk.publish(conversions.chunk_message(np.zeros((8, 7)), 0.0, "", 2, head))
    planner.depth.publish(Image(header=head, encoding="yuv422", width=4, height=4))
    planner.overlay.publish(Image(header=head, encoding="rgb8", width=4, height=4, step=12))
    peer.spin(1.0)
    heard.clear()
    assert peer.until(lambda: heard)
    graph.check()


# rviz and Foxglove


def published(peer: Peer) -> dict[str, str]:
    """The type of every topic that somebody publishes."""
    topics = peer.node.get_topic_names_and_types()
    return {name: types[0] for name, types in topics if peer.node.count_publishers(name)}


def test_rviz_shows_what_is_published_as_it_is_published(graph: Bringup, peer: Peer) -> None:
    config = yaml.safe_load((share() / "config" / "rviz" / "molmoact.rviz").read_text())["Visualization Manager"]
    displays = [d for d in config["Displays"] if "Topic" in d or "Description Topic" in d]
    assert {d["Class"].split("/")[1] for d in displays} == set(RVIZ_TYPES)
    wanted = {(d.get("Topic") or d["Description Topic"])["Value"] for d in displays}
    assert peer.until(lambda: wanted <= set(published(peer))), wanted - set(published(peer))
    for display in displays:
        topic = display.get("Topic") or display["Description Topic"]
        assert published(peer)[topic["Value"]] == RVIZ_TYPES[display["Class"].split("/")[1]], topic["Value"]
        for info in peer.node.get_publishers_info_by_topic(topic["Value"]):
            offer = info.qos_profile
            if topic["Reliability Policy"] == "Reliable":
                assert offer.reliability is ReliabilityPolicy.RELIABLE, topic["Value"]
            if topic["Durability Policy"] == "Transient Local":
                assert offer.durability is DurabilityPolicy.TRANSIENT_LOCAL, topic["Value"]
    camera = next(d for d in displays if d["Class"].endswith("/Camera"))["Topic"]["Value"]
    assert camera.replace("image_raw", "camera_info") in published(peer), "rviz looks for it there"
    names = {d["Name"] for d in config["Displays"]}
    assert set(next(d for d in displays if d["Class"].endswith("/Camera"))["Visibility"]) <= names
    assert config["Global Options"]["Fixed Frame"] == BASE_FRAME


def test_foxgloves_layout_names_what_is_published(graph: Bringup, peer: Peer) -> None:
    layout = json.loads((share() / "config" / "foxglove" / "molmoact.json").read_text())
    paths: list[str] = []

    def collect(value: Any, key: str = "") -> None:
        if isinstance(value, dict):
            paths.extend(name for name in value if name.startswith("/"))
            for name, inner in value.items():
                collect(inner, name)
        elif isinstance(value, list):
            for inner in value:
                collect(inner)
        elif isinstance(value, str) and value.startswith("/"):
            paths.append(value)

    collect(layout["configById"])
    topics = {path.split(".")[0] for path in paths}
    assert len(topics) >= 8
    assert peer.until(lambda: topics <= set(published(peer))), topics - set(published(peer))
    for path in paths:
        topic, *fields = path.split(".")
        if fields:
            kind = {"/policy/engine_status": EngineStatus, "/controller/safety_status": None}[topic]
            assert kind is None or fields[0] in kind.get_fields_and_field_types()
    panels = set(layout["configById"])

    def leaves(node: Any) -> Iterator[str]:
        if isinstance(node, str):
            yield node
        else:
            yield from leaves(node["first"])
            yield from leaves(node["second"])

    assert set(leaves(layout["layout"])) == panels


def test_foxgloves_websocket_gives_the_messages_that_ros_has(planner: Planner, peer: Peer) -> None:
    wanted = ["/tf_static", "/joint_states", "/policy/engine_status"]

    async def watch() -> tuple[dict[str, dict[str, Any]], dict[str, bytes]]:
        channels: dict[str, dict[str, Any]] = {}
        got: dict[str, bytes] = {}
        async with websockets.connect(f"ws://127.0.0.1:{PORT}", subprotocols=["foxglove.sdk.v1"]) as socket:  # type: ignore[list-item]
            async with asyncio.timeout(30):
                while not set(wanted) <= set(channels) or not set(wanted) <= set(got):
                    message = await socket.recv()
                    if isinstance(message, str):
                        said = json.loads(message)
                        if said["op"] == "advertise":
                            new = {c["topic"]: c for c in said["channels"]}
                            channels |= new
                            asked = [
                                {"id": 100 + wanted.index(t), "channelId": new[t]["id"]} for t in wanted if t in new
                            ]
                            if asked:
                                await socket.send(json.dumps({"op": "subscribe", "subscriptions": asked}))
                    elif message[0] == 1:  # message data: subscription, time in ns, message
                        number, _ = struct.unpack_from("<IQ", message, 1)
                        got[wanted[number - 100]] = message[13:]
        return channels, got

    channels, got = asyncio.run(watch())
    assert channels["/joint_states"]["schemaName"] == "sensor_msgs/msg/JointState"
    assert channels["/joint_states"]["encoding"] == "cdr" and channels["/joint_states"]["schemaEncoding"] == "ros2msg"
    assert "string[] name" in channels["/joint_states"]["schema"]
    from rclpy.serialization import deserialize_message

    status = deserialize_message(got["/policy/engine_status"], EngineStatus)
    assert status.checkpoint and conversions.seconds(status.header.stamp) > 0
    assert {t.child_frame_id for t in deserialize_message(got["/tf_static"], TFMessage).transforms}
