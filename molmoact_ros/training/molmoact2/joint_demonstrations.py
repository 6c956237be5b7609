"""Demonstrations in joints: states of the workcell, and where the expert's path takes the joints from there.

States, scenes and seeds are those of `training/demonstrations.py`; images are what MolmoAct 2's processor makes of the
cameras'. Files of corrections, whose states a policy met, have the same form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from molmoact_ros.engine.model.image_processor import stretch
from molmoact_ros.sim.scene import Scene, Task
from molmoact_ros.training.demonstrations import VIEW, Sampler
from molmoact_ros.training.expert import CHUNK_STEPS, OPEN, Expert, ExpertPhase, ExpertPlan

_ARRAYS = ("images", "state", "chunks", "things", "hand")


@dataclass
class JointDemonstrations:
    """Arrays of n samples with K instructions each. `instructions` are indices into `texts`.

    images: uint8 [n, 2, 96, 128, 3] RGB. state: float32 [n, 8], seven joints in rad and the gripper, 1 open to 0
    closed. chunks: float32 [n, K, 8, 8], the next actions: absolute joints in rad and the gripper. things: float32
    [n, T, 3] m, position of each of the T THINGS in the base frame (NaN: not in the scene). hand: float32 [n, 3] m,
    gripper position in the base frame. instructions: int64 [n, K].
    """

    images: np.ndarray
    state: np.ndarray
    chunks: np.ndarray
    things: np.ndarray
    hand: np.ndarray
    instructions: np.ndarray
    texts: list[str]

    def save(self, path: Path) -> None:
        """Write one uncompressed .npz."""
        np.savez(path, **{**vars(self), "texts": np.array(self.texts)})

    @staticmethod
    def load(paths: Sequence[Path]) -> JointDemonstrations:
        """Load files one behind the other."""
        parts = [np.load(path) for path in paths]
        texts = sorted({str(text) for part in parts for text in part["texts"]})
        index = {text: number for number, text in enumerate(texts)}
        asked = [np.array([index[str(text)] for text in part["texts"]])[part["instructions"]] for part in parts]
        arrays = {name: np.concatenate([part[name] for part in parts]) for name in _ARRAYS}
        return JointDemonstrations(**arrays, instructions=np.concatenate(asked), texts=texts)


class JointSampler(Sampler):
    """Labels states with the joints of the expert's path, in its own workcell."""

    kind = JointDemonstrations

    def labels_of(
        self, scene: Scene, asked: Sequence[tuple[Task, ExpertPhase]]
    ) -> tuple[np.ndarray, np.ndarray, list[str]]:
        """The expert's labels for n tasks from the arm's joints now: no traces [n, 0], chunks of joints float32
        [n, 8, 8], instructions."""
        q = self.cell.arm.positions[:7]
        plans = [Expert(replace(scene, task=task)).plan(state) for task, state in asked]
        chunks = np.stack([self.joint_chunk(plan, q) for plan in plans]).astype(np.float32)
        return np.empty((len(plans), 0)), chunks, [task.instruction for task, _ in asked]

    def row(
        self, things: np.ndarray, hand: np.ndarray, held: str | None, traces: np.ndarray, actions: np.ndarray
    ) -> dict[str, np.ndarray]:
        """A row of each array of `JointDemonstrations`, by name: what cameras and joints are now, and the labels.

        things: [T, 3] m. hand: [3] m. actions: float32 [ASKED, 8, 8], as of `labels_of`.
        """
        images = [self.cell.render(camera)[0] for camera in ("front", "wrist")]
        arm = self.cell.arm
        return {
            "images": np.stack([stretch(image, VIEW).round().astype(np.uint8) for image in images]),
            "state": np.append(arm.positions[:7], arm.opening / OPEN).astype(np.float32),
            "chunks": actions, "things": things, "hand": hand.astype(np.float32),
        }  # fmt: skip

    def joint_chunk(self, plan: ExpertPlan, q: np.ndarray) -> np.ndarray:
        """The plan's next actions float64 [8, 8]: joints, rad, at its next positions and yaws with the gripper down.

        q: joints now, [7] rad; a position out of reach keeps the joints before it.
        """
        out = np.empty((CHUNK_STEPS, 8))
        for step in range(CHUNK_STEPS):
            at, row = min(step + 1, len(plan.positions) - 1), min(step, len(plan.gripper) - 1)
            if step == 0 or not (np.array_equal(plan.positions[at], plan.positions[at - 1])):
                solved = self.poser.solve(plan.positions[at], np.zeros(3), float(plan.yaws[at]))
                q = q if solved is None else solved
            out[step, :7], out[step, 7] = q, plan.gripper[row]
        return out
