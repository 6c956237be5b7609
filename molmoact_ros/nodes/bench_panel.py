"""What panel and recorder cost: the time from a camera picture to the first command of its plan, with and without."""

from __future__ import annotations

import contextlib
import multiprocessing
import os
import re
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.msg import ActionChunk, SafetyStatus
from molmoact_ros.nodes import conversions, qos
from molmoact_ros.nodes.bringup import Bringup, Profile, use_environment
from molmoact_ros.panel.looker import look
from molmoact_ros.srv import ResetScene

ARMS: Final = ("neither", "panel", "panel and recorder")
"""What runs beside the workcell, in turns."""
SETTLE: Final = 3.0
"""s after everything is up, before it counts."""
INSTRUCTION: Final = "put the red cube in the bowl"


@dataclass
class Beside:
    """Pictures shown so far, and the processes that run beside the workcell."""

    frames: Any
    pids: list[int] = field(default_factory=list)

    def processor(self) -> float:
        """Processor time of those processes and of their children, s."""
        ticks = 0
        for stat in Path("/proc").glob("[0-9]*/stat"):
            with contextlib.suppress(OSError):
                values = stat.read_text().rsplit(")", 1)[1].split()
                if int(stat.parent.name) in self.pids or int(values[1]) in self.pids:
                    ticks += int(values[11]) + int(values[12])
        return ticks / os.sysconf("SC_CLK_TCK")


class Stopwatch(Node):
    """Keeps the arm at work, and times each plan's picture against the first command that comes after the plan."""

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("stopwatch", context=context)
        self.safety, self.seconds, self._taken = SafetyStatus(), list[float](), 0.0
        self.create_subscription(ActionChunk, "/policy/action_chunk", self._on_chunk, qos.RELIABLE)
        topic = "/fr3_arm_controller/joint_trajectory"
        self.create_subscription(JointTrajectory, topic, self._on_command, qos.RELIABLE)
        self.create_subscription(SafetyStatus, "/controller/safety_status", self._on_safety, qos.STATE)
        self._say = self.create_publisher(String, "/policy/instruction", qos.RELIABLE)
        self._triggers = {name: self.create_client(Trigger, f"/controller/{name}") for name in ("hold", "resume")}
        self._reset = self.create_client(ResetScene, "/sim/reset_scene")
        self._executor = SingleThreadedExecutor(context=context)
        self._executor.add_node(self)
        self._thread = threading.Thread(target=self._executor.spin, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """End the thread and the node."""
        self._executor.shutdown()
        self._thread.join()
        self.destroy_node()

    def _on_chunk(self, message: ActionChunk) -> None:
        self._taken = conversions.seconds(message.header.stamp)

    def _on_command(self, _: JointTrajectory) -> None:
        if self._taken:
            self.seconds.append(self.get_clock().now().nanoseconds * 1e-9 - self._taken)
            self._taken = 0.0

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety = message

    def ready(self) -> bool:
        """Everything is up."""
        clients = [*self._triggers.values(), self._reset]
        return bool(self.safety.joints_age > 0 and self._say.get_subscription_count()) and all(
            client.service_is_ready() for client in clients
        )

    def begin(self) -> None:
        """Set the table anew, and have the arm at work."""
        self._call(self._triggers["hold"], Trigger.Request())
        self._call(self._reset, ResetScene.Request(seed=7, instruction=INSTRUCTION, distractors=-1))
        self._say.publish(String(data=INSTRUCTION))
        self.keep()

    def keep(self) -> None:
        """Go on, where the controller holds."""
        if self.safety.state != SafetyStatus.POLICY:
            self._call(self._triggers["resume"], Trigger.Request())

    def _call(self, client: Any, request: Any) -> None:
        client.call(request, timeout_sec=15.0)


def bench_panel(times: int, seconds: float, tell: Callable[[str], None]) -> dict[str, dict[str, float]]:
    """Figures by what ran beside the workcell of the profile `sim`, in ms; `times` turns of `seconds` each.

    p50, p99, plans, pictures/s that a page was shown, and the share of a core that panel and recorder took. The order
    of the turns is reversed each time, so that what else the machine does falls on all alike. Raises RuntimeError when
    something does not start.
    """
    use_environment()
    found: dict[str, list[float]] = {name: [] for name in ARMS}
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    context = rclpy.Context()
    rclpy.init(context=context)
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder, Bringup(Profile.read("sim"), Path(folder)) as up:
        watch = Stopwatch(context)
        try:
            _until(watch.ready, up, "the workcell does not start")
            for turn in range(times):
                for name in ARMS if turn % 2 == 0 else ARMS[::-1]:
                    with _beside(name, Path(folder) / f"{turn}-{name.replace(' ', '-')}") as beside:
                        rates[name].append(_measure(watch, up, seconds, beside))
                    found[name] += watch.seconds
                    tell(f"{name}: {len(watch.seconds)} plans")
        finally:
            watch.close()
            context.try_shutdown()
    return {
        name: {
            "p50": 1e3 * float(np.percentile(found[name], 50)), "p99": 1e3 * float(np.percentile(found[name], 99)),
            "plans": len(found[name]), "pictures": float(np.mean(rates[name], axis=0)[0]),
            "cores": float(np.mean(rates[name], axis=0)[1]),
        }
        for name in ARMS
    }  # fmt: skip


def _measure(watch: Stopwatch, up: Bringup, seconds: float, beside: Beside) -> tuple[float, float]:
    """One turn, into the stopwatch; pictures/s that were shown, and the share of a core that was taken."""
    watch.begin()
    _work(watch, up, SETTLE)
    watch.seconds = []
    frames, processor = beside.frames.value, beside.processor()
    _work(watch, up, seconds)
    return (beside.frames.value - frames) / seconds, (beside.processor() - processor) / seconds


def _work(watch: Stopwatch, up: Bringup, seconds: float) -> None:
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        time.sleep(0.25)
        up.check()
        watch.keep()


@contextlib.contextmanager
def _beside(name: str, folder: Path) -> Iterator[Beside]:
    """What runs beside: nothing, or the panel with a page that looks, or the recorder too."""
    spawn = multiprocessing.get_context("spawn")
    frames = spawn.Value("i", 0)
    if name == "neither":
        yield Beside(frames)
        return
    nodes: dict[str, dict[str, Any]] = {"panel": {"port": 0}}
    if "recorder" in name:
        nodes["recorder"] = {"bag": str(folder / "bag")}
    with Bringup(Profile(nodes=nodes), folder) as extra:
        page = spawn.Process(target=look, args=(address(extra), frames), daemon=True)
        page.start()
        _until(lambda: frames.value > 0, extra, "the panel shows no pictures")
        yield Beside(frames, [extra.pid(node) for node in nodes])
        page.terminate()
        page.join()


def address(up: Bringup, patience: float = 60.0) -> str:
    """Where the panel of a bring-up is, once it says so. Raises RuntimeError when it does not within `patience` s."""
    found: list[str] = []

    def said() -> bool:
        found.extend(re.findall(r"ready: (http\S+)", up.log("panel").read_text()))
        return bool(found)

    _until(said, up, "the panel does not start", patience)
    return found[0]


def _until(happened: Callable[[], bool], up: Bringup, else_: str, patience: float = 60.0) -> None:
    deadline = time.monotonic() + patience
    while not happened():
        up.check()
        if time.monotonic() > deadline:
            raise RuntimeError(f"{else_}; see the logs")
        time.sleep(0.05)
