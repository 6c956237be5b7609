"""Cost of panel and recorder: the time from a camera image to the first command of its plan, with and without them."""

from __future__ import annotations

import argparse
import contextlib
import json
import multiprocessing
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import numpy as np
import rclpy
from rich.console import Console
from std_msgs.msg import String
from std_srvs.srv import Trigger
from trajectory_msgs.msg import JointTrajectory

from molmoact_ros.benchmarks.panel_client import look
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.msg import ActionChunk, SafetyStatus
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.background_node import BackgroundNode
from molmoact_ros.ros.polling import PollingSubscription
from molmoact_ros.srv import ResetScene
from molmoact_ros.utils.arguments import (
    add_json,
    add_seconds,
    add_times,
)
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

ARMS: Final = ("neither", "panel", "panel and recorder")
"""What runs beside the workcell, in turns."""
SETTLE: Final = 3.0
"""s of warm-up once everything runs."""
PERIOD: Final = 0.35
"""s from plan to plan: half of the profile's, so that a percentile has twice as many samples."""
DRAWS: Final = 2000
"""Bootstrap resamplings for the range of a ratio."""
INSTRUCTION: Final = "put the red cube in the bowl"


@dataclass
class Beside:
    """Frames displayed so far, and the processes that run beside the workcell."""

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


class Stopwatch(BackgroundNode):
    """Keeps the arm working, and times each plan's image against the first command that is sent after the plan.

    It uses the middleware's source timestamps of plan and command, so that late reception here does not matter.
    """

    def __init__(self, context: rclpy.Context) -> None:
        super().__init__("stopwatch", context)
        self.safety = SafetyStatus()
        self._plans, self._commands = list[tuple[int, float]](), list[int]()  # sent, ns; stamp of the image, s
        self.create_subscription(ActionChunk, "/policy/action_chunk", self._on_chunk, qos.RELIABLE)
        topic = "/fr3_arm_controller/joint_trajectory"
        self._sent = PollingSubscription(self, JointTrajectory, topic, qos.KEPT)
        self.create_subscription(SafetyStatus, "/controller/safety_status", self._on_safety, qos.STATE)
        self._instruction = self.create_publisher(String, "/policy/instruction", qos.RELIABLE)
        self._triggers = {name: self.create_client(Trigger, f"/controller/{name}") for name in ("hold", "resume")}
        self._reset = self.create_client(ResetScene, "/sim/reset_scene")
        self.begin()

    def start(self) -> None:
        """Start measuring."""
        self._take()
        self._plans, self._commands = [], []

    def seconds(self) -> list[float]:
        """From each plan's image to its first command, s."""
        self._take()
        commands = np.array(sorted(self._commands))
        firsts = [(np.searchsorted(commands, sent, "right"), taken) for sent, taken in self._plans]
        return [commands[first] * 1e-9 - taken for first, taken in firsts if first < len(commands)]

    def _on_chunk(self, message: ActionChunk, info: dict[str, int]) -> None:
        self._plans.append((info["source_timestamp"], conversions.seconds(message.header.stamp)))

    def _take(self) -> None:
        self._commands += [taken.sent for taken in self._sent.take_serialized()]

    def _on_safety(self, message: SafetyStatus) -> None:
        self.safety = message

    def ready(self) -> bool:
        """Whether everything runs."""
        clients = [*self._triggers.values(), self._reset]
        return bool(self.safety.joints_age > 0 and self._instruction.get_subscription_count()) and all(
            client.service_is_ready() for client in clients
        )

    def set_table(self) -> None:
        """Reset the scene, and start a task."""
        self._call(self._triggers["hold"], Trigger.Request())
        self._call(self._reset, ResetScene.Request(seed=7, instruction=INSTRUCTION, distractors=-1))
        self._instruction.publish(String(data=INSTRUCTION))
        self.keep()

    def keep(self) -> None:
        """Read received messages; resume where the controller holds."""
        self._take()
        if self.safety.state != SafetyStatus.POLICY:
            self._call(self._triggers["resume"], Trigger.Request())

    def _call(self, client: Any, request: Any) -> None:
        client.call(request, timeout_sec=15.0)


