"""What an operator's page and devices publish, and what the panel's process outlives; stand-ins for the others."""

from __future__ import annotations

import json
import os
import pty
import random
import re
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest
from geometry_msgs.msg import TwistStamped
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CameraInfo, Image, JointState, Joy
from std_msgs.msg import Bool, Empty, Float64, Header, String
from std_srvs.srv import Trigger
from tf2_msgs.msg import TFMessage
from visualization_msgs.msg import MarkerArray
from websockets.sync.client import ClientConnection, connect

from molmoact_ros.benchmarks.panel_latency import address
from molmoact_ros.bringup.processes import Bringup, command, write_parameters
from molmoact_ros.bringup.profiles import Profile, environment
from molmoact_ros.msg import ActionChunk, Deadman, EngineStatus, GripperOpening, SafetyStatus, Trace
from molmoact_ros.ros import conversions, qos
from molmoact_ros.srv import ApprovePlan

from .conftest import PATIENCE, Peer
from .test_contained import anything

CLOSING = 1.0
"""s for the closing handshake, which a client that has not read everything does not notice."""


class Page:
    """Speaks to a panel as its page does."""

    def __init__(self, peer: Peer, at: str) -> None:
        self.peer, self.state = peer, dict[str, Any]()
        self._stack = ExitStack()
        self._socket: ClientConnection = self._stack.enter_context(
            connect(at.replace("http", "ws") + "control", close_timeout=CLOSING)
        )
        self._answers: dict[int, dict[str, Any]] = {}
        self._number = 0

    def close(self) -> None:
        self._stack.close()

    def say(self, word: dict[str, Any]) -> int:
        self._number += 1
        self._socket.send(json.dumps({**word, "id": self._number}))
        return self._number

    def say_now(self, word: dict[str, Any], ago: float = 0.0) -> None:
        self.say({**word, "number": self._number, "sent": time.monotonic() - ago})

    def hear(self) -> None:
        """Take what has come."""
        try:
            while True:
                message = json.loads(self._socket.recv(timeout=0.001))
                if "answer" in message:
                    self._answers[message["answer"]] = message
                self.state = message.get("state", self.state)
        except TimeoutError:
            return

    def until(self, happened: Callable[[], Any], patience: float = PATIENCE) -> bool:
        def look() -> Any:
            self.hear()
            return happened()

        return self.peer.until(look, patience)

    def ask(self, word: dict[str, Any]) -> dict[str, Any]:
        number = self.say(word)
        assert self.until(lambda: number in self._answers), f"{word} was not answered"
        return self._answers.pop(number)

    def sees(self, name: str) -> bool:
        """The controller's state."""
        return self.until(lambda: (self.state.get("safety") or {}).get("state") == name)


class StandIn:
    """Takes the places of controller and policy in a namespace: notes what it is asked, and says what it is told to."""

    def __init__(self, peer: Peer, space: str = "") -> None:
        self.peer, self.space, node = peer, space, peer.node
        self.safety = SafetyStatus(state=SafetyStatus.HOLD)
        self.engine = EngineStatus(state=EngineStatus.RUNNING)
        self.asked: list[Any] = []
        self.answers = {"controller": ApprovePlan.Response(success=True), "policy": ApprovePlan.Response(success=True)}
        # Volatile: a heartbeat needs no history.
        self._safety = node.create_publisher(SafetyStatus, f"{space}/controller/safety_status", qos.RELIABLE)
        self._engine = node.create_publisher(EngineStatus, f"{space}/policy/engine_status", qos.RELIABLE)
        self._made: list[Any] = []
        for name in ("stop", "resume", "hold"):
            take = lambda _, response, name=name: self._note(name, response)  # noqa: E731
            self._made.append(node.create_service(Trigger, f"{space}/controller/{name}", take))
        node.create_timer(0.1, self.tell)

    def serve_approval(self, *nodes: str) -> None:
        for name in nodes:
            self._made.append(
                self.peer.node.create_service(
                    ApprovePlan, f"{self.space}/{name}/approve_plan",
                    lambda request, _, name=name: self._approve(name, request),
                )
            )  # fmt: skip

    def tell(self) -> None:
        self._safety.publish(self.safety)
        self._engine.publish(self.engine)

    def _note(self, name: str, response: Trigger.Response) -> Trigger.Response:
        self.asked.append(name)
        response.success = True
        return response

    def _approve(self, name: str, request: ApprovePlan.Request) -> ApprovePlan.Response:
        self.asked.append((name, request.plan_id))
        return self.answers[name]


