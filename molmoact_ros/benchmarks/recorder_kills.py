"""Recorders killed at random times, and the messages that their bags lack."""

from __future__ import annotations

import random
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import rclpy
from diagnostic_msgs.msg import DiagnosticArray
from rclpy.signals import SignalHandlerOptions
from sensor_msgs.msg import JointState
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.bags.bag import BagReader
from molmoact_ros.bags.bag_files import repair
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.ros import qos

FOUND: Final = 4.0  # s until a recorder has discovered every node: on a busy machine the middleware takes up to three

LAST: Final = 1.0  # s before the kill, of which a recorder may have lost anything


@dataclass
class Kill:
    """One killed recorder. messages: in its bag; last: s before the kill, of the last one; missing: how many messages
    the bag lacks of those received beside it until LAST s before the kill."""

    messages: int
    last: float
    missing: int


def kill_recorder(times: int, seed: int, tell: Callable[[Kill], None]) -> list[Kill]:
    """Run an episode of the workcell while a recorder is started and killed at random times, `times` times."""
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
    """Strip a message's trailing padding: within one process it arrives without."""
    return data.rstrip(b"\0")
