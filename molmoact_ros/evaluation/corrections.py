"""Rounds of correction (DAgger): a policy runs in training scenes, and the expert labels the moments that it meets."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
from tqdm import tqdm

from molmoact_ros.control.controller import Controller
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.evaluation.rollout import run_episode
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.scene import AREA_X, AREA_Y, GRASP_WIDTH, Placed, Scene, rest_height, sample_scene
from molmoact_ros.sim.table_workcell import INSIDE, Workcell
from molmoact_ros.training.demonstrations import TRAIN_SEED
from molmoact_ros.training.expert import ExpertPhase
from molmoact_ros.training.molmoact2.joint_demonstrations import JointSampleArrays, JointSampler

FIRST_SCENE = 2 * TRAIN_SEED  # behind all scenes of demonstrations
HELD = 0.045  # m between the gripper and what it holds, at most
BEYOND = 0.1  # m around the area of the table in which a policy is corrected


def collect_corrections(robot: Path, checkpoint: Path, episodes: int, seed: int) -> list[JointSampleArrays]:
    """The labelled moments of a MolmoAct 2's `episodes` in lock-step, in training scenes from number `seed` on.

    A moment in which the task's object is off the table is left out. It says how many episodes succeeded.
    """
    engine, sampler = MolmoAct2Engine.load(checkpoint), JointSampler(robot)
    found: list[JointSampleArrays] = []
    done = 0
    for number in tqdm(range(seed, seed + episodes), desc="correction", unit="episode", mininterval=5):
        rng = np.random.default_rng((FIRST_SCENE, number))

        def watch(observation: Observation, _: Reasoning, rng: np.random.Generator = rng) -> None:
            scene, phase = met(sampler.cell)
            if _on_table(scene.object(scene.task.object)):
                q = sampler.cell.arm.positions[:7]
                found.append(sampler.labelled(scene, phase, q, observation.images, rng))

        result = run_episode(sampler.cell, engine, Controller(robot), sample_scene(FIRST_SCENE + number), watch)
        done += result.success
    print(f"correction: {done} of {episodes} episodes succeeded, {len(found)} moments labelled", flush=True)
    return found


def met(cell: Workcell) -> tuple[Scene, ExpertPhase]:
    """The scene as it is in the simulator now, and the expert's state in it."""
    assert cell.scene is not None
    task, tcp, opening = cell.scene.task, cell.arm.tcp_position, cell.arm.opening
    objects = tuple(_placed(cell, placed) for placed in cell.scene.objects)
    place = cell.object_position(task.object)
    near = float(np.linalg.norm(place - tcp)) < HELD
    held = near and opening < GRASP_WIDTH[task.object.split()[1]] + 0.012
    delivered = False
    if task.target is not None and not held:
        along = float(np.linalg.norm(place[:2] - cell.object_position(task.target)[:2]))
        delivered = along < INSIDE and place[2] < rest_height(task.object) + 0.03
    return replace(cell.scene, objects=objects), ExpertPhase(tcp, opening, place, held, delivered)


def _placed(cell: Workcell, placed: Placed) -> Placed:
    x, y, _ = cell.object_position(placed.name)
    return replace(placed, x=float(x), y=float(y))


def _on_table(placed: Placed) -> bool:
    bounds = ((placed.x, AREA_X), (placed.y, AREA_Y))
    return all(low - BEYOND < value < high + BEYOND for value, (low, high) in bounds)