@contextmanager
def running(name: str, space: str, folder: Path, *more: str) -> Iterator[Path]:
    """One node in a namespace; its log."""
    file, log = write_parameters(folder, f"{name}{space.replace('/', '-')}", {}), folder / f"{name}{len(space)}.log"
    with log.open("wb") as out:
        process = subprocess.Popen(
            [*command(name, file), "-r", f"__ns:={space}", *more], env=environment(), cwd=folder, stdout=out, stderr=out
        )
    try:
        yield log
        assert process.poll() is None, log.read_text()[-2000:]
    finally:
        process.terminate()
        process.wait(20)


@pytest.fixture(scope="module")
def bringup(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bringup]:
    nodes: dict[str, dict[str, Any]] = {"panel": {"port": 0}, "view": {}, "foxglove": {"port": 0}, "joystick": {}}
    with Bringup(Profile(nodes=nodes), tmp_path_factory.mktemp("logs")) as bringup:
        yield bringup


@pytest.fixture(scope="module")
def others(bringup: Bringup, peer: Peer) -> StandIn:
    return StandIn(peer)


@pytest.fixture
def page(bringup: Bringup, others: StandIn, peer: Peer) -> Iterator[Page]:
    page = Page(peer, address(bringup))
    others.safety = SafetyStatus(state=SafetyStatus.HOLD)
    assert page.sees("hold")
    peer.spin(1.1)  # a resume of the test before is another press
    others.asked.clear()
    yield page
    page.close()
    bringup.check()


def test_h7_a_service_that_answers_after_the_time_out_ends_nothing(page: Page, others: StandIn) -> None:
    number = page.say({"do": "hold"})
    deadline = time.monotonic() + 30.0
    while number not in page._answers and time.monotonic() < deadline:
        page.hear()  # nothing spins the stand-in: it does not answer
        time.sleep(0.1)
    assert "no answer in" in page._answers[number]["message"]
    assert page.until(lambda: others.asked == ["hold"]), "now it does"
    assert page.ask({"do": "hold"})["ok"] and page.sees("hold"), "and the panel goes on"


def test_h7_an_unknown_state_is_shown_and_stop_still_works(page: Page, others: StandIn) -> None:
    others.safety = SafetyStatus(state=99, reason="x" * 10_000)
    assert page.sees("unknown (99)")
    assert page.ask({"do": "stop"})["ok"]
    assert others.asked == ["stop"]


def test_h7_no_message_ends_a_node_that_only_shows(
    page: Page, others: StandIn, peer: Peer, bringup: Bringup, domain: int
) -> None:
    """Panel, view, bridge and joystick as processes; what comes is wild, nearly sound, or cut off in the middle."""
    markers = peer.listen(MarkerArray, "/view/markers", qos.RELIABLE)
    pictures = peer.listen(Image, "/view/side_by_side", qos.RELIABLE)
    kinds = {
        "/controller/safety_status": SafetyStatus, "/policy/engine_status": EngineStatus, "/policy/trace": Trace,
        "/policy/action_chunk": ActionChunk, "/policy/pending_chunk": ActionChunk, "/joint_states": JointState,
        "/front/color/image_raw": Image, "/policy/depth_image": Image, "/front/color/camera_info": CameraInfo,
        "/front/aligned_depth_to_color/image_raw": Image, "/joy": Joy, "/tf_static": TFMessage,
    }  # fmt: skip
    said = {topic: peer.node.create_publisher(kind, topic, qos.STATE) for topic, kind in kinds.items()}
    (port,) = re.findall(r"ready: open ws://\S+?:(\d+)", bringup.log("foxglove").read_text())
    protocols: Any = ["foxglove.sdk.v1"]
    with connect(f"ws://127.0.0.1:{port}", subprotocols=protocols, max_size=None, close_timeout=CLOSING) as viewer:
        assert peer.until(lambda: "/joy" in advertised(viewer))
        rng = random.Random(7)
        for _ in range(60):
            for topic, kind in kinds.items():
                data = serialize_message(anything(kind, rng))
                said[topic].publish(data[: rng.randrange(4, len(data))] if rng.random() < 0.1 else data)
            peer.spin(0.02)
            page.hear()  # who does not read answers no pings, and is taken for gone
            with suppress(TimeoutError):
                while True:
                    viewer.recv(timeout=0.001)
    for publisher in said.values():
        peer.node.destroy_publisher(publisher)
    bringup.check()
    markers.clear()
    assert page.sees("hold") and page.ask({"do": "hold"})["ok"]
    assert peer.until(lambda: markers), "the view goes on"
    assert isinstance(pictures, list)
    assert page.until(lambda: (page.state["safety"] or {}).get("state") == "hold")


