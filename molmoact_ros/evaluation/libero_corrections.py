"""Rounds of correction on LIBERO: the policy runs by the released protocol, and the expert labels what it meets."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.evaluation.libero_policy import EnginePolicy
from molmoact_ros.evaluation.libero_rollout import play_by_protocol
from molmoact_ros.evaluation.suite_report import PlanLog
from molmoact_ros.sim.libero_cell import LiberoCell
from molmoact_ros.training.demonstrations import Demonstrations, save_rows
from molmoact_ros.training.libero_demonstrations import LiberoLabeller, Sample, errand_book
from molmoact_ros.training.libero_errands import ErrandBook
from molmoact_ros.training.met_states import CorrectionRound
from molmoact_ros.training.part_files import make_parts
from molmoact_ros.utils.whole_file import write_whole


class RecordingPolicy(EnginePolicy):
    """A checkpoint through the engine; `samples` are the moments at which it planned, with the expert's labels."""

    def __init__(self, engine: Engine, book: ErrandBook, rng: np.random.Generator) -> None:
        super().__init__(engine)
        self._book, self._rng, self.samples = book, rng, list[Sample]()

    def begin(self, cell: LiberoCell) -> None:
        """See LiberoPolicy."""
        super().begin(cell)
        self._labeller = LiberoLabeller(cell, self._book, self._rng)

    def camera_images(self, cell: LiberoCell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """See EnginePolicy: uint8 [H, W, 3] twice, float32 [H, W]. The moment is labelled unless something has left the
        scene."""
        images = super().camera_images(cell)
        if self._labeller.intact:
            self.samples.append(self._labeller.sample(*images))
        return images


def collect_libero_corrections(
    order: CorrectionRound, tasks: Sequence[int], workers: int
) -> tuple[list[Path], dict[str, float]]:
    """Run a round's episodes, as many of each task of `errand_book`, and label each moment at which the policy planned.

    A file for each task is made by `workers` processes; existing files are kept. Returns the files of `Demonstrations`,
    and the figures of all episodes: how many, and the share of success.
    """
    each, jobs = max(1, order.episodes // len(tasks)), dict[Path, tuple[Any, ...]]()
    for n, task in enumerate(tasks):
        out = order.folder / f"part{task:03d}.npz"
        jobs[out] = order, task, order.first_seed + n * each, each, out
    files = make_parts(correct_task, jobs, workers)
    done = [success for file in files for success in json.loads(file.with_suffix(".json").read_text())]
    print(f"{order.folder.name}: {sum(done)} of {len(done)} episodes", flush=True)
    return files, {"episodes": len(done), "success": sum(done) / len(done)}


def correct_task(order: CorrectionRound, number: int, first_seed: int, episodes: int, out: Path) -> None:
    """Run episodes of a task, in the layouts that seeds from `first_seed` on draw.

    Their moments become the file `out`, the list of their successes a JSON file beside it.
    """
    book, engine = errand_book(), open_engine(EngineOptions(device=order.device, vision="torch"), order.checkpoint)
    policy = RecordingPolicy(engine, book, np.random.default_rng(first_seed))
    cell, done = LiberoCell(book.tasks[number]), list[bool]()
    for seed in range(first_seed, first_seed + episodes):
        cell.draw(seed)
        done.append(play_by_protocol(cell, policy, seed, PlanLog()).success)
    cell.close()
    engine.close()
    write_whole(out.with_suffix(".json"), json.dumps(done))
    save_rows(policy.samples, out, partial(Demonstrations, names=book.names))
