"""Lock-step rollouts of trace steering: a drawn stroke, not the instruction, determines the motion."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk, still
from molmoact_ros.control.controller import Controller
from molmoact_ros.engine.torch_engine import InferenceEngine
from molmoact_ros.evaluation.rollout import LATENCY, PERIOD, TIMEOUT, EpisodeResult, move, observe, plan_chunk
from molmoact_ros.reasoning.trace import pixels_from_trace, trace_from_pixels
from molmoact_ros.reasoning.trace_progress import NEAR, apart, remaining
from molmoact_ros.sim.scene import Scene, sample_scene, tasks_for
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.data_loader import NOTHING_SAID

LOOK = 0.1  # s: period for updating the progress along the stroke
REST = 1.0  # s for the arm to come to rest after it reached the end
BEND = 0.3  # fraction of a stroke's length: its maximum bow


@dataclass(frozen=True)
class SteeredTask:
    """A stroke to `goal`, int64 [n, 2] in 0..255, with an instruction that names another object or none."""

    seed: int
    scene: Scene
    instruction: str
    goal: str
    trace: np.ndarray


@dataclass(frozen=True)
class SteeredResult:
    """The outcome of following a stroke. Pixels are those of the 640x480 front image.

    end: final distance of the gripper from the stroke's end, pixels. path: the larger of two median distances, pixels:
    of the gripper's path from the stroke, and of the stroke from the gripper's path. away: distance between the gripper
    and the goal's grasp point, m. finished: whether it reached the end before the timeout. seconds: simulated time.
    """

    seed: int
    instruction: str
    goal: str
    end: float
    path: float
    away: float
    finished: bool
    seconds: float
    refusals: tuple[str, ...]

    @property
    def success(self) -> bool:
        """Whether the gripper ended at the stroke's end."""
        return self.finished and self.end <= NEAR

    def __str__(self) -> str:
        mark = "yes" if self.success else "no "
        way = f"{self.end:.0f} px from its end, {self.path:.0f} px off on the way"
        return f"{mark} {self.instruction!r}, drawn to the {self.goal}: {way}"


def steered_task(cell: Workcell, seed: int) -> SteeredTask:
    """The task of a seed, with a trace int64 [n, 2] in 0..255.

    It has a stroke from the gripper at home to one of the scene's objects, straight or bowed, and an instruction about
    another object, or in every second scene one that names no object.
    """
    scene, rng = sample_scene(seed), np.random.default_rng((seed, 6))
    cell.reset(scene)
    goal, other = (scene.objects[i] for i in rng.choice(len(scene.objects), 2, replace=False))
    begin, end = cell.project(np.stack([cell.arm.tcp_position, goal.point]))
    aside = np.array([begin[1] - end[1], end[0] - begin[0]])
    share = np.linspace(0, 1, 5)[:, None]
    bow = rng.uniform(-BEND, BEND) * np.sin(np.pi * share) * aside
    k = cell.cameras["front"]
    points = np.clip(begin + share * (end - begin) + bow, 0, (k.width - 1, k.height - 1))
    tasks = tasks_for(other.name)
    instruction = tasks[rng.integers(len(tasks))].instruction if seed % 2 else NOTHING_SAID
    return SteeredTask(seed, scene, instruction, goal.name, trace_from_pixels(points, k.width, k.height))


def follow_strokes(robot: Path, engine: InferenceEngine, count: int, seed: int) -> Iterator[SteeredResult]:
    """Yield the results for the seeds `seed`, `seed` + 1, ... robot: the arm's MJCF file."""
    cell = Workcell(robot)
    for number in range(seed, seed + count):
        yield run_stroke(cell, engine, Controller(robot), steered_task(cell, number))


def report(results: Sequence[SteeredResult]) -> dict[str, Any]:
    """The content of `eval --steer --json` for one or more strokes: a summary with medians in pixels and m, and every
    stroke."""
    summary = {
        "strokes": len(results),
        "success": float(np.mean([r.success for r in results])),
        "end_px": float(np.median([r.end for r in results])),
        "path_px": float(np.median([r.path for r in results])),
        "path_px_worst": max(r.path for r in results),
        "away_m": float(np.median([r.away for r in results])),
        "seconds": float(np.median([r.seconds for r in results])),
    }
    return {"summary": summary, "episodes": [asdict(r) | {"success": r.success} for r in results]}


def run_stroke(
    cell: Workcell, engine: InferenceEngine, controller: Controller, task: SteeredTask, timeout: float = TIMEOUT
) -> SteeredResult:
    """Follow one stroke from the arm's home until REST after its end was reached, or until `timeout` s."""
    cell.reset(task.scene)
    k, period = cell.cameras["front"], 1.0 / controller.config.rate
    result, way = EpisodeResult(task.instruction), []
    left: np.ndarray | None = task.trace
    plan: ActionChunk | None = None
    played: ActionChunk | None = None
    pictured, until, now = -PERIOD, timeout, 0.0
    for cycle in range(int(timeout / period)):
        now = cycle * period
        controller.update_joints(cell.arm.positions[:7], cell.arm.opening, now)
        controller.on_engine(now)
        if cycle == 0:
            controller.start(now)
        if cycle % round(LOOK / period) == 0:
            way.append(cell.project(cell.arm.tcp_position[None])[0])
            at_end = left is not None and (left := remaining(left, way[-1], k.width, k.height)) is None
            if at_end and played is not None:  # the arm rests there, as with the policy node
                controller.on_chunk(replace(played, actions=still(played.actions), stamp=now), now)
            if at_end:
                plan, until = None, min(until, now + REST)
        if plan is not None and now >= pictured + LATENCY:
            controller.on_chunk(plan, now)
            plan, played = None, plan
        if left is not None and plan is None and now >= pictured + PERIOD:
            plan, pictured = plan_chunk(engine, observe(cell, task.instruction, now, left), result), now
        move(cell, controller, now)
        if now >= until:
            break
    drawn = pixels_from_trace(task.trace, k.width, k.height).astype(float)
    return SteeredResult(
        task.seed,
        task.instruction,
        task.goal,
        end=float(np.linalg.norm(way[-1] - drawn[-1])),
        path=apart(drawn, np.array(way)),
        away=float(np.linalg.norm(cell.arm.tcp_position - task.scene.object(task.goal).point)),
        finished=left is None,
        seconds=now,
        refusals=tuple(result.refusals),
    )
