"""One episode through the ROS graph, shown in the terminal, recorded as a video, a bag and a summary."""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from rich.console import Console
from rich.live import Live
from rich.table import Table

from molmoact_ros.bringup.episode_client import Episode, EpisodeClient, EpisodeMoment, Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.engine.model.checkpoint import load_depth_decoder, read_tokenizer
from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.evaluation.metrics import Row, depth_accuracy, trace_error
from molmoact_ros.evaluation.rollout import TIMEOUT
from molmoact_ros.nodes.teleop.client import STATES
from molmoact_ros.ros import conversions
from molmoact_ros.sim.scene import Scene, Task, sample_scene
from molmoact_ros.training.tokenizer import known_shapes
from molmoact_ros.utils.arguments import add_checkpoint, add_images, not_negative
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.utils.provenance import machine
from molmoact_ros.utils.whole_file import write_whole
from molmoact_ros.visualization.video import VideoWriter, compose_cameras, compose_frame

FPS = 10.0


class VideoRecorder:
    """Writes a video frame of all cameras for every tenth of a second that passes, the front one first."""

    def __init__(self, writer: VideoWriter, cameras: Sequence[str]) -> None:
        self._writer, self._cameras, self._due = writer, cameras, time.monotonic()
        self.last: np.ndarray | None = None

    def __call__(self, episode: Episode, moment: EpisodeMoment) -> None:
        """Write the frame that is due, if any."""
        if time.monotonic() < self._due or any(camera not in moment.images for camera in self._cameras):
            return
        self._due = max(self._due + 1 / FPS, time.monotonic() - 0.5)
        pictures = [conversions.rgb_pixels(moment.images[camera]) for camera in self._cameras]
        self.last = self.compose(pictures, episode, moment)
        self._writer.write(self.last)

    def compose(self, pictures: list[np.ndarray], episode: Episode, moment: EpisodeMoment) -> np.ndarray:
        """One frame, uint8 [H, W, 3] RGB."""
        state = f"{STATES[moment.safety.state]}, plan {moment.engine.plan_id}"
        return compose_cameras(pictures[0], pictures[1:], episode.instruction, state)


class PolicyVideoRecorder(VideoRecorder):
    """The front camera with the trace, and the decoded depth tokens."""

    def __init__(self, writer: VideoWriter, checkpoint: Path) -> None:
        super().__init__(writer, ["front"])
        self._vq = load_depth_decoder(checkpoint)
        self._depth: tuple[int, np.ndarray] | None = None

    def compose(self, pictures: list[np.ndarray], episode: Episode, moment: EpisodeMoment) -> np.ndarray:
        """One frame, uint8 [H, W, 3] RGB."""
        trace = None if moment.trace is None else conversions.trace_points(moment.trace)
        state = f"{STATES[moment.safety.state]}, plan {moment.engine.plan_id}, step {moment.engine.step_seconds:.2f} s"
        return compose_frame(pictures[0], trace, self._decoded(moment), episode.instruction, state)

    def _decoded(self, moment: EpisodeMoment) -> np.ndarray | None:
        if moment.codes is None or self._vq is None:
            return None
        if self._depth is None or self._depth[0] != moment.codes.plan_id:
            self._depth = (moment.codes.plan_id, self._vq.picture(conversions.depth_codes(moment.codes)))
        return self._depth[1]


def _progress(episode: Episode, moment: EpisodeMoment, began: float) -> Table:
    table = Table(title=episode.instruction, show_header=False)
    table.add_row("time", f"{time.monotonic() - began:.1f} s")
    table.add_row("controller", f"{STATES[moment.safety.state]} {moment.safety.reason}")
    table.add_row("plans", str(moment.engine.plan_id))
    table.add_row("reasoning step", f"{moment.engine.step_seconds * 1e3:.0f} ms")
    table.add_row("first lifted", episode.first_lifted or "nothing yet")
    return table


def row(episode: Episode, scene: Scene, robot: Path, checkpoint: Path) -> Row:
    """The figures of an episode in `scene`."""
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


