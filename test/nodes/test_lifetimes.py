"""Commands and nodes as processes: what ends them, what they leave, and what goes on when a part of them fails."""

from __future__ import annotations

import os
import pty
import re
import signal
import socket
import subprocess
import sys
import termios
import time
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from geometry_msgs.msg import TwistStamped
from rcl_interfaces.srv import GetParameters
from sensor_msgs.msg import JointState
from std_msgs.msg import Float64MultiArray, Int32
from std_srvs.srv import Trigger

from molmoact_ros.bringup.processes import FIRST_DELAY, LONGEST_DELAY, RAN_WELL, Bringup, Restarts
from molmoact_ros.bringup.profiles import SHOWING, Profile
from molmoact_ros.robots.franka import BASE_FRAME, HOME_Q, SINGLE
from molmoact_ros.ros import qos
from molmoact_ros.ros.discovery import default_discovery

from .conftest import PATIENCE, Peer

CLI = [sys.executable, "-m", "molmoact_ros.cli.main"]


class Command:
    """A command in a terminal of its own, and all processes that come of it."""

    def __init__(self, folder: Path, *arguments: str, ignored: bool = False) -> None:
        """ignored: SIGINT is, as for a shell's background jobs."""
        self._mark = f"LIFETIME={uuid.uuid4().hex}"
        self.log = folder / "command.log"
        self._terminal, inner = pty.openpty()
        self._modes = termios.tcgetattr(self._terminal)
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(
                [*CLI, *arguments], stdin=inner, stdout=log, stderr=log, cwd=folder, start_new_session=True,
                env=os.environ | dict([self._mark.split("=")]),
                preexec_fn=(lambda: signal.signal(signal.SIGINT, signal.SIG_IGN)) if ignored else None,
            )  # fmt: skip
        os.close(inner)

    def left(self) -> list[int]:
        """The processes that go on."""
        return [int(folder.name) for folder in Path("/proc").iterdir() if folder.name.isdigit() and self._ours(folder)]

    def _ours(self, folder: Path) -> bool:
        try:
            state = (folder / "stat").read_text().rpartition(")")[2].split()[0]
            return state != "Z" and self._mark.encode() in (folder / "environ").read_bytes()
        except OSError:
            return False

    def modes_changed(self) -> bool:
        """The terminal is in another mode than at first."""
        return bool(termios.tcgetattr(self._terminal) != self._modes)

    def close(self) -> None:
        for pid in self.left():
            os.kill(pid, signal.SIGKILL)
        self.process.wait()
        os.close(self._terminal)


def until(happened: Callable[[], Any], patience: float = PATIENCE) -> bool:
    end = time.monotonic() + patience
    while not happened():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


@pytest.fixture
def command(domain: int, tmp_path: Path) -> Iterator[Callable[..., Command]]:
    started: list[Command] = []

    def start(*arguments: str, **options: bool) -> Command:
        started.append(Command(tmp_path, *arguments, **options))
        return started[-1]

    yield start
    for one in started:
        one.close()


def is_served(port: int) -> bool:
    with socket.socket() as client:
        client.settimeout(1.0)
        return client.connect_ex(("127.0.0.1", port)) == 0


@pytest.mark.parametrize(
    ("number", "ignored"),
    [(signal.SIGTERM, False), (signal.SIGHUP, True), (signal.SIGKILL, False)],
    ids=["SIGTERM", "SIGHUP with SIGINT ignored", "SIGKILL"],
)
def test_a_panel_ends_with_its_command(command: Callable[..., Command], number: signal.Signals, ignored: bool) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    panel = command("panel", "--port", str(port), ignored=ignored)
    assert until(lambda: is_served(port)), panel.log.read_text()
    panel.process.send_signal(number)
    status = panel.process.wait(PATIENCE)
    assert until(lambda: not panel.left()), "an orphan serves jog and STOP"
    assert until(lambda: not is_served(port)) and status == (-signal.SIGKILL if number == signal.SIGKILL else 0)


@pytest.mark.parametrize("whom", ["command", "node"])
def test_a_keyboard_that_is_hung_up_on_ends_and_puts_its_terminal_back(
    command: Callable[..., Command], whom: str
) -> None:
    keyboard = command("teleop", "keyboard")
    assert until(keyboard.modes_changed), keyboard.log.read_text()
    (node,) = set(keyboard.left()) - {keyboard.process.pid}
    os.kill(node if whom == "node" else keyboard.process.pid, signal.SIGHUP)
    assert keyboard.process.wait(PATIENCE) == 0 and until(lambda: not keyboard.left())
    assert not keyboard.modes_changed()


