"""Whether the nodes use as much memory after an hour of work as after ten minutes."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any, Final

from rich.console import Console
from rich.table import Table

from molmoact_ros.bags.bag_files import files_of
from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.evaluation.rollout import TIMEOUT
from molmoact_ros.utils.arguments import above_zero, add_json, add_seed
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

PERIOD: Final = 1.0  # s between samples: the recorder frees memory every five seconds, and beats with whole multiples
KEPT: Final = 10  # one of so many samples is stored
BASE: Final = 1 / 6  # of the whole time: start of the baseline of memory, minute 10 of 60
WINDOW: Final = 1 / 12  # of the whole time: window of the median, so that noise decides nothing
GROWTH: Final = 0.02  # growth that is permitted, as a share of the memory at the base
PROGRESS: Final = 60.0  # s between lines of progress


@dataclass(frozen=True)
class Sample:
    """A process at `seconds` s of the soak.

    memory: bytes of its private memory, and its proportional share of shared memory, without file pages, which the
    kernel may drop (smaps_rollup of proc(5)). threads, descriptors: how many are open.
    """

    seconds: float
    memory: int
    threads: int
    descriptors: int

    @staticmethod
    def of(pid: int, seconds: float) -> Sample:
        """Sample a process. Raises OSError where it does not run."""
        proc = Path(f"/proc/{pid}")
        lines = (line.split() for line in (proc / "smaps_rollup").read_text().splitlines())
        kib = {words[0]: int(words[1]) for words in lines if words[0].startswith("Pss_")}
        threads, descriptors = (sum(1 for _ in (proc / what).iterdir()) for what in ("task", "fd"))
        return Sample(seconds, (kib["Pss_Anon:"] + kib["Pss_Shmem:"]) * 1024, threads, descriptors)


@dataclass(frozen=True)
class MemoryVerdict:
    """Medians of a node's samples at the base and at the end. growth: of memory, as a share of that at the base."""

    memory_base: float
    memory_end: float
    growth: float
    threads_base: float
    threads_end: float
    descriptors_base: float
    descriptors_end: float

    @property
    def grew(self) -> bool:
        """Whether the node uses more memory at the end than is permitted."""
        return self.growth > GROWTH


def judge(samples: list[Sample], whole: float) -> MemoryVerdict:
    """Compare the end of `whole` s with the base. Raises ValueError where either has no samples."""
    base = [s for s in samples if BASE * whole <= s.seconds < (BASE + WINDOW) * whole]
    end = [s for s in samples if s.seconds >= (1 - WINDOW) * whole]
    if not base or not end:
        raise ValueError("there are too few samples; let it run for longer")

    def medians(name: str) -> tuple[float, float]:
        before, after = (float(median(getattr(sample, name) for sample in of)) for of in (base, end))
        return before, after

    before, after = medians("memory")
    return MemoryVerdict(before, after, after / before - 1, *medians("threads"), *medians("descriptors"))


class _Over(Exception):
    """The soak is over."""


class _Watch:
    """Samples the nodes when due, and keeps the recorder's folder small."""

    def __init__(self, graph: Bringup, nodes: list[str], bag: Path, whole: float, tell: Callable[[str], None]) -> None:
        self._graph, self._bag, self._whole, self._report = graph, bag, whole, tell
        self._began, self._due, self._next_line = time.monotonic(), 0.0, 0.0
        self.period = min(PERIOD, whole / 120)
        self.episodes = 0
        self.samples: dict[str, list[Sample]] = {node: [] for node in nodes}

    def __call__(self) -> None:
        """Call it often. Raises _Over when the time is over, RuntimeError when a node has ended."""
        self._graph.check()
        now = time.monotonic() - self._began
        if now < self._due:
            return
        self._due = now + self.period
        for node, samples in self.samples.items():
            samples.append(Sample.of(self._graph.pid(node), now))
        for file in files_of(self._bag, ".mcap")[:-2] if self._bag.exists() else []:
            file.unlink()  # finished, and no longer needed: an hour of images would fill the disk
        if now >= self._next_line:
            self._next_line = now + min(PROGRESS, self._whole / 10)
            held = ", ".join(f"{node} {of[-1].memory / 1e6:.1f}" for node, of in self.samples.items())
            self._report(f"{now / 60:5.1f} min, {self.episodes} tasks; MB: {held}")
        if now >= self._whole:
            raise _Over


def soak(minutes: float, seed: int, tell: Callable[[str], None]) -> dict[str, Any]:
    """Run the simulated workcell with view, panel and recorder for `minutes`, one task after the other.

    tell: receives lines of progress. Returns each node's verdict and some of its samples. Raises RuntimeError when a
    node ends.
    """
    use_environment()
    whole = minutes * 60
    with tempfile.TemporaryDirectory(prefix="molmoact-", dir=Path.cwd()) as folder:
        bag = Path(folder) / "bag"
        # Files of the bag begin and end within a window, so that the buffer of an open one does not count as growth.
        recorder = {"bag": str(bag), "max_bag_duration": WINDOW * whole / 2}
        profile = Profile.read("sim").with_parameters({"panel": {"port": 0}, "recorder": recorder})
        with Bringup(profile, Path(folder) / "logs") as graph, Session() as client:
            client.wait_until_ready(profile.nodes, graph.check)
            watch = _Watch(graph, list(profile.nodes), bag, whole, tell)
            try:
                while True:
                    asked = client.reset(seed + watch.episodes)
                    client.run(asked, seed + watch.episodes, TIMEOUT, watch)
                    watch.episodes += 1
            except _Over:
                pass
    return {
        "minutes": minutes, "seed": seed, "tasks": watch.episodes,
        "nodes": {node: asdict(judge(samples, whole)) for node, samples in watch.samples.items()},
        "samples": {node: [asdict(sample) for sample in samples[::KEPT]] for node, samples in watch.samples.items()},
    }  # fmt: skip


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    parser.add_argument(
        "--minutes", type=above_zero(float), default=60.0, help="how long; the base is at a sixth; default 60"
    )


def run(args: argparse.Namespace) -> int:
    """Run the soak and print its results; returns 1 where a node has grown."""
    console = Console()
    figures = soak(args.minutes, args.seed, lambda line: console.print(line, highlight=False))
    verdicts = {node: MemoryVerdict(**of) for node, of in figures["nodes"].items()}
    begin = args.minutes * BASE
    table = Table(
        "node", f"minute {begin:.3g}", "end", "change", "threads", "descriptors", title="memory of each node, MB"
    )
    for node, of in verdicts.items():
        table.add_row(
            node, f"{of.memory_base / 1e6:.1f}", f"{of.memory_end / 1e6:.1f}", f"{of.growth:+.1%}",
            f"{of.threads_base:g} to {of.threads_end:g}", f"{of.descriptors_base:g} to {of.descriptors_end:g}",
        )  # fmt: skip
    console.print(table)
    grown = [node for node, of in verdicts.items() if of.grew]
    if grown:
        console.print(f"more than {GROWTH:.0%} above minute {begin:g}: {', '.join(grown)}")
    if args.json:
        write_whole(args.json, json.dumps(machine("") | figures, indent=1))
    return 1 if grown else 0
