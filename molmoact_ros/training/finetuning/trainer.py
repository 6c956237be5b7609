"""The training loop: steps of accumulated gradients, validation, saving, and a stop at numbers that are not finite."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from typing import Any

import torch
from torch import nn
from torch.utils.data import DataLoader

from molmoact_ros.training.finetuning.config import BETAS, EPSILON, FinetuneConfig
from molmoact_ros.training.finetuning.examples import AnswerBatch, Mixture, collate
from molmoact_ros.training.finetuning.model import AnswerLoss, parameter_groups
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.finetuning.saved_run import BEST, LAST, RunProgress, SavedRun
from molmoact_ros.training.training_run import DivergedTraining

REPORT_EVERY = 10  # steps
_STEPS_APART = 1_000_003  # seeds of dropout: a prime beyond any number of processes


class FinetuneTrainer:
    """Trains a model's adapters or weights from where the run is to its last step.

    Args:
        loss: the model in its loss, filled, and sharded where there are several processes.
        examples: by number; step n trains on the examples from n * batch on.
        config, processes: see there.
        micro_batch: examples of one forward pass of this process.
        saved: where states are saved; the run is resumed from there.
        validate: figures of the model on held-out samples, with the figure "loss"; None: no validation.
        report: called with each new entry of the history, at the first process.
    """

    def __init__(
        self, loss: AnswerLoss, examples: Mixture, config: FinetuneConfig, processes: Processes, micro_batch: int,
        saved: SavedRun, validate: Callable[[AnswerLoss], dict[str, float]] | None,
        report: Callable[[dict[str, Any]], None],
    ) -> None:  # fmt: skip
        self.loss, self.examples, self.config, self.processes = loss, examples, config, processes
        self.micro_batch, self.saved, self.validate, self.report = micro_batch, saved, validate, report
        self.optimiser = torch.optim.AdamW(
            parameter_groups(loss, config), betas=BETAS, eps=EPSILON, weight_decay=0.0, foreach=processes.count == 1
        )
        self.progress = saved.resume(loss, self.optimiser)

    def run(self) -> RunProgress:
        """Train to the last step. Raises DivergedTraining where loss or gradient is not finite."""
        self.loss.train()
        config, progress = self.config, self.progress
        if progress.step == 0 and not progress.history:
            self._validate()
        batches = iter(self._batches())
        began, tokens = time.monotonic(), 0
        while progress.step < config.steps:
            entry = self.step([next(batches) for _ in range(self.passes)])
            tokens += entry["tokens"]
            if progress.step % REPORT_EVERY == 0 or progress.step == config.steps:
                entry["tokens_per_second"] = round(tokens / max(1e-9, time.monotonic() - began), 1)
                began, tokens = time.monotonic(), 0
                self._note(entry)
            if progress.step % config.validate_every == 0 or progress.step == config.steps:
                self._validate()
            if progress.step % config.save_every == 0 or progress.step == config.steps:
                self.saved.save(self.loss, self.optimiser, progress)
        return progress

    @property
    def passes(self) -> int:
        """Forward passes of this process in one step."""
        return -(-(self.config.batch // self.processes.count) // self.micro_batch)

    def step(self, batches: list[AnswerBatch]) -> dict[str, Any]:
        """One step on this process' batches; returns its loss, gradient norm, learning rate and tokens.

        The loss is the sum over all processes' answers / their tokens. Raises DivergedTraining, with the weights as
        they were before the step.
        """
        config, processes = self.config, self.processes
        torch.manual_seed((config.seed * _STEPS_APART + self.progress.step) * processes.count + processes.rank)
        counts = torch.tensor([sum(b.answer_tokens for b in batches), sum(b.tokens for b in batches)])
        learnt, seen = processes.total(counts.to(processes.device)).tolist()
        total = torch.zeros(2, device=processes.device)
        self.optimiser.zero_grad(set_to_none=True)
        for batch in batches:
            with torch.autocast(processes.device.type, torch.bfloat16, enabled=config.dtype == "bfloat16"):
                value, entropy = self.loss(batch.to(processes.device))
            (value * (processes.count / learnt)).backward()  # FSDP takes the mean over processes
            total += torch.stack([value.detach(), entropy])
        whole, entropy = (processes.total(total) / learnt).tolist()
        norm = nn.utils.clip_grad_norm_([p for p in self.loss.parameters() if p.requires_grad], config.clip)
        found = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        if not (torch.isfinite(torch.tensor([whole, found])).all()):
            raise DivergedTraining(self._diverged(whole, found))
        factor = config.rate_factor(self.progress.step)
        for group in self.optimiser.param_groups:
            group["lr"] = group["highest"] * factor
        self.optimiser.step()
        self.progress.step += 1
        rate = max(group["lr"] for group in self.optimiser.param_groups)
        return {
            "step": self.progress.step, "loss": whole, "cross_entropy": entropy, "gradient_norm": found,
            "learning_rate": rate, "tokens": int(seen),
        }  # fmt: skip

    def _diverged(self, loss: float, norm: float) -> str:
        folder = self.saved.folder
        kept = [name for name in (BEST, LAST) if (folder / name).is_dir()]
        where = f"{folder} keeps the {' and the '.join(kept)} state" if kept else "no state was saved yet"
        return (
            f"step {self.progress.step + 1}: the loss is {loss:.4g} and its gradient {norm:.4g}; training stops and "
            f"{where}; try a lower --rate, or look at the data's statistics"
        )

    def _batches(self) -> DataLoader[Any]:
        """Batches of this process from the current step on."""
        return DataLoader(
            self.examples, batch_sampler=self._numbers(), collate_fn=collate, num_workers=self.config.workers
        )

    def _numbers(self) -> Iterator[list[int]]:
        """Numbers of the examples of each forward pass of this process."""
        count, batch = self.processes.count, self.config.batch
        for step in range(self.progress.step, self.config.steps):
            mine = list(range(step * batch + self.processes.rank, (step + 1) * batch, count))
            for first in range(0, len(mine), self.micro_batch):
                yield mine[first : first + self.micro_batch]

    def _note(self, entry: dict[str, Any]) -> None:
        self.progress.history.append(entry)
        if self.processes.first:
            self.report(entry)

    def _validate(self) -> None:
        if self.validate is None:
            return
        figures = self.validate(self.loss)
        progress = self.progress
        better = progress.best is None or figures["loss"] < progress.best
        if better:
            progress.best = figures["loss"]
        self._note({"step": progress.step, "validation": figures})
        if better:
            self.saved.save_best(self.loss, progress)
