"""One fine-tuning run from the folders that are given to the folder that comes out."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molmoact_ros.engine.checkpoint_folders import AnyFolder, open_folder
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.weight_files import CheckpointError, digest
from molmoact_ros.training.finetuning.arrow_data import ArrowData
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.examples import ExampleMaker, Maker, Mixture
from molmoact_ros.training.finetuning.flow_examples import FlowExampleMaker, chunk_length
from molmoact_ros.training.finetuning.joint_motion import JointRows
from molmoact_ros.training.finetuning.losses import TrainingLoss
from molmoact_ros.training.finetuning.memory import (
    USABLE,
    MemoryEstimate,
    SequenceSizes,
    advice,
    available,
    choose_micro_batch,
    estimate,
    gigabytes,
)
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.finetuning.processes import Processes, joined
from molmoact_ros.training.finetuning.reports import RunReporter
from molmoact_ros.training.finetuning.result import (
    model_card,
    save_adapter,
    state_answers,
    state_flows,
    write_result,
)
from molmoact_ros.training.finetuning.samples import DataError, TrainingData, hold_out
from molmoact_ros.training.finetuning.saved_run import RunProgress, SavedRun, trained_tensors
from molmoact_ros.training.finetuning.trainer import FinetuneTrainer
from molmoact_ros.training.finetuning.validation import AnswerValidator, FlowValidator, Validator

LOOKED_AT = 64  # examples, for the sizes of sequences


@dataclass(frozen=True)
class FinetuneFolders:
    """The folders of a run. rehearse: data of what the checkpoint knows already, mixed in; None: none."""

    checkpoint: Path
    data: Path
    out: Path
    rehearse: Path | None = None


def finetune(
    folders: FinetuneFolders, config: FinetuneConfig, device: str = "", tensorboard: bool = False,
    check_memory: bool = True, say: Callable[[str], None] = print,
) -> RunProgress:  # fmt: skip
    """Fine-tune a checkpoint, or resume a run in `folders.out`; at its end that folder is a checkpoint too.

    device: cpu or cuda; empty: a GPU where there is one. check_memory: refuse a run that is not estimated to fit. say:
    receives what the run will need, before it starts.

    Raises CheckpointError, DataError and DivergedTraining, in one line that says what to do.
    """
    with joined(device) as processes:
        return _Run(folders, config, processes, say).run(tensorboard, check_memory)


def open_examples(files: AnyFolder, folder: Path, config: FinetuneConfig) -> tuple[TrainingData[Any], Maker]:
    """Open a labelled data set, and what makes a family's examples of it. Raises DataError and CheckpointError."""
    if not folder.is_dir():
        raise DataError(f"there is no data set {folder}; give the folder that `molmoact-ros label` wrote")
    if isinstance(files, CheckpointFolder):
        labelled = ArrowData(folder)
        return labelled, ExampleMaker(files, labelled, config.wording)
    joints = JointRows(folder, chunk_length(files))
    return joints, FlowExampleMaker(files, joints)


