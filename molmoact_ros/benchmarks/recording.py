"""What recording costs the control loop, what the disk takes, and what a killed recorder leaves.

As a program: two cameras, RGB-D, that publish pictures made beforehand, so that they cost nothing but their transport.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu
from sensor_msgs.msg import Image, JointState
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.bag_files import about, repair
from molmoact_ros.bags.image_codec import Form
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.recorder import MIB, Recorder, keep_memory
from molmoact_ros.benchmarks.fault_rig import JOINT_STATES, Rig
from molmoact_ros.bringup.processes import Bringup, command, write_parameters
from molmoact_ros.bringup.profiles import Profile, environment, use_environment
from molmoact_ros.nodes.common import conversions, qos
from molmoact_ros.nodes.common import spin as node_process
from molmoact_ros.nodes.common.polling import Polled
from molmoact_ros.nodes.common.realtime_loop import SPAN
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.utils import child_process
from molmoact_ros.utils.arguments import (
    add_json,
    add_seconds,
    add_seed,
    add_times,
)
from molmoact_ros.utils.provenance import machine

RATE: Final = 30.0  # frames/s of each camera
SIZES: Final = {"front": (480, 640), "wrist": (480, 640)}
WARM: Final = 4.0  # s before anything is measured: the recorder finds topics, and asks for parameters
FOUND: Final = 4.0  # s within which a recorder has found every node: on a busy machine the middleware takes up to three
LAST: Final = 1.0  # s before it is killed, of which a recorder may have lost anything
MEMORY: Final = Path("/dev/shm")
"""Where Linux keeps files in memory."""
ARMS: Final[dict[str, tuple[Form | None, bool]]] = {
    "none": (None, False), "raw": ("raw", False), "jpeg": ("jpeg", False), "raw in memory": ("raw", True),
}  # fmt: skip
"""What is compared: without a recorder, and with one that writes this form, onto the disk or (True) into memory."""


@dataclass
class Cost:
    """ms that control cycles were off their time, p50, p99 and max, and of a core that was used; and what was lost.

    stolen: of the virtual processors' time, what their host gave to others, such as its own work for the disk.
    """

    p50: float
    p99: float
    max: float
    recorder_core: float
    stolen: float
    pictures: int
    lost: int
    bytes: int


class CamerasNode(Node):
    """Publishes four pictures, 30 times a second, and the joints at 100 Hz."""

    def __init__(self) -> None:
        super().__init__("cameras")
        rng = np.random.default_rng(0)
        self._out: list[tuple[Any, list[Image]]] = []
        for name, (height, width) in SIZES.items():
            small = rng.integers(0, 256, (2, height // 8, width // 8, 3), np.uint8)
            colour = [
                np.repeat(np.repeat(s, 8, 0), 8, 1) + rng.integers(0, 8, (height, width, 3), np.uint8) for s in small
            ]
            depth = [(1000 + c[:, :, 0].astype(np.uint16)) for c in colour]
            for topic, encoding, frames in (
                ("color/image_raw", "rgb8", colour), ("aligned_depth_to_color/image_raw", "16UC1", depth),
            ):  # fmt: skip
                head = conversions.header(0.0, name)
                messages = [conversions.image_message(frame, encoding, head) for frame in frames]
                self._out.append((self.create_publisher(Image, f"/{name}/{topic}", qos.SENSOR), messages))
        self._joints = self.create_publisher(JointState, JOINT_STATES, qos.RELIABLE)
        self._commanded = HOME_Q.tolist()
        self.create_subscription(
            JointTrajectory, f"/{SINGLE.robot}_arm_controller/joint_trajectory", self._follow, qos.RELIABLE
        )  # fmt: skip
        self._count = 0
        self.create_timer(1.0 / RATE, self._film)
        self.create_timer(0.01, self._tell_joints)

    def _follow(self, message: JointTrajectory) -> None:
        self._commanded = list(message.points[0].positions)

    def _film(self) -> None:
        self._count += 1
        stamp = self.get_clock().now().to_msg()
        for publisher, messages in self._out:
            message = messages[self._count % 2]
            message.header.stamp = stamp
            publisher.publish(message)

    def _tell_joints(self) -> None:
        message = JointState(name=[*SINGLE.joints, *SINGLE.fingers], position=[*self._commanded, 0.04, 0.04])
        message.velocity = [0.0] * 9
        message.header.stamp = self.get_clock().now().to_msg()
        self._joints.publish(message)


def bench_record(seconds: float, turns: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Jitter of the control loop without a recorder and with one, turn about; each turn `seconds` s, at least SPAN.

    Of each turn the last SPAN s count, which is what the controller tells of: nothing starts in them. chance: that the
    turns with a recorder would be as late or later if it cost nothing, by the rank test of Mann and Whitney.
    """
    use_environment()
    found: dict[str, list[Cost]] = {arm: [] for arm in ARMS}
    with (
        tempfile.TemporaryDirectory(prefix="molmoact-", dir=Path.cwd()) as disk,
        tempfile.TemporaryDirectory(prefix="molmoact-", dir=MEMORY) as memory,
        _filming(Path(disk)) as rig,
    ):
        for turn in range(turns):
            for arm in list(ARMS) if turn % 2 == 0 else list(ARMS)[::-1]:
                form, in_memory = ARMS[arm]
                cost = _measure(rig, form, seconds, Path(memory if in_memory else disk))
                found[arm].append(cost)
                tell(f"turn {turn + 1} of {turns}, recorder {arm}: p99 {cost.p99:.2f} ms")
    medians = {
        name: {key: float(np.median([getattr(cost, key) for cost in costs])) for key in vars(costs[0])}
        for name, costs in found.items()
    }
    ratios = {name: row["p99"] / medians["none"]["p99"] for name, row in medians.items() if name != "none"}
    of_turns = {name: [cost.p99 for cost in costs] for name, costs in found.items()}
    chance = {
        name: float(mannwhitneyu(of_turns[name], of_turns["none"], alternative="greater").pvalue) for name in ratios
    }
    return {
        "costs": medians, "ratio_of_p99": ratios, "chance": chance, "p99_of_turns": of_turns, "turns": turns,
        "seconds": seconds,
    }  # fmt: skip


