"""The committed SROS2 policies give each node what it has on the running graph, and no more.

WRITE_POLICIES=1 writes the policies of the nodes that run here anew, for a look at the difference.
"""

from __future__ import annotations

import os
import stat
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from xml.etree import ElementTree

import pytest
from sensor_msgs.msg import CompressedImage, Image
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray

from molmoact_ros.bringup import security
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import NODES, Profile
from molmoact_ros.cli import main
from molmoact_ros.ros import qos
from molmoact_ros.srv import EditTrace

from .conftest import INSTRUCTION, Robot
from .test_steering import TO_THE_RIGHT, drawing

SOURCE = Path(__file__).parents[2] / "config" / "security" / "policies"
GRAPH = ("sim", "controller", "policy", "view", "panel", "joystick", "expert", "realsense")
"""Nodes that run here, with a single arm, as the profile `sim` has them."""
LIFECYCLE = ("controller", "policy")
ON_DEMAND = {
    "expert": {("actions", "execute", "/expert/execute")},
    "panel": {("topics", "subscribe", topic) for topic in (
        "/front/color/image_raw", "/policy/depth_image", "/policy/model_overlay", "/view/depth_picture",
        "/view/trace_overlay", "/wrist/color/image_raw",
    )},
}  # fmt: skip
"""What a node has only while somebody looks through a browser, or once a controller for it is there."""


class Access(NamedTuple):
    """kind: topics, services or actions; verb: as in a policy; name: whole."""

    kind: str
    verb: str
    name: str


def allowed(file: Path) -> set[Access]:
    """What a policy allows its node."""
    access = set()
    for profile in ElementTree.parse(file).iter("profile"):
        space, node = profile.attrib["ns"].rstrip("/"), profile.attrib["node"]
        for element in security.rules(profile, file.parent):
            ((verb, rule),) = element.attrib.items()
            assert rule == "ALLOW"
            for item in element:
                name = (item.text or "").strip()
                whole = name if name.startswith("/") else f"{space}/{node}{name[1:]}" if name[0] == "~" else f"/{name}"
                access.add(Access(element.tag, verb, whole))
    return access


def seen(robot: Robot, node: str) -> set[Access]:
    """What a node has on the graph now."""
    graph, access, found = robot.node, set(), set[tuple[str, str, str]]()
    if (node, "/") not in graph.get_node_names_and_namespaces():
        return set()
    for kind, verb, ask in (
        ("topics", "publish", graph.get_publisher_names_and_types_by_node),
        ("topics", "subscribe", graph.get_subscriber_names_and_types_by_node),
        ("services", "reply", graph.get_service_names_and_types_by_node),
        ("services", "request", graph.get_client_names_and_types_by_node),
    ):
        found |= {(kind, verb, name) for name, _ in ask(node, "/")}
    for kind, verb, name in found:
        action, _, part = name.partition("/_action/")
        if not part:
            access.add(Access(kind, verb, name))
        elif part == "send_goal":
            access.add(Access("actions", "execute" if verb == "reply" else "call", action))
    return access


def common(node: str) -> set[Access]:
    """What every node of that kind has."""
    files = ["node.xml", *(["lifecycle_node.xml"] if node in LIFECYCLE else [])]
    access = set()
    for file in files:
        for element in ElementTree.parse(SOURCE / "common" / file).getroot():
            ((verb, _),) = element.attrib.items()
            access |= {Access(element.tag, verb, f"/{node}{(i.text or '').strip().removeprefix('~')}"
                              if (i.text or "").startswith("~") else (i.text or "")) for i in element}  # fmt: skip
    return access