def test_a_controller_that_is_hung_up_on_leaves_no_velocity(peer: Peer, tmp_path: Path) -> None:
    """forward_command_controller keeps the last velocity for ever: that has to be a stand."""
    told = peer.listen(Float64MultiArray, "/forward_velocity_controller/commands", qos.RELIABLE)
    joints = peer.node.create_publisher(JointState, "/joint_states", qos.RELIABLE)
    twists = peer.node.create_publisher(TwistStamped, "/controller/teleop/twist", qos.RELIABLE)
    standing = JointState(name=[*SINGLE.joints, *SINGLE.fingers], position=[*HOME_Q.tolist(), 0.04, 0.04])
    twist = TwistStamped()
    twist.header.frame_id, twist.twist.linear.y = BASE_FRAME, 0.1

    begun = 0.0  # when the controller was heard first: nobody is followed who speaks before that without a pause

    def speak() -> None:
        standing.header.stamp = twist.header.stamp = peer.node.get_clock().now().to_msg()
        joints.publish(standing)
        if begun and time.monotonic() - begun > 2.0:
            twists.publish(twist)

    timer = peer.node.create_timer(0.01, speak)
    parameters = {"sink": "forward_velocity", "joints_deadline": 2.0, "following": 3.0}
    with Bringup(Profile(nodes={"controller": parameters}), tmp_path) as bringup:
        assert peer.until(twists.get_subscription_count)
        begun = time.monotonic()
        assert peer.until(lambda: told and max(map(abs, told[-1].data)) > 0.05), "the arm is commanded"
        os.kill(bringup.pid("controller"), signal.SIGHUP)
        assert peer.until(bringup.ended) and bringup._processes["controller"].returncode == 0, "in order"
    peer.node.destroy_timer(timer)
    peer.spin(2.0)
    assert max(map(abs, told[-1].data)) < 1e-3


def profile(folder: Path, **nodes: dict[str, Any]) -> str:
    file = folder / "mine.yaml"
    file.write_text(Profile(nodes=nodes).model_dump_json())
    return str(file)


def test_h7_up_starts_what_only_shows_again_and_ends_for_what_matters(
    command: Callable[..., Command], peer: Peer, tmp_path: Path
) -> None:
    up = command("up", profile(tmp_path, controller={}, view={}), "--logs", str(tmp_path / "logs"))
    view, controller = tmp_path / "logs" / "view.log", tmp_path / "logs" / "controller.log"

    def pid(name: str) -> int:
        lines = ((p, Path(f"/proc/{p}/cmdline").read_bytes()) for p in up.left())
        return next((p for p, line in lines if f"nodes.{name}\0".encode() in line), 0)

    assert peer.until(lambda: view.exists() and "ready" in view.read_text() and "ready" in controller.read_text())
    first, controlled = pid("view"), pid("controller")
    os.kill(first, signal.SIGKILL)
    assert peer.until(lambda: view.read_text().count("ready") == 2), up.log.read_text()
    assert re.search(r"view has ended: .*; it is started again in 1 s", up.log.read_text())
    assert pid("view") not in (0, first) and pid("controller") == controlled
    assert peer.call(Trigger, "/controller/stop").success, "the controller has never noticed"
    os.kill(controlled, signal.SIGKILL)
    assert up.process.wait(PATIENCE) == 1 and "controller has ended" in up.log.read_text().splitlines()[-1]
    assert until(lambda: not up.left())


class Ending:
    """A bring-up as `Restarts` sees it, of nodes that have ended."""

    def __init__(self) -> None:
        self.gone: dict[str, str] = {}
        self.starts: list[str] = []

    def check(self, but: tuple[str, ...]) -> None:
        assert but == SHOWING

    def ended(self) -> dict[str, str]:
        return dict(self.gone)

    def start(self, name: str) -> None:
        if "no memory" in self.gone.pop(name):
            self.gone[name] = "no memory"
            raise OSError("no memory")
        self.starts.append(name)

    def log(self, name: str) -> Path:
        return Path(name)


def ticks(bringup: Ending, restarts: Restarts, now: float) -> float:
    """The time at which the nodes that have ended are all started again."""
    while bringup.gone:
        now += 0.125
        restarts.check(now)
    return now