def for_checkpoint(profile: Profile, checkpoint: Path, shapes: Sequence[str], **policy: float) -> Profile:
    """The profile with objects of `shapes` and a policy that runs `checkpoint`, its other parameters in `policy`."""
    return profile.with_parameters(
        {"policy": {"checkpoint": str(checkpoint), **policy}, "sim": {"shapes": list(shapes)}}
    )


def demo(
    instruction: str, seed: int, out: Path, checkpoint: Path, console: Console, profile: str = "sim",
    images: str = "raw",
) -> Episode:  # fmt: skip
    """Run the episode of a simulated profile, whose policy or expert plans. images: the bag's image format.

    Writes `episode.mp4`, `last.png`, `bag/`, `summary.json` and `logs/` into a new folder `out`. Raises ValueError for
    a profile without a simulator or a planner.
    """
    use_environment()
    graph_profile = Profile.read(profile).with_parameters({"recorder": {"bag": str(out / "bag"), "images": images}})
    nodes = graph_profile.nodes
    planner = next((name for name in ("policy", "expert") if name in nodes), "")
    if not planner or "sim" not in nodes:
        raise ValueError(f"the profile {profile!r} is not a demo: it needs a simulator, and a policy or an expert")
    shapes: tuple[str, ...] = ()
    if planner == "policy":
        shapes = known_shapes(read_tokenizer(checkpoint))
        graph_profile = for_checkpoint(graph_profile, checkpoint, shapes)
    cameras = ("front",) if planner == "policy" else ("front", "left_wrist", "right_wrist")
    out.mkdir(parents=True)
    with Bringup(graph_profile, out / "logs") as graph, Session(planner, cameras) as client:
        with console.status(f"starting {', '.join(nodes)}"):
            client.wait_until_ready(nodes, graph.check)
            asked = client.reset(seed, instruction)
        with VideoWriter(out / "episode.mp4", FPS) as writer:
            film = PolicyVideoRecorder(writer, checkpoint) if planner == "policy" else VideoRecorder(writer, cameras)
            episode = _film(client, graph, asked, seed, film, console)
    if film.last is not None:
        cv2.imwrite(str(out / "last.png"), film.last[..., ::-1])
    figures: dict[str, Any] = {key: getattr(episode, key) for key in ("instruction", "success", "seconds", "message")}
    if planner == "policy":
        scene = sample_scene(seed, instruction=episode.instruction, shapes=shapes)
        figures = machine(digest(checkpoint)) | asdict(row(episode, scene, robot_model(), checkpoint))
    about = {"seed": seed, "profile": profile, "planner": planner, **figures}
    write_whole(out / "summary.json", json.dumps(about, indent=1))
    return episode


def _film(
    client: EpisodeClient, graph: Bringup, asked: str, seed: int, film: VideoRecorder, console: Console
) -> Episode:  # fmt: skip
    began = time.monotonic()
    with Live(console=console, refresh_per_second=4) as live:

        def watch(episode: Episode, moment: EpisodeMoment) -> None:
            film(episode, moment)
            live.update(_progress(episode, moment, began))

        return client.run(asked, seed, TIMEOUT, graph.check, watch)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--instruction", default="", help="what to do; default: what the scene asks for")
    parser.add_argument("--profile", default="sim", help="a file of config/profiles: sim, or bimanual_sim for two arms")
    parser.add_argument("--seed", type=not_negative(int), default=7, help="which scene")
    add_images(parser)
    parser.add_argument("--out", type=Path, help="a new folder for the results; default: runs/demo-<time>")
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the episode; 2 where the task was not done."""
    console = Console()
    out = (args.out or Path("runs") / f"demo-{datetime.now():%Y%m%d-%H%M%S}").resolve()
    episode = demo(args.instruction, args.seed, out, checkpoint_of(args), console, args.profile, args.images)
    verdict = "[green]done[/]" if episode.success else f"[red]not done[/] ({episode.message})"
    console.print(f"{episode.instruction}: {verdict} after {episode.seconds:.1f} s; bag and summary beside the video")
    print(f"video: {out / 'episode.mp4'}", flush=True)  # a line of its own, whole, to be copied
    return 0 if episode.success else 2