def write(node: str, access: set[Access]) -> None:
    """A policy as it is committed: names relative where they follow the node or its namespace."""
    absolute = ("/diagnostics", "/tf", "/tf_static", "/robot_description", "/parameter_events", "/rosout", "/clock")
    lines = [
        '<?xml version="1.0" encoding="UTF-8"?>',
        '<policy version="0.2.0" xmlns:xi="http://www.w3.org/2001/XInclude">',
        "  <enclaves>",
        f'    <enclave path="/{node}">',
        "      <profiles>",
        f'        <profile ns="/" node="{node}">',
    ]
    for part in ("node", *(["lifecycle_node"] if node in LIFECYCLE else [])):
        lines.append(f'          <xi:include href="common/{part}.xml" xpointer="xpointer(/profile/*)"/>')
    for kind, verb in sorted({(one.kind, one.verb) for one in access}):
        lines.append(f'          <{kind} {verb}="ALLOW">')
        for name in sorted(one.name for one in access if (one.kind, one.verb) == (kind, verb)):
            own = f"~{name[len(node) + 1 :]}" if name.startswith(f"/{node}/") else name[1:]
            lines.append(f"            <{kind[:-1]}>{name if name in absolute else own}</{kind[:-1]}>")
        lines.append(f"          </{kind}>")
    closing = ["        </profile>", "      </profiles>", "    </enclave>", "  </enclaves>", "</policy>", ""]
    (SOURCE / f"{node}.xml").write_text("\n".join([*lines, *closing]))


@pytest.fixture(scope="module")
def used(domain: int, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, set[Access]]]:
    """What each node of the graph has had by the time that all was used: a goal, a drawing, depth, the view."""
    profile = Profile.read("sim").with_parameters({
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "policy": {"checkpoint": str(checkpoint), "max_age": 5.0, "action_dt": 0.8},
        "view": {}, "panel": {"port": 0}, "joystick": {}, "expert": {}, "realsense": {},
    })  # fmt: skip
    profile = Profile(nodes={name: profile.nodes[name] for name in GRAPH}, environment=profile.environment)
    with Bringup(profile, tmp_path_factory.mktemp("logs")) as bringup:
        robot = Robot(bringup)
        had: dict[str, set[Access]] = {name: set() for name in GRAPH}

        def look() -> None:
            for name in GRAPH:
                had[name] |= seen(robot, name)

        looking = robot.node.create_timer(0.3, look)
        for name in ("trace_overlay", "depth_picture", "side_by_side"):
            robot.listen(Image, f"/view/{name}", qos.SENSOR)
        robot.listen(CompressedImage, "/policy/model_overlay/compressed", qos.SENSOR)
        robot.listen(MarkerArray, "/view/markers", qos.RELIABLE)
        robot.listen(TFMessage, "/tf", qos.TF)
        assert robot.until(lambda: all(had.values()), 90.0), {name for name in GRAPH if not had[name]}
        assert robot.set("mode", "grounded").successful
        robot.begin(INSTRUCTION)
        assert robot.until(lambda: robot.engine[-1].instruction == INSTRUCTION)
        assert robot.call(EditTrace, "/policy/edit_trace", trace=drawing(robot, *TO_THE_RIGHT)).success
        quiet, before = time.monotonic(), None

        def settled() -> bool:
            nonlocal quiet, before
            now = {name: len(access) for name, access in had.items()}
            if now != before:
                quiet, before = time.monotonic(), now
            return time.monotonic() - quiet > 5.0

        assert robot.until(settled, 90.0)
        robot.node.destroy_timer(looking)
        yield had
        robot.close()


@pytest.mark.parametrize("node", GRAPH)
def test_a_policy_gives_each_node_what_it_has_and_no_more(used: dict[str, set[Access]], node: str) -> None:
    own = (used[node] | {Access(*one) for one in ON_DEMAND.get(node, set())}) - common(node)
    if os.environ.get("WRITE_POLICIES"):
        write(node, own)
    policy = allowed(SOURCE / f"{node}.xml")
    assert not own - policy, "it has these, and its policy does not allow them"
    assert not policy - own - common(node), "its policy allows these, and it has them not"


def test_each_node_has_a_policy_of_its_own_and_names_no_other() -> None:
    """`policies` are nodes `policy` in namespaces. A player has none: what it plays could be commands."""
    assert {file.stem for file in SOURCE.glob("*.xml")} == {*NODES, "keyboard", "home", "calibrate", "collector"} - {
        "policies",
        "player",
    }
    for file in SOURCE.glob("*.xml"):
        root = ElementTree.parse(file).getroot()
        assert root.tag == "policy" and root.attrib["version"] == "0.2.0"
        assert [one.attrib["path"] for one in root.iter("enclave")] == [f"/{file.stem}"]
        assert [one.attrib["node"] for one in root.iter("profile")] == [file.stem]
        assert common(file.stem) <= allowed(file)