class _Run:
    """The parts of one run, made in order."""

    def __init__(
        self, folders: FinetuneFolders, config: FinetuneConfig, processes: Processes, say: Callable[[str], None]
    ) -> None:
        self.folders, self.config, self.processes = folders, config, processes
        self.say = say if processes.first else lambda text: None
        self.files = open_folder(folders.checkpoint)
        out, training = folders.out, folders.out / "training"
        if out.exists() and any(out.iterdir()) and not training.is_dir():
            raise CheckpointError(f"{out} holds something else; give an --out that does not exist, or a run's")
        if config.batch % processes.count:
            raise CheckpointError(f"a batch of {config.batch} cannot be shared by {processes.count} processes")
        if config.quantize and (config.method is not Method.LORA or processes.count > 1 or config.dtype != "bfloat16"):
            raise CheckpointError("--quantize is for --method lora, --dtype bfloat16 and one process")
        paths = [path for path in (folders.data, folders.rehearse) if path is not None]
        opened = [open_examples(self.files, path, config) for path in paths]
        self.data, self.makers = [data for data, _ in opened], [maker for _, maker in opened]
        self._check_cameras()
        self._check_keys()
        self.train_rows, self.held_rows = hold_out(self.data[0].episodes, config.validation, config.seed)
        rehearsed = [np.arange(len(data)) for data in self.data[1:]]
        sources = list(zip(self.data, self.makers, [self.train_rows, *rehearsed], strict=True))
        self.mixture = Mixture(sources, config)
        self.saved = SavedRun(training, processes)

    def run(self, tensorboard: bool, check_memory: bool) -> RunProgress:
        config, processes = self.config, self.processes
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # its threads do not survive the fork of workers
        if processes.device.type == "cuda":  # attention and scatters of one device give the same bits again
            os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
            torch.use_deterministic_algorithms(True, warn_only=True)
        loss = build_model(self.files, config)
        micro_batch = self._account(loss, check_memory)
        self.saved.begin(self._settings())
        processes.shard(loss)
        fill_model(loss, self.files, config, processes.device)
        validator = None
        if len(self.held_rows):
            kind: type[Validator] = AnswerValidator if isinstance(self.files, CheckpointFolder) else FlowValidator
            validator = kind(self.files, self.makers[0], self.data[0], self.held_rows, config, processes).figures
        reporter = RunReporter(self.saved.folder, config.steps, tensorboard) if processes.first else _ignore
        trainer = FinetuneTrainer(loss, self.mixture, config, processes, micro_batch, self.saved, validator, reporter)
        try:
            progress = trainer.run()
        finally:
            if isinstance(reporter, RunReporter):
                reporter.close(trainer.progress)
        self._write(loss, progress)
        return progress

    def _check_cameras(self) -> None:
        for data, maker in zip(self.data, self.makers, strict=True):
            if (mine := maker.cameras) != (first := self.makers[0].cameras):
                raise DataError(f"{data.name} has {mine} cameras and {self.data[0].name} {first}; they cannot be mixed")
            wanted = self.files.run.cameras if isinstance(self.files, CheckpointFolder) else None
            if wanted is not None and wanted != mine:
                raise DataError(f"{data.name} has {mine} cameras, and {self.files.path} was trained with {wanted}")

    def _check_keys(self) -> None:
        """Under one key a checkpoint has one meaning of the action tokens."""
        (first, maker), *others = zip(self.data, self.makers, strict=True)
        if any(data.name == first.name and other.scale != maker.scale for data, other in others):
            raise DataError(
                f"the rehearsal data have the key {first.name!r} with other statistics; label the data by theirs, with "
                "--statistics, or under another --key"
            )

    def _settings(self) -> dict[str, Any]:
        """What must be the same when the run is resumed."""
        digests: dict[str, str] = {}
        for data in self.data:  # whose keys may be the same
            digests[data.name] = digests.get(data.name, "") + data.identity["digest"]
        return {"settings": self.config.fixed(), "checkpoint": digest(self.folders.checkpoint), "data": digests}

    def _account(self, loss: TrainingLoss[Any], check_memory: bool) -> int:
        """Say what the run needs; returns the size of a forward pass. Raises CheckpointError where it does not fit."""
        config, processes = self.config, self.processes
        count = min(len(self.train_rows), LOOKED_AT)
        sizes = SequenceSizes.of([self.mixture[number] for number in range(count)])
        cuda = processes.device.type == "cuda"
        free = available(processes.device) / (1 if cuda else processes.count)
        micro_batch = choose_micro_batch(loss, config, sizes, processes.count, free, cuda)
        need = estimate(loss, config, sizes, micro_batch, processes.count, cuda)
        self._say_plan(loss, sizes, micro_batch, need, free)
        if check_memory and need.total > USABLE * free:
            todo = advice(self.files, config, sizes, processes.count, free, cuda)
            raise CheckpointError(f"needs {gigabytes(need.total)}; you have {gigabytes(free)}: {todo}")
        return micro_batch

    def _say_plan(
        self, loss: TrainingLoss[Any], sizes: SequenceSizes, micro_batch: int, need: MemoryEstimate, free: float
    ) -> None:
        config = self.config
        trained = sum(p.numel() for p in loss.parameters() if p.requires_grad)
        whole = sum(p.numel() for p in loss.parameters())
        for data in self.data:
            known = data.identity
            self.say(f"data {data.name}: {known['samples']} samples of {known['episodes']} episodes in {known['path']}")
            for note in data.notes:
                self.say(f"data {data.name}: {note}")
        self.say(f"held out: {len(self.held_rows)} samples; {self.makers[0].note}")
        self.say(f"trained: {trained / 1e6:,.2f} of {whole / 1e6:,.2f} million parameters ({config.method.value})")
        tokens = sizes.mean_tokens * config.batch
        self.say(
            f"tokens: {sizes.mean_tokens:.0f} an example, at most {sizes.tokens}; {tokens:,.0f} a step, "
            f"{tokens * config.steps / 1e6:,.1f} million in {config.steps} steps"
        )
        self.say(
            f"memory: {need} of {gigabytes(free)} on each of {self.processes.count} device(s), "
            f"{micro_batch} example(s) a pass"
        )

    def _write(self, loss: TrainingLoss[Any], progress: RunProgress) -> None:
        """Write the result from the best state where there was a validation, else from the last one."""
        config, folder = self.config, self.saved.folder
        lora = config.method is Method.LORA
        last = trained_tensors(loss)
        if lora and self.processes.first:
            save_adapter(folder / "last-adapter", loss, last, config, self.folders.checkpoint)
        step = self.saved.load_best(loss)
        tensors = last if step is None else trained_tensors(loss)
        if self.processes.first:
            adapter = folder / "best-adapter" if lora else None
            if adapter is not None:
                save_adapter(adapter, loss, tensors, config, self.folders.checkpoint)
            step = progress.step if step is None else step
            figures = {e["step"]: e["validation"] for e in progress.history if "validation" in e}
            card = model_card(
                self.folders.out, self.folders.checkpoint, digest(self.folders.checkpoint),
                [data.identity for data in self.data], config, step, figures.get(0, {}), figures.get(step, {}),
                [note for data in self.data for note in data.notes],
            )  # fmt: skip
            state: Callable[..., None] = state_answers if isinstance(self.files, CheckpointFolder) else state_flows
            stated = partial(state, self.files, self.makers)
            write_result(self.folders.out, self.files, tensors, adapter, card, stated)
        self.processes.wait()


def _ignore(entry: dict[str, Any]) -> None:
    """A report that goes nowhere."""