@contextmanager
def _filming(folder: Path) -> Iterator[Rig]:
    """Two cameras, and chunks that swing an arm from side to side."""
    context = rclpy.Context()
    rclpy.init(context=context)
    rig, file = Rig(context), write_parameters(folder, "cameras", {})
    with (folder / "cameras.log").open("wb") as log:
        cameras = child_process.start(
            command("bench_record", file), env=environment(), stdout=log, stderr=log, cwd=folder
        )  # fmt: skip
        rig.drive()
        for camera in SIZES:  # somebody hears the pictures in any case, as the policy does
            Polled(rig, Image, f"/{camera}/color/image_raw", qos.SENSOR)
        try:
            yield rig
        finally:
            child_process.end([cameras], 15.0)
            rig.close()
            context.try_shutdown()


def _measure(rig: Rig, form: Form | None, seconds: float, folder: Path) -> Cost:
    """One turn with a controller of its own, whose jitter is its own word of its last SPAN s."""
    seconds = max(seconds, SPAN)
    bag, row = folder / "bag", dict[str, float]()

    def hear(message: DiagnosticArray) -> None:
        for status in message.status:
            if status.name == "controller: control loop":
                values = {v.key: v.value for v in status.values}
                row.update({name: float(values[f"jitter_{name}_ms"]) for name in ("p50", "p99", "max")})

    nodes: dict[str, dict[str, Any]] = {"recorder": {"bag": str(bag), "images": form}} if form else {}
    nodes["controller"] = {"joint_states": JOINT_STATES, "joints_deadline": 2.0, "following": 3.0}
    began, used = time.monotonic(), 0.0
    with Bringup(Profile(nodes=nodes), folder / "logs") as graph:
        if not rig.until(lambda: rig.heard_safety > began and rig.safety.joints_age > 0, 60.0):
            graph.check()
            raise RuntimeError("the controller did not start; is the machine that busy?")
        rig.go()
        time.sleep(WARM)
        before, stolen = _cpu(graph.pid("recorder")) if form else 0.0, _stolen()
        subscription = rig.create_subscription(DiagnosticArray, "/diagnostics", hear, qos.RELIABLE)
        time.sleep(seconds)
        if form:
            used = (_cpu(graph.pid("recorder")) - before) / seconds
        stolen = (_stolen() - stolen) / seconds / (os.cpu_count() or 1)
        graph.check()
    rig.destroy_subscription(subscription)
    pictures = lost = size = 0
    if form:
        pictures, lost, size = _recorded(bag)
        shutil.rmtree(bag)
    return Cost(row["p50"], row["p99"], row["max"], used, stolen, pictures, lost, size)