def test_the_arm_is_commanded_by_the_controller_alone() -> None:
    """What moves the arm, and what moves the controller: nobody but those who have to."""
    who: dict[str, set[str]] = {}
    for file in SOURCE.glob("*.xml"):
        for kind, verb, name in allowed(file):
            if (kind, verb) in (("topics", "publish"), ("services", "request")):
                who.setdefault(name, set()).add(file.stem)
    assert who["/fr3_arm_controller/joint_trajectory"] == {"controller"}
    assert who["/policy/action_chunk"] == {"policy"} and who["/joint_states"] <= {"sim"}
    assert who["/controller/start"] <= {"policy", "expert", "panel"}
    devices = {"joystick", "keyboard", "spacemouse", "leader", "panel", "home", "collector", "benchmark_server"}
    assert all(who[name] <= devices for name in who if name.startswith("/controller/teleop/"))


def test_a_policy_follows_a_namespace(tmp_path: Path) -> None:
    for file in (SOURCE / "policy.xml", SOURCE / "common" / "node.xml", SOURCE / "common" / "lifecycle_node.xml"):
        copy = tmp_path / file.relative_to(SOURCE)
        copy.parent.mkdir(exist_ok=True)
        copy.write_text(file.read_text())
    security.in_namespace(tmp_path / "policy.xml", "/left")
    root = ElementTree.parse(tmp_path / "policy.xml").getroot()
    assert [one.attrib["path"] for one in root.iter("enclave")] == ["/left/policy"]
    assert [one.attrib["ns"] for one in root.iter("profile")] == ["/left"]
    assert 'xpointer="xpointer(/profile/*)"' in (tmp_path / "policy.xml").read_text()


def test_keys_without_sros2_say_what_to_install(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert main.main(["keys", str(tmp_path / "keystore")]) == 1
    told = capsys.readouterr().err
    assert told.startswith("error: SROS2 is not installed") and told.count("\n") == 1
    assert main.main(["keys", str(tmp_path / "keystore"), "--namespace", "left arm"]) == 1
    assert "is no namespace" in capsys.readouterr().err
    assert not (tmp_path / "keystore").exists()


def test_keys_are_made_by_sros2_of_all_policies(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """SROS2 cannot be installed here: a program in its place notes what it is asked for, and makes the folder."""
    noted = tmp_path / "asked"
    program = tmp_path / "bin" / "ros2"
    program.parent.mkdir()
    program.write_text(f"""#!{sys.executable}
import pathlib, sys
pathlib.Path({str(noted)!r}).write_text("\\n".join(sys.argv[1:]))
assert all(pathlib.Path(file).is_file() for file in sys.argv[6:])
pathlib.Path(sys.argv[4]).mkdir()
""")
    program.chmod(0o755)
    (tmp_path / "sros2").mkdir()
    (tmp_path / "sros2" / "__init__.py").touch()
    monkeypatch.setenv("PATH", str(program.parent), prepend=os.pathsep)
    monkeypatch.syspath_prepend(tmp_path)
    keystore = tmp_path / "keystore"
    assert main.main(["keys", str(keystore), "--namespace", "/left"]) == 0
    assert "/left/controller" in capsys.readouterr().out
    asked: list[Any] = noted.read_text().splitlines()
    assert asked[:4] == ["security", "generate_artifacts", "-k", str(keystore)] and asked[4] == "-p"
    assert {Path(file).stem for file in asked[5:]} == {file.stem for file in SOURCE.glob("*.xml")}
    assert stat.S_IMODE(keystore.stat().st_mode) == 0o700


def test_nodes_start_in_their_enclaves_where_security_is_on(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("ROS_SECURITY_ENABLE", raising=False)
    assert security.enclave_arguments("policy") == []
    monkeypatch.setenv("ROS_SECURITY_ENABLE", "true")
    assert security.enclave_arguments("policy") == ["--enclave", "/policy"]
    monkeypatch.setenv("ROS_NAMESPACE", "/left")
    assert security.enclave_arguments("policy") == ["--enclave", "/left/policy"]
