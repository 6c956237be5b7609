"""Cost of recording for the control loop, the disk's write rate, and what a killed recorder leaves.

As a program: two RGB-D cameras that publish pre-made images, so that they cost nothing but their transport.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray
from rich.console import Console
from rich.table import Table
from scipy.stats import mannwhitneyu

from molmoact_ros.bags.bag import BagMessage, BagReader, BagWriter
from molmoact_ros.bags.bag_files import about
from molmoact_ros.bags.image_codec import Form
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.recorder import MIB, Recorder, keep_memory
from molmoact_ros.benchmarks.camera_load import filming
from molmoact_ros.benchmarks.fault_rig import JOINT_STATES, FaultInjector
from molmoact_ros.benchmarks.recorder_kills import kill_recorder
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.ros import qos
from molmoact_ros.ros.realtime_loop import SPAN
from molmoact_ros.utils.arguments import add_json, add_seconds, add_seed, add_times, not_negative
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

WARM: Final = 4.0  # s before the measurement: the recorder discovers topics, and requests parameters
MEMORY: Final = Path("/dev/shm")
"""A folder whose files Linux keeps in memory."""
ARMS: Final[dict[str, tuple[Form | None, bool]]] = {
    "none": (None, False), "raw": ("raw", False), "jpeg": ("jpeg", False), "raw in memory": ("raw", True),
}  # fmt: skip
"""The compared cases: without a recorder, and with one that writes this form, onto the disk or (True) into memory."""


@dataclass
class Cost:
    """Deviation of control cycles from their deadlines, ms: p50, p99 and max; share of a core that was used; and
    losses.

    stolen: share of the virtual processors' time that their host gave to others, such as its own work for the disk.
    """

    p50: float
    p99: float
    max: float
    recorder_core: float
    stolen: float
    pictures: int
    lost: int
    bytes: int


def bench_record(seconds: float, turns: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Jitter of the control loop without a recorder and with one, alternating; each turn `seconds` s, at least SPAN.

    Of each turn the last SPAN s count, which is the window of the controller's report: nothing starts in them. chance:
    the probability that the turns with a recorder are as late or later if it cost nothing, by the Mann-Whitney rank
    test.
    """
    use_environment()
    found: dict[str, list[Cost]] = {arm: [] for arm in ARMS}
    with (
        tempfile.TemporaryDirectory(prefix="molmoact-", dir=Path.cwd()) as disk,
        tempfile.TemporaryDirectory(prefix="molmoact-", dir=MEMORY) as memory,
        filming(Path(disk)) as rig,
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


def _measure(rig: FaultInjector, form: Form | None, seconds: float, folder: Path) -> Cost:
    """Run one turn with a new controller, which reports the jitter of its last SPAN s itself."""
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
    rig.between_callbacks(lambda: rig.destroy_subscription(subscription))
    pictures = lost = size = 0
    if form:
        pictures, lost, size = _recorded(bag)
        shutil.rmtree(bag)
    return Cost(row["p50"], row["p99"], row["max"], used, stolen, pictures, lost, size)


def _cpu(pid: int) -> float:
    """Processor time that a process has used, s."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _stolen() -> float:
    """Time of all processors that this machine's host, if it has one, gave to others, s (proc(5), steal)."""
    return int(Path("/proc/stat").read_text().split(None, 9)[8]) / os.sysconf("SC_CLK_TCK")


def _recorded(bag: Path) -> tuple[int, int, int]:
    """Images in the bag, images that the recorder reports as lost, and bytes."""
    with BagReader(bag) as reader:
        pictures = sum(reader.count(topic) for topic, kind in reader.topics().items() if "Image" in kind)
    return pictures, int(about(bag)["recorder.pictures"]), sum(file.stat().st_size for file in bag.iterdir())


def disk_rate(seconds: float) -> dict[str, dict[str, float]]:
    """Write rate of one recorder to this folder's disk, by form, as fast as it goes: MB/s of images, and images/s."""
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
    """MB/s of plain bytes, synced to the disk once a second as the recorder does."""
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


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument(
        "--kills", type=not_negative(int), default=0, help="instead, kill a recorder at random so often"
    )
    add_seconds(parser, 10.0)
    add_times(parser, 3)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

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
            console.print(f"{name}: {row['MB_s']:.0f} MB/s, {row['pictures_s']:.0f} images/s of 640x480")
    if args.json:
        write_whole(args.json, json.dumps(machine("") | figures, indent=1))
    return 0 if not args.kills or whole == len(kills) else 1
