"""Demonstrations in joints: states of the workcell, and where the expert's path takes the joints from there.

States, scenes and seeds are those of `training/demonstrations.py`; images are what MolmoAct 2's processor makes of the
cameras'. Files of corrections, whose states a policy met, have the same form.
"""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np
from tqdm import tqdm

from molmoact_ros.engine.model.image_processor import stretch
from molmoact_ros.sim.scene import Scene
from molmoact_ros.training.demonstrations import (
    PART,
    TRAIN_SEED,
    VIEW,
    Sampler,
    about,
    other_tasks,
    things_in,
)
from molmoact_ros.training.expert import CHUNK_STEPS, OPEN, Expert, ExpertPhase, ExpertPlan
from molmoact_ros.utils.child_process import die_with_parent


@dataclass
class JointDemonstrations:
    """Arrays of n samples with K instructions each. `instructions` are indices into `texts`.

    images: uint8 [n, 2, 96, 128, 3] RGB. state: float32 [n, 8], seven joints in rad and the gripper, 1 open to 0
    closed. chunks: float32 [n, K, 8, 8], the next actions: absolute joints in rad and the gripper. things: float32
    [n, 15, 3] m, position of each of THINGS in the base frame (NaN: not in the scene). hand: float32 [n, 3] m, gripper
    position in the base frame. instructions: int64 [n, K].
    """

    images: np.ndarray
    state: np.ndarray
    chunks: np.ndarray
    things: np.ndarray
    hand: np.ndarray
    instructions: np.ndarray
    texts: list[str]

    @staticmethod
    def of(samples: Sequence[JointSampleArrays]) -> JointDemonstrations:
        """The arrays of some samples, at least one."""
        names = sorted({text for sample in samples for text in sample.texts})
        index = {text: number for number, text in enumerate(names)}
        asked = np.array([[index[text] for text in sample.texts] for sample in samples])
        arrays = {name: np.stack([sample.arrays[name] for sample in samples]) for name in samples[0].arrays}
        return JointDemonstrations(**arrays, instructions=asked, texts=names)

    def save(self, path: Path) -> None:
        """Write one uncompressed .npz; it appears once it is whole."""
        unfinished = path.with_name(f"unfinished-{path.name}")
        np.savez(unfinished, **{**vars(self), "texts": np.array(self.texts)})
        unfinished.rename(path)

    @staticmethod
    def load(paths: Sequence[Path]) -> JointDemonstrations:
        """Load files one behind the other."""
        parts = [np.load(path) for path in paths]
        texts = sorted({str(text) for part in parts for text in part["texts"]})
        index = {text: number for number, text in enumerate(texts)}
        asked = [np.array([index[str(text)] for text in part["texts"]])[part["instructions"]] for part in parts]
        arrays = {name: np.concatenate([part[name] for part in parts])
                  for name in ("images", "state", "chunks", "things", "hand")}  # fmt: skip
        return JointDemonstrations(**arrays, instructions=np.concatenate(asked), texts=texts)


@dataclass(frozen=True)
class JointSampleArrays:
    """One sample: a row of each array of `JointDemonstrations`, by name, and its K instructions."""

    arrays: dict[str, np.ndarray]
    texts: list[str]


class JointSampler(Sampler):
    """Labels states with the joints of the expert's path, in its own workcell."""

    def joint_sample(self, seed: int) -> JointSampleArrays:
        """The sample of a seed."""
        scene, state, q, rng = self.moment(seed)
        self._pose(scene, state, q)
        images = [self.cell.render(camera)[0] for camera in ("front", "wrist")]
        return self.labelled(scene, state, q, images, rng)

    def labelled(
        self, scene: Scene, state: ExpertPhase, q: np.ndarray, images: Sequence[np.ndarray], rng: np.random.Generator
    ) -> JointSampleArrays:  # fmt: skip
        """The sample of a state with joints `q` [7] rad and the cameras' `images` uint8 [H, W, 3], front first.

        It has the scene's own task and others that make sense in that state.
        """
        tasks = [scene.task, *other_tasks(scene, state, rng)]
        plans = [Expert(replace(scene, task=task)).plan(about(scene, state, task)) for task in tasks]
        arrays = {
            "images": np.stack([stretch(image, VIEW).round().astype(np.uint8) for image in images]),
            "state": np.append(q, state.opening / OPEN).astype(np.float32),
            "chunks": np.stack([self.joint_chunk(plan, q) for plan in plans]).astype(np.float32),
            "things": things_in(scene, state), "hand": state.tcp.astype(np.float32),
        }  # fmt: skip
        return JointSampleArrays(arrays, [task.instruction for task in tasks])

    def joint_chunk(self, plan: ExpertPlan, q: np.ndarray) -> np.ndarray:
        """The plan's next actions float64 [8, 8]: joints, rad, at its next positions with the gripper straight down.

        q: joints now, [7] rad; a position out of reach keeps the joints before it.
        """
        out = np.empty((CHUNK_STEPS, 8))
        for step in range(CHUNK_STEPS):
            at, row = min(step + 1, len(plan.positions) - 1), min(step, len(plan.gripper) - 1)
            if step == 0 or not np.array_equal(plan.positions[at], plan.positions[at - 1]):
                solved = self.poser.solve(plan.positions[at], np.zeros(3))
                q = q if solved is None else solved
            out[step, :7], out[step, 7] = q, plan.gripper[row]
        return out


def collect_joints(robot: Path, folder: Path, count: int, workers: int) -> list[Path]:
    """Sample `count` states into files of at most PART in `folder` with `workers` processes; existing ones are kept."""
    folder.mkdir(parents=True, exist_ok=True)
    firsts = range(0, count, PART)
    parts = {first: folder / f"part{first // PART:03d}.npz" for first in firsts}
    jobs = [(first, min(PART, count - first), path) for first, path in parts.items() if not path.exists()]
    os.environ["LP_NUM_THREADS"] = "1"  # else the software renderer starts one thread per core in each worker
    context = multiprocessing.get_context("spawn")
    with (
        context.Pool(workers, die_with_parent, (os.getpid(),)) as pool,
        tqdm(total=len(parts), initial=len(parts) - len(jobs), unit="part") as bar,
    ):
        for _ in pool.imap_unordered(partial(_collect_part, robot), jobs):
            bar.update()
    return list(parts.values())


def _collect_part(robot: Path, job: tuple[int, int, Path]) -> None:
    first, count, path = job
    sampler = JointSampler(robot)
    JointDemonstrations.of([sampler.joint_sample(TRAIN_SEED + first + i) for i in range(count)]).save(path)
