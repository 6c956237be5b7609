"""Strokes drawn in the panel, by a browser, and their distance to the hand's path in the image."""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Final

import numpy as np

from molmoact_ros.benchmarks.browser import Browser
from molmoact_ros.benchmarks.panel_latency import address
from molmoact_ros.bringup.episode_client import EpisodeClient, GraphError, Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.reasoning.trace_progress import NEAR, apart
from molmoact_ros.sim.scene import AREA_X, AREA_Y, sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.utils.arguments import (
    add_checkpoint,
    add_json,
    add_seed,
    add_times,
)
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole

PATIENCE: Final = 15.0
"""s for the hand to reach the stroke's end."""
REST: Final = 0.5
"""s for the hand to come to rest once the policy reports that the stroke is done."""
HEIGHT: Final = (0.05, 0.15)
"""Range of heights over the table, m, in which a stroke's end lies in the scene."""
BEND: Final = 40.0
"""Largest distance of a stroke's middle from the straight line, pixels."""


@dataclass(frozen=True)
class Followed:
    """How a stroke was followed, pixels of 640x480.

    off: the greater of two medians, of the path's distance from the stroke and of the stroke's from the path, so that
    standing still is not near; end: the hand's least distance from the stroke's end; seconds: of the path.
    """

    off: float
    end: float
    seconds: float


def bench_steer(times: int, seed: int, checkpoint: Path, tell: Callable[[Followed], None]) -> list[Followed]:
    """Draw `times` strokes, each on a new scene. Raises GraphError or RuntimeError where something does not respond."""
    use_environment()
    cell = Workcell(robot_model())
    cell.reset(sample_scene(seed))
    rng = np.random.default_rng(seed)
    graph = Profile.read("sim").with_parameters({"policy": {"checkpoint": str(checkpoint)}, "panel": {"port": 0}})
    done = []
    with tempfile.TemporaryDirectory(prefix="molmoact-") as logs, Bringup(graph, Path(logs)) as up, Session() as client:
        client.wait_until_ready(graph.nodes, up.check)
        with Browser(address(up)) as page:
            for number in range(times):
                up.check()
                done.append(_follow(client, page, cell, rng, seed + number))
                tell(done[-1])
    return done


def _follow(client: EpisodeClient, page: Browser, cell: Workcell, rng: np.random.Generator, seed: int) -> Followed:
    _await(page, lambda: page.find("end").is_enabled() or page.text("engine-state") == "idle", "the policy is silent")
    if page.find("end").is_enabled():
        page.press("end")
    _await(page, lambda: page.state() in ("idle", "hold"), "the controller does not hold")
    _await(page, lambda: page.frames() > 0, "no image is shown")
    task = client.reset(seed)
    stroke = _stroke(_hand(client, cell), cell, rng)
    field = page.find("text")
    field.clear()
    field.send_keys(task)
    page.press("plan")  # the arm stands until the stroke is in use
    _await(page, lambda: task in page.text("doing"), "the policy does not take the instruction")
    k = cell.cameras["front"]
    page.draw([(float(x / (k.width - 1)), float(y / (k.height - 1))) for x, y in stroke])
    _await(page, lambda: "in use" in page.text("trace-line"), "the stroke is not used")
    page.press("resume")
    began, way = time.monotonic(), [_hand(client, cell)]
    used = began
    while time.monotonic() - began < PATIENCE and time.monotonic() - used < REST:
        way.append(_hand(client, cell))
        if np.linalg.norm(way[-1] - stroke[-1]) < NEAR:
            break
        if "in use" in page.text("trace-line"):
            used = time.monotonic()
        if page.find("resume").is_enabled() and page.state() == "hold":
            page.press("resume")
    seconds = time.monotonic() - began
    return Followed(
        apart(stroke, np.array(way)), float(np.linalg.norm(np.array(way) - stroke[-1], axis=1).min()), seconds
    )


def _await(page: Browser, happened: Callable[[], bool], else_: str) -> None:
    if not page.until(happened, 30.0):
        raise GraphError(f"{else_}: {page.text('answer')} {page.text('trace-line')} {page.text('reason')}")


def _hand(client: EpisodeClient, cell: Workcell) -> np.ndarray:
    """Pixel [2] of the tool centre point in the front image."""
    p = client.truth().grippers[0].position
    return np.asarray(cell.project(np.array([[p.x, p.y, p.z]]))[0])


def _stroke(hand: np.ndarray, cell: Workcell, rng: np.random.Generator) -> np.ndarray:
    """From the hand's pixel to that of a point over the table, with a bend between, float [3, 2]."""
    for _ in range(1000):
        place = np.array([[rng.uniform(*AREA_X), rng.uniform(*AREA_Y), rng.uniform(*HEIGHT)]])
        end = cell.project(place)[0]
        along = end - hand
        middle = (hand + end) / 2 + rng.uniform(-BEND, BEND) * np.array([-along[1], along[0]]) / np.linalg.norm(along)
        stroke = np.array([hand, middle, end])
        size = np.array([cell.cameras["front"].width, cell.cameras["front"].height])
        if np.linalg.norm(along) > 80 and (stroke > 5).all() and (stroke < size - 5).all():
            return stroke
    raise GraphError("the hand is out of the image; look at the simulator's log")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    add_times(parser, 10)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    checkpoint = checkpoint_of(args)
    done = bench_steer(
        args.times, args.seed, checkpoint,
        lambda f: print(f"{f.off:.0f} px off the stroke, {f.end:.0f} px from its end, {f.seconds:.1f} s", flush=True),
    )  # fmt: skip
    off, reached = median(f.off for f in done), sum(f.end <= NEAR for f in done)
    print(f"{len(done)} strokes: {off:.1f} px of 640x480 off at the median; {reached} ends reached")
    if args.json:
        about = machine(digest(checkpoint)) | {"seed": args.seed, "off_px": off, "reached": reached}
        write_whole(args.json, json.dumps(about | {"strokes": [asdict(f) for f in done]}, indent=1))
    return 0
