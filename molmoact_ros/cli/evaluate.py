"""Many episodes through the ROS graph, and the table of how they went."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

from rich.console import Console
from rich.table import Table

from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.cli.demo import row
from molmoact_ros.evaluation.metrics import Row, summary
from molmoact_ros.evaluation.rollout import TIMEOUT
from molmoact_ros.sim.scene import Scene, Task, sample_scene
from molmoact_ros.utils.paths import robot_model


def swapped(scene: Scene) -> str:
    """The scene's instruction with another object of the same table in the first one's place."""
    other = scene.objects[1].name
    return Task(other, scene.task.target, scene.task.verb).instruction


def evaluate(episodes: int, seed: int, checkpoint: Path, swap: bool) -> Iterator[Row]:
    """Yield the figures of each episode; scenes are seeds `seed`, `seed` + 1, ... With `swap`, see `swapped`."""
    use_environment()
    profile = Profile.read("sim").with_parameters({"policy": {"checkpoint": str(checkpoint)}})
    logs = tempfile.TemporaryDirectory(prefix="molmoact-")
    with logs, Bringup(profile, Path(logs.name)) as graph, Session() as client:
        client.wait_until_ready(profile.nodes, graph.check)
        for number in range(seed, seed + episodes):
            wanted = swapped(sample_scene(number)) if swap else ""
            asked = client.reset(number, wanted)
            episode = client.run(asked, number, TIMEOUT, graph.check)
            yield row(episode, -1, robot_model(), checkpoint)


def show(rows: list[Row], console: Console) -> None:
    """Print the table: a line per kind of task, and all."""
    table = Table(title=f"{len(rows)} episodes")
    for heading in ("task", "episodes", "success", "right object first", "trace error", "depth codes", "step"):
        table.add_column(heading, justify="left" if heading == "task" else "right")
    for kind, f in summary(rows).items():
        table.add_row(
            kind, f"{f['episodes']:.0f}", f"{f['success']:.0%}", f"{f['right_object_first']:.0%}",
            f"{f['trace_error_px']:.0f} px", f"{f['depth_code_accuracy']:.0%}", f"{f['step_ms']:.0f} ms",
        )  # fmt: skip
    console.print(table)
