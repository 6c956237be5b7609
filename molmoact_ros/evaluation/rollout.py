"""Lock-step rollouts without ROS: the same workcell, engine and controller, with simulated time.

A plan takes effect `LATENCY` after its image was captured, however long this machine took for it. The next image is
captured `PERIOD` after that image, as in the profile `sim`, and never before the plan takes effect.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller
from molmoact_ros.engine.torch_engine import InferenceEngine
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.scene import Scene, Task, sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.demonstrations import HandPoser
from molmoact_ros.training.expert import OPEN, STEP, Expert

LATENCY = 0.2  # s from image to plan
PERIOD = 0.75  # s from image to image
TIMEOUT = 30.0  # s of simulated time for one episode


@dataclass
class EpisodeResult:
    """The outcome of one episode. step_times: time of each reasoning step, s. seconds: simulated time."""

    instruction: str
    success: bool = False
    first_touched: str | None = None
    seconds: float = 0.0
    step_times: list[float] = field(default_factory=list)
    refusals: list[str] = field(default_factory=list)

    @property
    def right_object_first(self) -> bool:
        """Whether the first object lifted is the one that the instruction names."""
        return self.first_touched == Task.parse(self.instruction).object


def observe(cell: Workcell, instruction: str, now: float, trace: np.ndarray | None = None) -> Observation:
    """The observation at `now`, s. trace: int [n, 2] in 0..255, the operator's trace on the front image."""
    return Observation((cell.render("front")[0], cell.render("wrist")[0]), instruction, now, trace)


def run_episode(
    cell: Workcell, engine: InferenceEngine, controller: Controller, scene: Scene,
    watch: Callable[[Observation, Reasoning], None] | None = None, period: float = PERIOD, timeout: float = TIMEOUT,
) -> EpisodeResult:  # fmt: skip
    """Run one episode from the arm's home until success, for `timeout` s of simulated time at most.

    watch: called after every complete step, before the workcell moves on. period: least time from image to image, s; 0:
    the next image is captured when the last one's plan takes effect.
    """
    cell.reset(scene)
    result = EpisodeResult(scene.task.instruction)
    cycle_time = 1.0 / controller.config.rate
    pictured, plan = -np.inf, None
    for cycle in range(int(timeout / cycle_time)):
        now = cycle * cycle_time
        controller.update_joints(cell.arm.positions[:7], cell.arm.opening, now)
        controller.on_engine(now)
        if cycle == 0:
            controller.start(now)
        if plan is not None and now >= pictured + LATENCY:
            controller.on_chunk(plan, now)
            plan = None
        if plan is None and now >= pictured + max(period, LATENCY):
            plan, pictured = plan_chunk(engine, observe(cell, result.instruction, now), result, watch), now
        move(cell, controller, now)
        result.seconds = now
        if cell.progress().success:
            break
    progress = cell.progress()
    result.success, result.first_touched = progress.success, progress.first_touched
    return result


def move(cell: Workcell, controller: Controller, now: float) -> None:
    """Run one control cycle at `now`, s: command the arm and step the workcell."""
    commands = controller.step(now)
    if commands is not None:
        cell.arm.command(commands[0].position)
        cell.arm.grip(commands[0].opening)
    cell.step(1.0 / controller.config.rate)


def plan_chunk(
    engine: InferenceEngine, observation: Observation, result: EpisodeResult,
    watch: Callable[[Observation, Reasoning], None] | None = None,
) -> ActionChunk | None:  # fmt: skip
    """Run one reasoning step; None if the engine refuses, which `result` records."""
    try:
        *_, reasoning = engine.reason(observation)
    except RefusedStep as refusal:
        result.refusals.append(str(refusal))
        return None
    result.step_times.append(engine.timings.total)
    if watch is not None:
        watch(observation, reasoning)
    assert reasoning.actions is not None
    return ActionChunk(np.asarray(reasoning.actions), STEP, observation.stamp)


class _Enough(Exception):
    pass


def closed_loop(
    robot: Path, engine: InferenceEngine, steps: int, seed: int, watch: Callable[[Observation, Reasoning], None]
) -> None:
    """Run lock-step episodes from scene `seed` on, until `watch` was called for `steps` complete steps."""
    cell, seen = Workcell(robot), 0

    def counted(observation: Observation, reasoning: Reasoning) -> None:
        nonlocal seen
        watch(observation, reasoning)
        seen += 1
        if seen >= steps:
            raise _Enough

    for scene in count(seed):
        try:
            run_episode(cell, engine, Controller(robot), sample_scene(scene), counted)
        except _Enough:
            return


def sample_observations(robot: Path, count: int, seed: int = 0) -> list[Observation]:
    """`count` consecutive observations, 0.2 s apart, along the expert's path: like an engine's live input."""
    cell = Workcell(robot)
    scene = sample_scene(seed)
    cell.reset(scene)
    poser = HandPoser(cell.model)
    path = Expert.from_start(scene, cell.arm.tcp_position).positions
    out = []
    for i in range(count):
        q = poser.solve(path[min(2 * i % len(path), len(path) - 1)], np.zeros(3))
        if q is not None:
            cell.pose_kinematically(q, OPEN)
        out.append(observe(cell, scene.task.instruction, 0.2 * i))
    return out
