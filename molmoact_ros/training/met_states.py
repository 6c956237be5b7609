"""What the expert would do in states that a policy has met: labels for rounds of correction.

A policy that learns from the expert's own states alone meets others once it errs, and has not learnt the way back
(DAgger, Ross et al. 2011). The expert is memoryless, so it can label any of them.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from molmoact_ros.sim.scene import FLOOR, GRASP_HEIGHT, GRASP_WIDTH, Placed, Scene, Task, rest_height, tasks_for
from molmoact_ros.sim.table_workcell import INSIDE, Workcell
from molmoact_ros.training.demonstrations import ASKED, THINGS, Sampler
from molmoact_ros.training.expert import ExpertPhase, see

FARTHEST = 1.0  # m from the base: what lies beyond is out of reach and of the front camera's view
UPRIGHT = np.cos(np.radians(30))  # of the vertical axis of a cylinder that still stands
SLACK = 0.004  # m of opening beyond an object's width: fingers this far open still hold it, wider ones close on it


@dataclass(frozen=True)
class CorrectionRound:
    """Episodes of a policy whose moments are to be labelled.

    checkpoint: the policy's folder. device: torch's. folder: receives the files. first_seed: of the scenes. seconds: of
    simulated time, the longest episode. varied, shapes: as in `Sampler`.
    """

    checkpoint: Path
    device: str
    folder: Path
    first_seed: int
    episodes: int
    seconds: float
    varied: float
    shapes: tuple[str, ...]


def scene_now(cell: Workcell) -> Scene:
    """The cell's scene with its objects where they are now."""
    assert cell.scene is not None
    objects = tuple(_placed(cell, placed) for placed in cell.scene.objects)
    return replace(cell.scene, objects=objects)


def _placed(cell: Workcell, before: Placed) -> Placed:
    x, y, _ = cell.object_position(before.name)
    turned = cell.data.body(before.name).xmat.reshape(3, 3)
    return replace(before, x=float(x), y=float(y), yaw=float(np.arctan2(turned[1, 0], turned[0, 0])))


def on_the_table(cell: Workcell) -> bool:
    """Whether every object of the scene still is on the table or in the hand, within reach."""
    assert cell.scene is not None
    positions = [cell.object_position(placed.name) for placed in cell.scene.objects]
    return all(np.linalg.norm(position) < FARTHEST and position[2] > 0 for position in positions)


def fallen(cell: Workcell, name: str) -> bool:
    """Whether an object is a cylinder that has fallen over, which the expert cannot grasp."""
    return name.endswith("cylinder") and abs(cell.data.body(name).xmat[8]) < UPRIGHT


def grasped(cell: Workcell, name: str) -> bool:
    """Whether the fingers hold an object, and neither still close on it nor have let go."""
    width = GRASP_WIDTH[name.split()[1]] * cell.rest_height(name) / rest_height(name)
    return cell.held(name) and cell.arm.opening < width + SLACK


def phase_of(cell: Workcell, task: Task) -> ExpertPhase:
    """The expert's state for a task in the workcell as it is."""
    held, delivered = grasped(cell, task.object), False
    if task.target is not None and not held:  # then it lies there, or falls
        away = (cell.object_position(task.object) - cell.object_position(task.target))[:2]
        delivered = bool(np.linalg.norm(away) < INSIDE)
    return replace(see(cell, task), held=held, delivered=delivered)


def tasks_here(cell: Workcell, scene: Scene, rng: np.random.Generator) -> list[Task]:
    """The task that was asked and ASKED - 1 more that make sense now: of the object in the hand, else mostly others'.

    As `demonstrations.other_tasks`, in a state that nobody has drawn.
    """
    own = scene.task
    standing = [placed.name for placed in scene.objects if not fallen(cell, placed.name)]
    held = [name for name in standing if grasped(cell, name)]
    choices = [task for name in held or standing for task in tasks_for(name) if task != own]
    open_ones = [task for task in choices if not phase_of(cell, task).delivered]
    others = [task for task in open_ones if task.object != own.object]
    pool = others if len(others) >= ASKED - 1 and rng.random() < 0.8 else open_ones
    return [own, *(pool[i] for i in rng.choice(len(pool), ASKED - 1, replace=False))]


def things_now(cell: Workcell, scene: Scene) -> np.ndarray:
    """The position of each of THINGS now, float32 [23, 3] m in the terms of `Demonstrations`: an object's grasp point,
    a target's floor."""
    out = np.full((len(THINGS), 3), np.nan, np.float32)
    for placed in scene.objects:
        lift = GRASP_HEIGHT[placed.name.split()[1]] - cell.rest_height(placed.name)
        out[THINGS.index(placed.name)] = cell.object_position(placed.name) + [0, 0, lift]
    for placed in scene.targets:
        out[THINGS.index(placed.name)] = [placed.x, placed.y, FLOOR]
    return out


def label_here(sampler: Sampler, rng: np.random.Generator) -> tuple[dict[str, np.ndarray], list[str]] | None:
    """A row of `Demonstrations` for the sampler's workcell as it is, and its instructions [ASKED].

    None where nobody should learn from it: an object has left the table, or the one that is asked for has fallen over.
    """
    cell = sampler.cell
    scene = scene_now(cell)
    if not on_the_table(cell) or fallen(cell, scene.task.object):
        return None
    tasks = tasks_here(cell, scene, rng)
    traces, actions, texts = sampler.labels_of(scene, [(task, phase_of(cell, task)) for task in tasks])
    held = next((placed.name for placed in scene.objects if grasped(cell, placed.name)), None)
    return sampler.row(things_now(cell, scene), cell.arm.tcp_position, held, traces, actions), texts
