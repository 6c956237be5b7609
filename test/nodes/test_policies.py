"""Two robots' policies in one process, over one engine."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from sensor_msgs.msg import Image
from std_msgs.msg import String

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import ActionChunk, EngineStatus
from molmoact_ros.ros import conversions, qos

from .conftest import Peer

ROBOTS = ["left", "right"]


@pytest.fixture()
def policies(checkpoint: Path, domain: int, tmp_path: Path) -> Bringup:
    parameters = {"checkpoint": str(checkpoint), "robots": ROBOTS, "max_age": 5.0}
    return Bringup(Profile(nodes={"policies": parameters}), tmp_path)


def test_two_robots_are_answered_at_once(policies: Bringup, peer: Peer) -> None:
    rng = np.random.default_rng(0)
    chunks = {r: peer.listen(ActionChunk, f"/{r}/policy/action_chunk", qos.RELIABLE) for r in ROBOTS}
    heard = {r: peer.listen(EngineStatus, f"/{r}/policy/engine_status", qos.STATE) for r in ROBOTS}
    topics = [f"/{robot}/{camera}/color/image_raw" for robot in ROBOTS for camera in ("front", "wrist")]
    cameras = [peer.node.create_publisher(Image, topic, qos.SENSOR) for topic in topics]
    speak = [peer.node.create_publisher(String, f"/{robot}/policy/instruction", qos.RELIABLE) for robot in ROBOTS]

    def film() -> None:
        head = conversions.header(peer.now(), "camera")
        for camera in cameras:
            picture = rng.integers(0, 256, (48, 64, 3), dtype=np.uint8)
            camera.publish(conversions.image_message(picture, "rgb8", head))

    with policies:
        assert peer.until(lambda: all(heard.values()), 60.0)
        assert peer.until(lambda: all(p.get_subscription_count() for p in (*speak, *cameras)))
        for publisher, thing in zip(speak, ("red", "green"), strict=True):
            publisher.publish(String(data=f"put the {thing} cube in the bowl"))
        timer = peer.node.create_timer(0.1, film)
        assert peer.until(lambda: all(len(c) >= 3 for c in chunks.values()))
        peer.node.destroy_timer(timer)
        policies.check()
        for robot in ROBOTS:
            mine = ("policy", f"/{robot}")
            served = {name for name, _ in peer.node.get_client_names_and_types_by_node(*mine)}
            heard_of = {name for name, _ in peer.node.get_subscriber_names_and_types_by_node(*mine)}
            assert {f"/{robot}/controller/start", f"/{robot}/controller/hold"} <= served, "each has its own controller"
            assert {f"/{robot}/controller/safety_status", f"/{robot}/joint_states"} <= heard_of
    assert {r: heard[r][-1].instruction.split()[2] for r in ROBOTS} == {"left": "red", "right": "green"}
