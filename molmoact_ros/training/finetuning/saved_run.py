"""The folder of a run: what it was begun with, its last and its best state, and its history.

OUT/training/run.json       settings, checkpoint and data; a run is resumed only with the same
OUT/training/last, best     trained parameters, with the optimiser in `last`; written beside and then renamed
OUT/training/history.json   losses and validations by step; curves.png shows them
"""

from __future__ import annotations

import json
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.distributed.checkpoint as dcp
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.training.finetuning.model import AnswerLoss
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.training_run import begin_run, check_run

LAST, BEST, BEGUN, HISTORY, PROGRESS = "last", "best", "run.json", "history.json", "progress.json"
_TRAINED = StateDictOptions(ignore_frozen_params=True, strict=False)


@dataclass
class RunProgress:
    """How far a run is. best: the lowest validation loss so far. history: one entry a report, in order."""

    step: int = 0
    best: float | None = None
    history: list[dict[str, Any]] = field(default_factory=list)


class SavedRun:
    """Saves a run's state in `folder` and finds it again."""

    def __init__(self, folder: Path, processes: Processes) -> None:
        self.folder, self.processes = folder, processes

    def begin(self, settings: dict[str, Any]) -> None:
        """Write down what the run is begun with. Raises CheckpointError where another one was begun here."""
        path = self.folder / BEGUN
        if self.processes.first:
            begin_run(path, settings)
        self.processes.wait()
        check_run(path, settings, self.folder.parent)

    def save(self, loss: AnswerLoss, optimiser: torch.optim.Optimizer, progress: RunProgress) -> None:
        """Save everything that a resumed run needs, as `last`."""
        state = {
            "model": get_model_state_dict(loss, options=_TRAINED),
            "optimiser": get_optimizer_state_dict(loss, optimiser, options=_TRAINED),
        }
        self._write(LAST, state, progress)

    def save_best(self, loss: AnswerLoss, progress: RunProgress) -> None:
        """Save the trained parameters as `best`."""
        self._write(BEST, {"model": get_model_state_dict(loss, options=_TRAINED)}, progress)

    def resume(self, loss: AnswerLoss, optimiser: torch.optim.Optimizer) -> RunProgress:
        """Load `last` where there is one, and say how far it was."""
        folder = self._found(LAST)
        if folder is None:
            return RunProgress()
        state: dict[str, Any] = {
            "model": get_model_state_dict(loss, options=_TRAINED),
            "optimiser": get_optimizer_state_dict(loss, optimiser, options=_TRAINED),
        }
        self._read(folder, state)
        set_model_state_dict(loss, state["model"], options=_TRAINED)
        set_optimizer_state_dict(loss, optimiser, state["optimiser"], options=_TRAINED)
        return RunProgress(**json.loads((folder / PROGRESS).read_text()))

    def load_best(self, loss: AnswerLoss) -> int | None:
        """Load `best` where there is one; returns its step."""
        folder = self._found(BEST)
        if folder is None:
            return None
        state: dict[str, Any] = {"model": get_model_state_dict(loss, options=_TRAINED)}
        self._read(folder, state)
        set_model_state_dict(loss, state["model"], options=_TRAINED)
        return int(json.loads((folder / PROGRESS).read_text())["step"])

    def _found(self, name: str) -> Path | None:
        """The saved state `name`; where saving it was cut off between two renames, the one before."""
        return next((path for path in (self.folder / name, self._old(name)) if path.is_dir()), None)

    def _old(self, name: str) -> Path:
        return self.folder / f"{name}.old"

    def _read(self, folder: Path, state: dict[str, Any]) -> None:
        try:
            with _quietly():
                dcp.load(state, checkpoint_id=folder, no_dist=self.processes.count == 1)
        except (dcp.CheckpointException, OSError, RuntimeError) as error:
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise CheckpointError(f"{folder} cannot be read ({reason}); remove it to go on from before") from None

    def _write(self, name: str, state: dict[str, Any], progress: RunProgress) -> None:
        target, beside, old = self.folder / name, self.folder / f"{name}.partial", self._old(name)
        if self.processes.first:
            shutil.rmtree(beside, ignore_errors=True)
        self.processes.wait()
        with _quietly():
            dcp.save(state, checkpoint_id=beside, no_dist=self.processes.count == 1)
        self.processes.wait()
        if self.processes.first:
            (beside / PROGRESS).write_text(json.dumps(vars(progress)))
            if target.is_dir():
                shutil.rmtree(old, ignore_errors=True)
                target.rename(old)
            beside.rename(target)
            shutil.rmtree(old, ignore_errors=True)
            (self.folder / HISTORY).write_text(json.dumps(progress.history, indent=1))
        self.processes.wait()


def trained_tensors(loss: AnswerLoss) -> dict[str, torch.Tensor]:
    """The whole trained parameters [...] on the CPU, by their names in the model; of several processes, at the first.

    On one CPU they are the parameters themselves, no copies.
    """
    options = StateDictOptions(full_state_dict=True, cpu_offload=True, ignore_frozen_params=True)
    found: dict[str, Any] = get_model_state_dict(loss, options=options)
    return {name.removeprefix("model."): tensor for name, tensor in found.items()}


@contextmanager
def _quietly() -> Iterator[None]:
    """Without torch's warning that a single process is alone."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "torch.distributed is disabled", UserWarning)
        yield
