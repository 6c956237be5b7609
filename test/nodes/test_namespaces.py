"""In a namespace everything is there: two robots, `/left` and `/right`, have nothing in common but time and frames."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from molmoact_ros.bringup.profiles import environment

from .conftest import Peer

SHARED = {"/clock", "/diagnostics", "/parameter_events", "/rosout", "/tf", "/tf_static", "/robot_description"}
PARTS = {
    "sim": ["joint_states", "front/color/image_raw", "wrist/color/camera_info", "fr3_arm_controller/joint_trajectory"],
    "policy": ["joint_states", "front/color/image_raw", "controller/start", "controller/safety_status", "policy/trace"],
    "expert": ["sim/scene_truth", "controller/start", "controller/safety_status", "expert/action_chunk"],
}


@pytest.fixture(params=PARTS)
def part(request: pytest.FixtureRequest, domain: int, checkpoint: Path, tmp_path: Path) -> Iterator[str]:
    name = request.param
    arguments = ["-r", "__ns:=/left", *(["-p", f"checkpoint:={checkpoint}"] if name == "policy" else [])]
    with (tmp_path / "log").open("w") as log:
        node = [sys.executable, "-m", f"molmoact_ros.nodes.{name}", "--ros-args", *arguments]
        process = subprocess.Popen(node, stdout=log, stderr=log, cwd=tmp_path, env=environment())
        yield name
        process.terminate()
        process.wait(20.0)


def names_of(peer: Peer, node: str) -> set[str]:
    """Topics and services that a node of `/left` has, by the graph; empty while it is not there."""
    asked = peer.node
    if (node, "/left") not in asked.get_node_names_and_namespaces():
        return set()
    return {
        name
        for of in (
            asked.get_publisher_names_and_types_by_node,
            asked.get_subscriber_names_and_types_by_node,
            asked.get_service_names_and_types_by_node,
            asked.get_client_names_and_types_by_node,
        )
        for name, _ in of(node, "/left")
    }


def test_item_4_a_node_in_a_namespace_talks_to_that_namespace_alone(peer: Peer, part: str) -> None:
    wanted = {f"/left/{name}" for name in PARTS[part]}
    assert peer.until(lambda: wanted <= names_of(peer, part), 90.0), wanted - names_of(peer, part)
    outside = {name for name in names_of(peer, part) if not name.startswith("/left/")}
    assert outside <= SHARED
