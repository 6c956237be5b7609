"""The workcell's evaluation in lock-step: the figures of `eval` without ROS, in simulated time."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from molmoact_ros.control.controller import Controller
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.torch_engine import InferenceEngine
from molmoact_ros.evaluation.metrics import Row, depth_accuracy, trace_error_in
from molmoact_ros.evaluation.rollout import PERIOD, TIMEOUT, EpisodeResult, run_episode
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.appearance import draw_moved_cameras
from molmoact_ros.sim.scene import Scene
from molmoact_ros.sim.table_workcell import Workcell


class FirstPlan:
    """How far the first plan of an episode agrees with the expert's trace and the measured depth; NaN before it."""

    def __init__(self, cell: Workcell, scene: Scene, vq: DepthVq | None) -> None:
        self._cell, self._scene, self._vq = cell, scene, vq
        self.trace_error = self.depth_accuracy = float("nan")

    def __call__(self, observation: Observation, reasoning: Reasoning) -> None:
        """Process a step; the workcell still is as its images show it."""
        if np.isnan(self.trace_error) and reasoning.trace is not None:
            self.trace_error = trace_error_in(self._cell, self._scene, reasoning.trace)
        if np.isnan(self.depth_accuracy) and reasoning.depth_codes is not None and self._vq is not None:
            measured = self._cell.render("front")[1]
            self.depth_accuracy = depth_accuracy(self._vq, reasoning.depth_codes, measured)


def run_scenes(
    cell: Workcell, engine: InferenceEngine, vq: DepthVq | None, robot: Path, scenes: Iterable[tuple[int, Scene]],
    period: float = PERIOD, moved_cameras: bool = False, timeout: float = TIMEOUT,
) -> Iterator[Row]:  # fmt: skip
    """Yield the figures of an episode in each scene, given with its seed.

    robot: the arm's MJCF file. period: least time from one plan's image to the next's, s. moved_cameras: each scene has
    lights and cameras of its own, drawn from its seed (`draw_moved_cameras`). vq: decodes and encodes depth; None: no
    figure of depth. timeout: s of simulated time after which an episode has failed.
    """
    for seed, scene in scenes:
        cell.dress(draw_moved_cameras(np.random.default_rng((seed, 8))) if moved_cameras else None)
        first = FirstPlan(cell, scene, vq)
        result = run_episode(cell, engine, Controller(robot), scene, first, period, timeout)
        yield _row(seed, result, first)
    cell.dress(None)


def _row(seed: int, result: EpisodeResult, first: FirstPlan) -> Row:
    refused = f"; {len(result.refusals)} steps refused, first: {result.refusals[0]}" if result.refusals else ""
    return Row(
        seed=seed,
        instruction=result.instruction,
        success=result.success,
        first_lifted=result.first_touched or "",
        right_object_first=result.right_object_first,
        seconds=result.seconds,
        step_seconds=float(np.median(result.step_times)) if result.step_times else float("nan"),
        trace_error=first.trace_error,
        depth_accuracy=first.depth_accuracy,
        message=("done" if result.success else f"not done in {result.seconds:.1f} s of simulated time") + refused,
    )
