"""One episode through the ROS graph, shown in the terminal, kept as a video, a bag and a summary."""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from pathlib import Path

import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from molmoact_ros.engine.checkpoint import digest, load_depth_decoder
from molmoact_ros.learn.evaluation import TIMEOUT
from molmoact_ros.learn.figures import Row, depth_accuracy, machine, trace_error
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.nodes import conversions
from molmoact_ros.nodes.bringup import Bringup, Profile, use_environment
from molmoact_ros.nodes.episode import Episode, EpisodeClient, Moment, Session
from molmoact_ros.paths import robot_model
from molmoact_ros.record.video import VideoWriter, compose_frame
from molmoact_ros.sim.scene import Task, sample_scene

FPS = 10.0
STATES = {getattr(SafetyStatus, name): name.lower() for name in ("IDLE", "POLICY", "HOLD", "STOPPED")}


class Film:
    """Writes a video frame for every tenth of a second that passes."""

    def __init__(self, writer: VideoWriter, checkpoint: Path) -> None:
        self._writer, self._vq = writer, load_depth_decoder(checkpoint)
        self._due = time.monotonic()
        self._depth: tuple[int, np.ndarray] | None = None
        self.last: np.ndarray | None = None

    def __call__(self, episode: Episode, moment: Moment) -> None:
        """Add the frame that is due, if any."""
        if moment.front is None or time.monotonic() < self._due:
            return
        self._due = max(self._due + 1 / FPS, time.monotonic() - 0.5)
        trace = None if moment.trace is None else conversions.trace_points(moment.trace)
        state = f"{STATES[moment.safety.state]}, plan {moment.engine.plan_id}, step {moment.engine.step_seconds:.2f} s"
        front = conversions.rgb_pixels(moment.front)
        self.last = compose_frame(front, trace, self._decoded(moment), episode.instruction, state)
        self._writer.write(self.last)

    def _decoded(self, moment: Moment) -> np.ndarray | None:
        if moment.codes is None or self._vq is None:
            return None
        if self._depth is None or self._depth[0] != moment.codes.plan_id:
            self._depth = (moment.codes.plan_id, self._vq.picture(conversions.depth_codes(moment.codes)))
        return self._depth[1]


def _progress(episode: Episode, moment: Moment, began: float) -> Table:
    table = Table(title=episode.instruction, show_header=False)
    table.add_row("time", f"{time.monotonic() - began:.1f} s")
    table.add_row("controller", f"{STATES[moment.safety.state]} {moment.safety.reason}")
    table.add_row("plans", str(moment.engine.plan_id))
    table.add_row("reasoning step", f"{moment.engine.step_seconds * 1e3:.0f} ms")
    table.add_row("first lifted", episode.first_lifted or "nothing yet")
    return table


def row(episode: Episode, distractors: int, robot: Path, checkpoint: Path) -> Row:
    """The figures of an episode."""
    scene = sample_scene(episode.seed, None if distractors < 0 else distractors, episode.instruction)
    nothing = float("nan")
    accuracy = nothing
    vq = load_depth_decoder(checkpoint)
    if vq is not None and episode.codes is not None and episode.measured_depth is not None:
        accuracy = depth_accuracy(vq, episode.codes, episode.measured_depth)
    return Row(
        seed=episode.seed,
        instruction=episode.instruction,
        success=episode.success,
        first_lifted=episode.first_lifted,
        right_object_first=episode.first_lifted == Task.parse(episode.instruction).object,
        seconds=episode.seconds,
        step_seconds=float(np.median(episode.step_seconds)) if episode.step_seconds else nothing,
        trace_error=nothing if episode.trace is None else trace_error(robot, scene, episode.trace),
        depth_accuracy=accuracy,
        message=episode.message,
    )


def demo(instruction: str, seed: int, out: Path, checkpoint: Path, console: Console) -> Row:
    """Run the episode; leaves `episode.mp4`, `last.png`, `bag/`, `summary.json` and `logs/` in a new folder `out`."""
    use_environment()
    profile = Profile.read("sim").with_parameters(
        {"policy": {"checkpoint": str(checkpoint)}, "recorder": {"bag": str(out / "bag")}}
    )
    out.mkdir(parents=True)
    with Bringup(profile, out / "logs") as graph, Session() as client:
        with console.status("starting simulator, controller and policy"):
            client.wait_until_ready(profile.nodes, graph.check)
            asked = client.reset(seed, instruction)
        episode = _film(client, graph, asked, seed, out, checkpoint, console)
    figures = row(episode, -1, robot_model(), checkpoint)
    about = {"seed": seed, **machine(digest(checkpoint)), **asdict(figures)}
    (out / "summary.json").write_text(json.dumps(about, indent=1))
    return figures


def _film(
    client: EpisodeClient, graph: Bringup, asked: str, seed: int, out: Path, checkpoint: Path, console: Console
) -> Episode:
    began = time.monotonic()
    with VideoWriter(out / "episode.mp4", FPS) as writer, Live(console=console, refresh_per_second=4) as live:
        film = Film(writer, checkpoint)

        def watch(episode: Episode, moment: Moment) -> None:
            film(episode, moment)
            live.update(_progress(episode, moment, began))

        return client.run(asked, seed, TIMEOUT, graph.check, watch)