def test_h7_a_node_that_ends_again_and_again_is_started_ever_later() -> None:
    bringup, lines = Ending(), list[str]()
    restarts, now, waits = Restarts(bringup, lines.append), 100.0, []  # type: ignore[arg-type]
    for _ in range(7):
        bringup.gone["view"] = "a reason"
        after = ticks(bringup, restarts, now)
        waits.append(after - now)
        now = after
    wanted = [min(FIRST_DELAY * 2**k, LONGEST_DELAY) for k in range(7)]
    assert all(want <= wait < want + 0.5 for want, wait in zip(wanted, waits, strict=True))
    assert bringup.starts == ["view"] * 7 and len(lines) == 7
    now += RAN_WELL
    bringup.gone["view"] = "a reason"
    assert ticks(bringup, restarts, now) - now < FIRST_DELAY + 0.5, "it had run well"


def test_h7_a_node_that_cannot_be_started_now_is_started_later() -> None:
    bringup, lines = Ending(), list[str]()
    restarts = Restarts(bringup, lines.append)  # type: ignore[arg-type]
    bringup.gone["panel"] = "no memory"
    for k in range(40):
        restarts.check(100.0 + k / 4)
    assert not bringup.starts and sum("no memory" in line for line in lines) >= 3


FAILING = """
import os
from rclpy.node import Node
from std_msgs.msg import Int32
from std_srvs.srv import Trigger
from molmoact_ros.ros.spin import run

class Failing(Node):
    def __init__(self):
        super().__init__("failing")
        self.create_subscription(Int32, "number", self.hear, 10)
        self.create_service(Trigger, "~/stop", self.stop)
        self.held, self.discovery = 0, os.environ.get("ROS_AUTOMATIC_DISCOVERY_RANGE", "none")

    def hear(self, message):
        raise LookupError(f"nobody knows {message.data}")

    def callback_failed(self, error):
        self.held += 1
        if "13" in str(error):
            raise ValueError("it cannot be held")

    def stop(self, request, response):
        response.success, response.message = True, f"held {self.held} times, discovery {self.discovery}"
        return response

    def destroy_node(self):
        print("braked", flush=True)
        super().destroy_node()

run(Failing)
"""


@pytest.fixture
def failing(domain: int, tmp_path: Path) -> Iterator[tuple[subprocess.Popen[bytes], Path]]:
    log, user = tmp_path / "failing.log", dict(os.environ)
    user.pop("ROS_AUTOMATIC_DISCOVERY_RANGE")
    with log.open("wb") as out:
        process = subprocess.Popen([sys.executable, "-c", FAILING], stdout=out, stderr=out, cwd=tmp_path, env=user)
    yield process, log
    process.kill()
    process.wait()


def test_h7_a_callback_that_raises_ends_nothing(failing: tuple[subprocess.Popen[bytes], Path], peer: Peer) -> None:
    process, log = failing
    numbers = peer.node.create_publisher(Int32, "/number", qos.RELIABLE)
    assert peer.until(numbers.get_subscription_count), log.read_text()
    for _ in range(20):
        numbers.publish(Int32(data=7))
        peer.spin(0.05)
    held = lambda: int(re.findall(r"held (\d+)", peer.call(Trigger, "/failing/stop").message)[0])  # noqa: E731
    assert peer.until(lambda: held() == 20), "STOP answers, and each failure has held what moves"
    lines = [line for line in log.read_text().splitlines() if "a callback failed" in line]
    assert 1 <= len(lines) < 20 and "LookupError('nobody knows 7') at <string>:" in lines[0]
    assert process.poll() is None and "Traceback" not in log.read_text()
    numbers.publish(Int32(data=13))
    assert peer.until(lambda: process.poll() is not None), "what cannot be held ends"
    assert process.returncode == 1 and "braked" in log.read_text() and "it cannot be held" in log.read_text()


def test_m7_a_node_discovers_this_computer_alone_unless_the_user_chooses(
    failing: tuple[subprocess.Popen[bytes], Path], peer: Peer
) -> None:
    assert "discovery LOCALHOST" in peer.call(Trigger, "/failing/stop").message
    assert default_discovery({}) == {"ROS_AUTOMATIC_DISCOVERY_RANGE": "LOCALHOST"}
    for name in ("ROS_AUTOMATIC_DISCOVERY_RANGE", "ROS_LOCALHOST_ONLY", "ROS_STATIC_PEERS", "ROS_DISCOVERY_SERVER"):
        assert default_discovery({name: "x"}) == {}


def test_a_profile_runs_in_a_namespace_with_its_parameters(peer: Peer, tmp_path: Path) -> None:
    with Bringup(Profile(nodes={"controller": {"joints_deadline": 3.25}}), tmp_path, "/left"):
        read = peer.call(GetParameters, "/left/controller/get_parameters", names=["joints_deadline"])
    assert read.values[0].double_value == 3.25