def bench_panel(times: int, seconds: float, tell: Callable[[str], None]) -> dict[str, dict[str, Any]]:
    """Figures by what ran beside the workcell of the profile `sim`, in ms; `times` turns of `seconds` each.

    p50, p99, p99 of each turn, plans, frames/s that a page displayed, the share of a core that panel and recorder used,
    and p99's ratio to the first's with the range that contains it in nine of ten bootstrap resamplings of the plans.
    The order of the turns is reversed each time, so that other load on the machine affects all alike. Raises
    RuntimeError when something does not start.
    """
    use_environment()
    found: dict[str, list[list[float]]] = {name: [] for name in ARMS}  # ms, by turn
    rates: dict[str, list[tuple[float, float]]] = {name: [] for name in ARMS}
    context, profile = rclpy.Context(), Profile.read("sim").with_parameters({"policy": {"period": PERIOD}})
    rclpy.init(context=context)
    with tempfile.TemporaryDirectory(prefix="molmoact-") as folder, Bringup(profile, Path(folder)) as up:
        watch = Stopwatch(context)
        try:
            _until(watch.ready, up, "the workcell does not start")
            for turn in range(times):
                for name in ARMS if turn % 2 == 0 else ARMS[::-1]:
                    with _beside(name, Path(folder) / f"{turn}-{name.replace(' ', '-')}") as beside:
                        rates[name].append(_measure(watch, up, seconds, beside))
                    found[name].append([1e3 * value for value in watch.seconds()])
                    tell(f"{name}: {len(found[name][-1])} plans, p99 {np.percentile(found[name][-1], 99):.0f} ms")
        finally:
            watch.close()
            context.try_shutdown()
    return {name: _figures(found[ARMS[0]], found[name], rates[name]) for name in ARMS}


def _figures(alone: list[list[float]], turns: list[list[float]], rates: list[tuple[float, float]]) -> dict[str, Any]:
    plans, (pictures, cores) = np.concatenate(turns), np.mean(rates, axis=0).tolist()
    return {
        "p50": float(np.percentile(plans, 50)), "p99": float(np.percentile(plans, 99)),
        "p99_of_turns": [float(np.percentile(turn, 99)) for turn in turns], "plans": len(plans),
        "pictures": pictures, "cores": cores, **_ratio(np.concatenate(alone), plans),
    }  # fmt: skip


def _ratio(alone: np.ndarray, plans: np.ndarray) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    draws = [np.percentile(rng.choice(plans, plans.size), 99) / np.percentile(rng.choice(alone, alone.size), 99)
             for _ in range(DRAWS)]  # fmt: skip
    ratio = float(np.percentile(plans, 99) / np.percentile(alone, 99))
    return {"p99_ratio": ratio, "p99_ratio_range": np.percentile(draws, [5, 95]).tolist()}


def _measure(watch: Stopwatch, up: Bringup, seconds: float, beside: Beside) -> tuple[float, float]:
    """Run one turn, into the stopwatch; returns displayed frames/s, and the share of a core that was used."""
    watch.set_table()
    _work(watch, up, SETTLE)
    watch.start()
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
    """Run what is beside the workcell: nothing, or the panel with a page that displays it, or the recorder too."""
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
        _until(lambda: frames.value > 0, extra, "the panel shows no images")
        yield Beside(frames, [extra.pid(node) for node in nodes])
        page.terminate()
        page.join()


def address(up: Bringup, patience: float = 60.0) -> str:
    """The address that the panel of a bring-up logs. Raises RuntimeError when it does not within `patience` s."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seconds(parser, 20.0)
    add_times(parser, 4)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    console = Console()
    figures = bench_panel(args.times, args.seconds, console.print)
    for name, f in figures.items():
        console.print(
            f"{name:18} camera to command {f['p50']:.0f} ms at the median, {f['p99']:.0f} ms at the 99th percentile, "
            f"{f['plans']} plans, {f['pictures']:.1f} images/s, {f['cores']:.2f} cores"
        )
    for name in ARMS[1:]:
        low, high = figures[name]["p99_ratio_range"]
        console.print(
            f"p99 with {name}: {figures[name]['p99_ratio']:.2f} times that with neither ({low:.2f} to {high:.2f} in "
            "nine of ten resamplings)"
        )
    if args.json:
        write_whole(args.json, json.dumps(machine("") | {"figures_ms": figures}, indent=1))
    return 0