def advertised(viewer: ClientConnection) -> list[str]:
    """Subscribes to everything that the bridge offers in its next message; the topics."""
    try:
        message = json.loads(viewer.recv(timeout=1.0))
    except (TimeoutError, UnicodeDecodeError, json.JSONDecodeError):
        return []
    channels = message.get("channels", [])
    wanted = [{"id": channel["id"], "channelId": channel["id"]} for channel in channels]
    viewer.send(json.dumps({"op": "subscribe", "subscriptions": wanted}))
    return [channel["topic"] for channel in channels]


def test_c5_jogging_is_stamped_now_with_its_switch(page: Page, others: StandIn, peer: Peer) -> None:
    twists = peer.listen(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
    switches = peer.listen(Deadman, "/controller/teleop/deadman_stamped", qos.RELIABLE)
    openings = peer.listen(GripperOpening, "/controller/teleop/gripper_stamped", qos.RELIABLE)
    old = peer.listen(Bool, "/controller/teleop/deadman", qos.RELIABLE)
    old += peer.listen(Float64, "/controller/teleop/gripper", qos.RELIABLE)
    peer.spin(0.5)

    def moved() -> bool:
        page.say_now({"do": "jog", "twist": [0, 0, 1, 0, 0, 0]})
        return len(twists) > 5

    assert page.until(moved)
    assert page.ask({"do": "let_go"})["ok"] and page.ask({"do": "grip", "open": True})["ok"]
    assert page.until(lambda: openings and not switches[-1].held)
    now = peer.now()
    for message in (*twists, *switches, *openings):
        assert now - 60.0 < conversions.seconds(message.header.stamp) <= now + 0.05
    assert switches[0].held and openings[-1].opening == 0.08 and not old
    count = len([twist for twist in twists if twist.twist.linear.z])
    for _ in range(20):
        page.say_now({"do": "jog", "twist": [0, 0, 1, 0, 0, 0]}, ago=2.0)
    peer.spin(0.5)
    page.hear()
    assert len([twist for twist in twists if twist.twist.linear.z]) == count, "held back for 2 s: nothing moves"


def test_m5_presence_is_published_while_the_page_is_looked_at(page: Page, others: StandIn, peer: Peer) -> None:
    presence = peer.listen(Header, "/controller/presence", qos.RELIABLE)
    peer.spin(1.0)
    assert not presence, "connected alone is not enough"
    end = time.monotonic() + 3.0
    while time.monotonic() < end:
        page.say_now({"do": "here"})
        peer.spin(0.2)
    assert len(presence) >= 8, f"{len(presence)} in 3 s, not five a second"
    assert abs(peer.now() - conversions.seconds(presence[-1].stamp)) < 2.0
    peer.spin(1.0)
    count = len(presence)
    peer.spin(1.0)
    assert len(presence) == count, "the page is silent: gone"


def test_m5_stop_goes_by_topic_too_where_the_service_is_busy(page: Page, others: StandIn, peer: Peer) -> None:
    stops = peer.listen(Empty, "/controller/stop", qos.RELIABLE)
    peer.spin(0.5)
    assert page.ask({"do": "stop"})["ok"]
    assert page.until(lambda: stops) and "stop" in others.asked


def test_m4_the_plan_on_the_screen_is_approved_and_no_other(page: Page, others: StandIn, peer: Peer) -> None:
    assert "nobody answers at /policy/approve_plan" in page.ask({"do": "approve", "plan": 3})["message"]
    others.serve_approval("policy")
    assert page.until(lambda: page.ask({"do": "approve", "plan": 3})["ok"])
    assert others.asked[-1] == ("policy", 3)
    others.serve_approval("controller")
    others.asked.clear()
    assert page.until(lambda: page.ask({"do": "approve", "plan": 4})["ok"] and len(others.asked) > 1)
    assert others.asked[-2:] == [("controller", 4), ("policy", 4)]
    others.answers["controller"] = ApprovePlan.Response(success=False, message="plan 5 waits, not 4; look at it")
    others.asked.clear()
    answer = page.ask({"do": "approve", "plan": 4})
    assert not answer["ok"] and answer["message"] == "plan 5 waits, not 4; look at it"
    assert others.asked == [("controller", 4)], "the policy releases nothing that the controller would not play"


def test_a_stop_is_reset_first_and_resumed_by_another_press(page: Page, others: StandIn, peer: Peer) -> None:
    others.safety = SafetyStatus(state=SafetyStatus.STOPPED)
    assert page.sees("stopped")
    assert "press Reset" in page.ask({"do": "resume"})["message"]
    assert page.ask({"do": "reset"})["ok"]
    again = page.ask({"do": "reset"})
    assert not again["ok"] and "again" in again["message"], "a double click is one press"
    others.safety = SafetyStatus(state=SafetyStatus.HOLD)
    assert page.sees("hold")
    peer.spin(1.2)
    assert "press Resume" in page.ask({"do": "reset"})["message"]
    assert page.ask({"do": "resume"})["ok"]
    assert others.asked == ["resume", "resume"]


def test_c5_a_stale_joystick_moves_nothing_and_still_stops(bringup: Bringup, others: StandIn, peer: Peer) -> None:
    twists = peer.listen(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
    presence = peer.listen(Header, "/controller/presence", qos.RELIABLE)
    joy = peer.node.create_publisher(Joy, "/joy", qos.RELIABLE)
    assert peer.until(joy.get_subscription_count)
    others.asked.clear()

    def push(ago: float | None, *pressed: int) -> None:
        message = Joy(axes=[0.0] * 4 + [1.0] + [0.0] * 3, buttons=[int(k in pressed) for k in range(11)])
        if ago is not None:
            message.header.stamp = conversions.time_message(peer.now() - ago)
        joy.publish(message)
        peer.spin(0.03)

    def moving() -> bool:
        return any(twist.twist.linear.z for twist in twists)

    for ago in (3600.0, 1.0, -1.0):
        for _ in range(10):
            push(ago, 4)
    peer.spin(0.5)
    assert not moving() and not presence
    push(3600.0, 4, 2)
    assert peer.until(lambda: "stop" in others.asked), "a stop counts however old"

    def pushing(happened: Callable[[], Any], ago: float | None, *pressed: int) -> bool:
        def push_and_look() -> Any:
            push(ago, *pressed)
            return happened()

        return peer.until(push_and_look)

    for stamped in (0.0, None):
        twists.clear()
        presence.clear()
        assert pushing(lambda: moving() and presence, stamped, 4)
    assert pushing(lambda: not twists[-1].twist.linear.z, None)
    twists.clear()
    presence.clear()
    assert pushing(lambda: len(presence) > 2, 0.0, 5), "a button of its own says that somebody is there"
    assert not twists, "and leaves the arm to the policy"
    peer.node.destroy_publisher(joy)


def test_m5_the_keyboard_shows_unknown_states_stops_by_topic_and_is_present(
    bringup: Bringup, others: StandIn, peer: Peer, tmp_path: Path
) -> None:
    stops = peer.listen(Empty, "/controller/stop", qos.RELIABLE)
    presence = peer.listen(Header, "/controller/presence", qos.RELIABLE)
    others.safety = SafetyStatus(state=99, reason="a \x1b[2J line\n")
    others.safety.header.stamp.sec = 1
    others.asked.clear()
    ours, theirs = pty.openpty()
    log = tmp_path / "keyboard.log"
    with log.open("wb") as out:
        teleop = subprocess.Popen(
            [sys.executable, "-m", "molmoact_ros.cli.main", "teleop", "keyboard"], stdin=theirs, stdout=out, stderr=out,
            cwd=tmp_path,
        )  # fmt: skip
    try:
        assert peer.until(lambda: b"unknown (99)" in log.read_bytes()), log.read_text()
        assert b"\x1b[2J" not in log.read_bytes()
        assert not presence
        for _ in range(100):
            os.write(ours, b"p")
            peer.spin(0.2)
            if len(presence) > 3:
                break
        assert len(presence) > 3
        peer.spin(1.5)
        count = len(presence)
        peer.spin(0.5)
        assert len(presence) == count, "no key: nobody is there"
        os.write(ours, b"x")
        assert peer.until(lambda: stops and "stop" in others.asked)
        others.asked.clear()
        for _ in range(20):  # a key that is held
            os.write(ours, b"c")
            peer.spin(0.05)
        assert others.asked == ["resume"], "one press, however long"
        peer.spin(1.2)
        os.write(ours, b"c")
        assert peer.until(lambda: others.asked == ["resume", "resume"])
        os.write(ours, b"q")
        assert teleop.wait(20) == 0
    finally:
        teleop.kill()
        teleop.wait()
        os.close(ours)
        os.close(theirs)


def test_two_robots_in_namespaces_have_a_panel_a_view_and_a_joystick_each(
    domain: int, peer: Peer, tmp_path: Path
) -> None:
    sides = {space: StandIn(peer, space) for space in ("/left", "/right")}
    sides["/left"].safety, sides["/right"].safety = (
        SafetyStatus(state=SafetyStatus.POLICY), SafetyStatus(state=SafetyStatus.STOPPED),
    )  # fmt: skip
    instructions = {space: peer.listen(String, f"{space}/policy/instruction", qos.RELIABLE) for space in sides}
    stops = {space: peer.listen(Empty, f"{space}/controller/stop", qos.RELIABLE) for space in ("/left", "/right", "")}
    with (
        running("panel", "/left", tmp_path, "-p", "port:=0") as left,
        running("panel", "/right", tmp_path, "-p", "port:=0") as right,
        running("view", "/left", tmp_path),
        running("joystick", "/right", tmp_path),
    ):
        pages = {}
        for space, log in (("/left", left), ("/right", right)):
            assert peer.until(lambda log=log: "ready: http" in log.read_text(), 4 * PATIENCE)  # type: ignore[misc]
            pages[space] = Page(peer, re.findall(r"ready: (http\S+)", log.read_text())[0])
        assert pages["/left"].sees("policy") and pages["/right"].sees("stopped")
        for space in sides:
            other = next(name for name in sides if name != space)
            for heard in (*instructions.values(), *stops.values()):
                heard.clear()
            assert pages[space].until(lambda s=space: peer.node.count_publishers(f"{s}/policy/instruction"))  # type: ignore[misc]
            assert any(pages[space].ask({"do": "stop"})["ok"] for _ in range(5)), "once it has found the service"
            assert pages[space].ask({"do": "instruct", "text": "wave", "move": False})["ok"]
            assert pages[space].until(lambda s=space: instructions[s] and stops[s])  # type: ignore[misc]
            peer.spin(0.3)
            assert not instructions[other] and not stops[other] and not stops[""]
            assert set(sides[space].asked) == {"stop"}
            sides[space].asked.clear()
        topics = {name for name, _ in peer.node.get_topic_names_and_types()}
        names = [("view", "/left"), ("joystick", "/right")]
        assert peer.until(lambda: set(names) <= set(peer.node.get_node_names_and_namespaces()))
        view = dict(peer.node.get_publisher_names_and_types_by_node("view", "/left"))
        assert peer.until(
            lambda: "/left/robot_description" in dict(peer.node.get_publisher_names_and_types_by_node("view", "/left"))
        ), view
        joystick = dict(peer.node.get_subscriber_names_and_types_by_node("joystick", "/right"))
        assert {"/right/joy", "/right/controller/safety_status"} <= set(joystick)
        for page in pages.values():
            page.close()
        assert "/left/controller/presence" in topics and "/right/controller/teleop/deadman_stamped" in topics
