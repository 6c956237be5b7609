"""Moments that a policy meets on LIBERO by the released protocol, labelled by the scripted expert."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.evaluation.libero_policy import EnginePolicy
from molmoact_ros.evaluation.libero_rollout import play_by_protocol
from molmoact_ros.evaluation.suite_report import PlanLog
from molmoact_ros.sim.libero_cell import LiberoCell
from molmoact_ros.training.demonstrations import Demonstrations
from molmoact_ros.training.libero_demonstrations import LiberoLabeller, Sample, errand_book
from molmoact_ros.training.libero_errands import ErrandBook


class RecordingPolicy(EnginePolicy):
    """A checkpoint through the engine; `samples` are the moments at which it planned, with the expert's labels."""

    def __init__(self, engine: Engine, book: ErrandBook, rng: np.random.Generator) -> None:
        super().__init__(engine)
        self._book, self._rng, self.samples = book, rng, list[Sample]()

    def begin(self, cell: LiberoCell) -> None:
        """See LiberoPolicy."""
        super().begin(cell)
        self._labeller = LiberoLabeller(cell, self._book, self._rng)

    def look(self, cell: LiberoCell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See EnginePolicy; the moment is labelled unless something was thrown out of the scene."""
        images = super().look(cell)
        if self._labeller.intact:
            self.samples.append(self._labeller.sample(*images))
        return images


def correct_task(checkpoint: Path, number: int, first_seed: int, episodes: int, out: Path) -> None:
    """Run episodes of a task of `errand_book` in the layouts that seeds from `first_seed` on draw.

    Writes the labelled moments to `out`, and the list of successes beside it, as .json.
    """
    book, engine = errand_book(), open_engine(EngineOptions(), checkpoint)
    policy = RecordingPolicy(engine, book, np.random.default_rng(first_seed))
    cell, done = LiberoCell(book.tasks[number]), list[bool]()
    for seed in range(first_seed, first_seed + episodes):
        cell.draw(seed)
        done.append(play_by_protocol(cell, policy, seed, PlanLog()).success)
    cell.close()
    engine.close()
    out.with_suffix(".json").write_text(json.dumps(done))
    Demonstrations.of(policy.samples, book.names).save(out)
