"""The engine timed as it runs live: beside the simulator and the controller, which take their share of the machine."""

from __future__ import annotations

import tempfile
from pathlib import Path

from molmoact_ros.benchmarks.engine_step import Figures, bench, floor, memory
from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, use_environment
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.evaluation.rollout import film
from molmoact_ros.utils.paths import robot_model


def bench_engine(
    checkpoint: Path, steps: int, seed: int, alone: bool, vision: str = "torch"
) -> tuple[Figures, dict[str, dict[str, float]], str]:
    """Figures of `steps` reasoning steps, what a pass costs at least and the memory held (see engine.bench), and the
    checkpoint's digest. seed: the scene looked at. alone: with nothing else running. vision: what runs the tower.
    """
    pictures = film(robot_model(), steps, seed)
    engine = TorchEngine.load(checkpoint, threads=1, vision=vision)  # as the simulated workcell's profile has it
    engine.warm_up()
    costs = {"floor": floor(engine)}
    if alone:
        figures = bench(engine, pictures)
        return figures, costs | {"memory": memory()}, engine.digest
    use_environment()
    others = Profile.read("sim").without("policy")
    with (
        tempfile.TemporaryDirectory(prefix="molmoact-") as logs,
        Bringup(others, Path(logs)) as graph,
        Session() as client,
    ):
        client.wait_until_ready(others.nodes, graph.check)
        figures = bench(engine, pictures)
    return figures, costs | {"memory": memory()}, engine.digest