def _cpu(pid: int) -> float:
    """Seconds of processor time that a process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stolen() -> float:
    """Seconds of all processors that this machine's host, if it has one, gave to others (proc(5), steal)."""
    return int(Path("/proc/stat").read_text().split(None, 9)[8]) / os.sysconf("SC_CLK_TCK")


def _recorded(bag: Path) -> tuple[int, int, int]:
    """Pictures in the bag, those that the recorder says it lost, and bytes."""
    with BagReader(bag) as reader:
        pictures = sum(reader.count(topic) for topic, kind in reader.topics().items() if "Image" in kind)
    return pictures, int(about(bag)["recorder.pictures"]), sum(file.stat().st_size for file in bag.iterdir())


def disk_rate(seconds: float) -> dict[str, dict[str, float]]:
    """MB/s of pictures and pictures/s that one recorder writes to this folder's disk, by form, as fast as it goes."""
    keep_memory()
    types, out = Types(), {}
    rng = np.random.default_rng(0)
    small = rng.integers(0, 256, (60, 80, 3), np.uint8)
    smooth = np.repeat(np.repeat(small, 8, 0), 8, 1)
    kinds = {"smooth": smooth, "noisy": rng.integers(0, 256, (480, 640, 3), np.uint8)}
    cases: list[tuple[str, Form]] = [(kind, form) for kind in kinds for form in ("raw", "png", "jpeg")]
    with tempfile.TemporaryDirectory(prefix="molmoact-", dir=Path.cwd()) as folder:
        for kind, form in cases:
            bag = Path(folder) / f"{kind}-{form}"
            message = _picture(types, kinds[kind])
            recorder = Recorder(BagWriter(bag), bag, form, waiting=32 * MIB)
            began = time.monotonic()
            while time.monotonic() - began < seconds:
                if recorder.room > len(message.data):
                    recorder.put(message)
                else:
                    time.sleep(0.001)
            tally = recorder.close()
            took = time.monotonic() - began
            rate = tally.messages / took
            out[f"{kind} {form}"] = {"pictures_s": rate, "MB_s": rate * len(message.data) / 1e6, "lost": tally.pictures}
            shutil.rmtree(bag)
        out["the disk alone"] = {"pictures_s": 0.0, "MB_s": _plain_rate(Path(folder) / "plain", seconds)}
    return out


def _plain_rate(file: Path, seconds: float) -> float:
    """MB/s of plain bytes, brought to the disk once a second as the recorder does."""
    block, size, began = os.urandom(MIB), 0, time.monotonic()
    synced = began
    with file.open("wb", buffering=0) as out:
        while time.monotonic() - began < seconds:
            size += out.write(block)
            if time.monotonic() - synced > 1.0:
                os.fdatasync(out)
                synced = time.monotonic()
        os.fdatasync(out)
    return size / 1e6 / (time.monotonic() - began)


def _picture(types: Types, pixels: np.ndarray) -> BagMessage:
    header = types["std_msgs/msg/Header"](types["builtin_interfaces/msg/Time"](1, 0), "front")
    height, width = pixels.shape[:2]
    image = types["sensor_msgs/msg/Image"](header, height, width, "rgb8", 0, 3 * width, pixels.ravel())
    return BagMessage("/front/color/image_raw", "sensor_msgs/msg/Image", types.encode(image), time.time_ns())


@dataclass
class Kill:
    """One killed recorder. messages: in its bag; last: s before the kill, of the last one; missing: of those that were
    heard beside it until LAST s before, how many the bag lacks."""

    messages: int
    last: float
    missing: int


