"""M7: who may look through the Foxglove bridge, by a real process and a websocket client."""

from __future__ import annotations

import json
import re
import socket
import struct
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from rclpy.serialization import deserialize_message
from std_msgs.msg import String
from websockets.exceptions import InvalidStatus
from websockets.sync.client import connect

from molmoact_ros.bringup.processes import Bringup, command, write_parameters
from molmoact_ros.bringup.profiles import Profile, environment
from molmoact_ros.nodes.foxglove import hidden_address
from molmoact_ros.ros import qos

from .conftest import PATIENCE, Peer

TOKEN = "a-token-of-the-tests-own"
APP = "https://app.foxglove.dev"


@contextmanager
def bridge(peer: Peer, logs: Path, **parameters: object) -> Iterator[tuple[Bringup, int]]:
    """The process, and its port."""
    profile = Profile(nodes={"foxglove": {"port": 0, **parameters}})
    with Bringup(profile, logs) as bringup:
        log = bringup.log("foxglove")
        assert peer.until(lambda: "ready: open ws://" in log.read_text()), log.read_text()
        (port,) = re.findall(r"ready: open ws://\S+?:(\d+)", log.read_text())
        yield bringup, int(port)
        bringup.check()


@pytest.fixture(scope="module")
def here(domain: int, peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bringup, int]]:
    with bridge(peer, tmp_path_factory.mktemp("here"), origins=[APP, "http://localhost:8080"]) as running:
        yield running


@pytest.fixture(scope="module")
def elsewhere(domain: int, peer: Peer, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Bringup, int]]:
    folder = tmp_path_factory.mktemp("elsewhere")
    file = folder / "token"
    file.write_text(TOKEN)
    file.chmod(0o600)
    with bridge(peer, folder, host="0.0.0.0", token_file=str(file)) as running:
        yield running


def look(peer: Peer, address: str, origin: str | None) -> str:
    """What a viewer sees of the topic /said within a while; raises InvalidStatus where it is not let in."""
    publisher = peer.node.create_publisher(String, "/said", qos.RELIABLE)
    with connect(address, origin=origin, subprotocols=["foxglove.sdk.v1"], max_size=None) as viewer:  # type: ignore[arg-type, list-item]
        assert viewer.subprotocol == "foxglove.sdk.v1"
        info, deadline = {}, time.monotonic() + PATIENCE
        try:
            while time.monotonic() < deadline:
                publisher.publish(String(data="hello"))
                peer.spin(0.05)
                try:
                    message = viewer.recv(timeout=0.05)
                except TimeoutError:
                    continue
                if isinstance(message, bytes):
                    number, _ = struct.unpack_from("<IQ", message, 1)
                    assert number == 7
                    return str(deserialize_message(message[13:], String).data)
                info = json.loads(message)
                if info["op"] == "serverInfo":
                    assert info["capabilities"] == [], "nothing but looking"
                for channel in info.get("channels", []):
                    if channel["topic"] == "/said":
                        wanted = [{"id": 7, "channelId": channel["id"]}]
                        viewer.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))
        finally:
            peer.node.destroy_publisher(publisher)
    raise AssertionError(f"nothing was seen; last: {info}")


def refused(address: str, origin: str | None) -> int:
    """The status with which a viewer is sent away."""
    with pytest.raises(InvalidStatus) as answer, connect(address, origin=origin, subprotocols=["foxglove.sdk.v1"]):  # type: ignore[arg-type, list-item]
        pass
    return int(answer.value.response.status_code)


@pytest.mark.parametrize("origin", [APP, "http://localhost:8080", None])
def test_m7_foxglove_and_programs_may_look(here: tuple[Bringup, int], peer: Peer, origin: str | None) -> None:
    assert look(peer, f"ws://127.0.0.1:{here[1]}", origin) == "hello"


@pytest.mark.parametrize(
    "origin", ["https://evil.example", "null", "http://localhost", "https://app.foxglove.dev.evil.example", ""]
)
def test_m7_other_pages_may_not(here: tuple[Bringup, int], origin: str) -> None:
    assert refused(f"ws://127.0.0.1:{here[1]}", origin) == 403


def test_m7_the_server_behind_the_gate_is_where_no_page_finds_it(here: tuple[Bringup, int]) -> None:
    pid = here[0].pid("foxglove")
    inodes = {
        match[1]
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.is_symlink() and (match := re.fullmatch(r"socket:\[(\d+)\]", str(link.readlink())))
    }
    lines = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]
    listening = [line[1] for line in lines if line[3] == "0A" and line[9] in inodes]
    hosts = {socket.inet_ntoa(struct.pack("<I", int(at.split(":")[0], 16))) for at in listening}
    assert len(listening) == 2 and "127.0.0.1" in hosts
    (hidden,) = hosts - {"127.0.0.1"}
    assert hidden.startswith("127.")
    ours = int(here[1])
    (inner,) = [int(at.split(":")[1], 16) for at in listening if int(at.split(":")[1], 16) != ours]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", inner), timeout=5.0)
    assert len({hidden_address() for _ in range(50)}) > 45


def test_m7_at_another_address_the_token_is_needed(elsewhere: tuple[Bringup, int], peer: Peer) -> None:
    bringup, port = elsewhere
    at = f"ws://127.0.0.1:{port}"
    assert look(peer, f"{at}/?token={TOKEN}", APP) == "hello"
    for address in (at, f"{at}/?token=", f"{at}/?token={TOKEN}x"):
        assert refused(address, None) == 401
    assert refused(f"{at}/?token={TOKEN}", "https://evil.example") == 403, "not even with it"
    text = bringup.log("foxglove").read_text()
    assert TOKEN not in text and "?token=" in text


def test_m7_a_token_that_others_may_read_is_refused(domain: int, tmp_path: Path) -> None:
    token = tmp_path / "token"
    token.write_text(TOKEN)
    token.chmod(0o644)
    file = write_parameters(tmp_path, "foxglove", {"port": 0, "host": "0.0.0.0", "token_file": str(token)})
    done = subprocess.run(
        command("foxglove", file), env=environment(), cwd=tmp_path, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1 and "chmod 600" in done.stderr and TOKEN not in done.stderr


def test_m7_a_viewer_can_publish_and_call_nothing(here: tuple[Bringup, int], peer: Peer) -> None:
    heard = peer.listen(String, "/policy/instruction", qos.RELIABLE)
    with connect(f"ws://127.0.0.1:{here[1]}", subprotocols=["foxglove.sdk.v1"], max_size=None) as viewer:  # type: ignore[list-item]
        channel = {"id": 1, "topic": "/policy/instruction", "encoding": "cdr", "schemaName": "std_msgs/msg/String"}
        viewer.send(json.dumps({"op": "advertise", "channels": [channel]}))
        viewer.send(struct.pack("<BI", 1, 1) + b"\0\1\0\0\4\0\0\0arm\0")
        viewer.send(json.dumps({"op": "setParameters", "parameters": [{"name": "/policy.approve", "value": ""}]}))
        peer.spin(1.0)
    assert not heard and not peer.node.get_publishers_info_by_topic("/policy/instruction")