def kill_recorder(times: int, seed: int, tell: Callable[[Kill], None]) -> list[Kill]:
    """An episode of the workcell goes on while a recorder is started and killed at random, `times` times."""
    from rclpy.executors import SingleThreadedExecutor

    use_environment()
    rng, kills = random.Random(seed), list[Kill]()
    small = {"front_size": [320, 240], "wrist_size": [212, 120]}
    profile = Profile.read("sim").with_parameters({"sim": small})
    folder = Path(tempfile.mkdtemp(prefix="molmoact-", dir=Path.cwd()))
    rclpy.init(signal_handler_options=SignalHandlerOptions.NO)
    node, heard = rclpy.create_node("witness"), dict[str, list[tuple[float, bytes]]]()
    for kind, topic in (
        (JointState, "/joint_states"), (JointTrajectory, f"/{SINGLE.robot}_arm_controller/joint_trajectory"),
        (DiagnosticArray, "/diagnostics"),
    ):  # fmt: skip
        listen = heard.setdefault(topic, [])
        node.create_subscription(
            kind, topic, lambda data, to=listen: to.append((time.time(), bytes(data))), qos.RELIABLE, raw=True
        )  # fmt: skip
    executor = SingleThreadedExecutor()
    executor.add_node(node)

    def spin(seconds: float) -> None:
        end = time.monotonic() + seconds
        while (left := end - time.monotonic()) > 0:
            executor.spin_once(timeout_sec=left)

    try:
        with Bringup(profile, folder / "logs"):
            for number in range(times):
                bag = folder / f"bag{number}"
                with Bringup(Profile(nodes={"recorder": {"bag": str(bag)}}), folder / f"logs{number}") as recorder:
                    file = bag / f"{bag.name}.mcap"
                    deadline = time.monotonic() + 60
                    while not (file.exists() and file.stat().st_size > 20_000):
                        spin(0.1)
                        if time.monotonic() > deadline:
                            raise RuntimeError(recorder.log("recorder").read_text()[-500:])
                    spin(FOUND)
                    begun = time.time()
                    spin(LAST + 3 * rng.random())
                    killed = time.time()
                    recorder.kill("recorder")
                kills.append(_judge(bag, heard, begun, killed))
                tell(kills[-1])
                shutil.rmtree(bag)
    finally:
        executor.shutdown()
        node.destroy_node()
        rclpy.try_shutdown()
        shutil.rmtree(folder)
    return kills


def _judge(bag: Path, heard: dict[str, list[tuple[float, bytes]]], begun: float, killed: float) -> Kill:
    repair(bag)
    kept: dict[str, set[bytes]] = {topic: set() for topic in heard}
    count, last = 0, 0
    with BagReader(bag) as reader:
        for message in reader.messages():
            count, last = count + 1, max(last, message.stamp_ns)
            if message.topic in kept:
                kept[message.topic].add(_unpadded(message.data))
    wanted = {topic: [data for at, data in of if begun < at < killed - LAST] for topic, of in heard.items()}
    missing = sum(_unpadded(data) not in kept[topic] for topic, of in wanted.items() for data in of)
    assert any(wanted.values())
    return Kill(count, killed - last * 1e-9, missing)


def _unpadded(data: bytes) -> bytes:
    """Within one process a message comes without the padding behind it."""
    return data.rstrip(b"\0")


if __name__ == "__main__":
    node_process.run(CamerasNode)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The command's options."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument("--kills", type=int, default=0, help="instead, kill a recorder at random so often")
    add_seconds(parser, 10.0)
    add_times(parser, 3)


def run(args: argparse.Namespace) -> int:
    """Run it, print what came of it, and give the exit status."""

    console = Console()
    if args.kills:
        kills = kill_recorder(args.kills, args.seed, lambda kill: console.print(f"{kill}", highlight=False))
        whole = sum(not kill.missing for kill in kills)
        last = max(kill.last for kill in kills)
        console.print(
            f"{whole} of {len(kills)} bags hold all but the last second; the last message was {last:.2f} s old"
        )
        figures: dict[str, Any] = {"kills": [vars(kill) for kill in kills], "whole": whole}
    else:
        figures = bench_record(args.seconds, args.times, console.print) | {"disk": disk_rate(3.0)}
        table = Table(
            "recorder", "p50", "p99", "max", "of a core", "stolen", "pictures", "lost", title="cycles off their time",
            caption="stolen: by the host of a virtual machine, of all its processors' time",
        )  # fmt: skip
        for name, row in figures["costs"].items():
            table.add_row(
                name, *(f"{row[key]:.2f} ms" for key in ("p50", "p99", "max")), f"{row['recorder_core']:.0%}",
                f"{row['stolen']:.1%}", f"{row['pictures']:.0f}", f"{row['lost']:.0f}",
            )  # fmt: skip
        console.print(table)
        low, high = min(figures["p99_of_turns"]["none"]), max(figures["p99_of_turns"]["none"])
        console.print(f"p99 of the turns without a recorder: {low:.2f} to {high:.2f} ms")
        for name, ratio in figures["ratio_of_p99"].items():
            chance = f"{figures['chance'][name]:.2g}"
            console.print(f"p99 with a recorder ({name}) over p99 without: {ratio:.2f}; so or more by chance: {chance}")
        for name, row in figures["disk"].items():
            console.print(f"{name}: {row['MB_s']:.0f} MB/s, {row['pictures_s']:.0f} pictures/s of 640x480")
    if args.json:
        args.json.write_text(json.dumps(machine("") | figures, indent=1))
    return 0 if not args.kills or whole == len(kills) else 1
