"""Trains the nano model in stages, seeded and resumable.

1. `vision`: the image tokens learn to identify and locate objects. 2. `answer`: the whole model learns to generate
answers; most batches omit the depth codes to save time. 3. `action`: the same, but action values that differ from the
previous action's weigh most, and half of the batches have a stroke drawn on the image.
"""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from tqdm import tqdm

from molmoact_ros.engine.model.checkpoint import DEPTH, load_checkpoint, load_depth_vq
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.training.data_loader import Batch, BatchMaker, SoftTargets
from molmoact_ros.training.demonstrations import Demonstrations, collect_all
from molmoact_ros.training.nano_model import initialise, nano_config, save_nano
from molmoact_ros.training.stage_answers import SpaceHead, answer_loss
from molmoact_ros.training.stage_depth_vq import depth_codes, depth_vq
from molmoact_ros.training.stage_vision import VisionHead, vision_batches, vision_loss
from molmoact_ros.training.tokenizer import build_tokenizer

STAGES = ("vision", "answer", "action")


class StageConfig(BaseModel):
    """Hyperparameters of one stage. Learning rate: linear warm-up, then cosine decay to a twentieth."""

    steps: int
    batch: int
    asked: int = 1  # instructions per state
    depth: float = 0.2  # fraction of batches with depth codes in their answers
    news: float = 1.0  # weight of action values that differ from the previous action's
    steered: float = 0.0  # fraction of batches with strokes on their images
    rate: float
    warm_up: int = 100


class TrainConfig(BaseModel):
    """Hyperparameters of all stages."""

    seed: int = 0
    weight_decay: float = 0.05
    save_every: float = 180.0  # seconds
    vision: StageConfig = StageConfig(steps=1500, batch=24, rate=1e-3)
    answer: StageConfig = StageConfig(steps=4000, batch=12, asked=3, rate=1e-3)
    action: StageConfig = StageConfig(steps=8000, batch=16, asked=3, depth=0.1, news=16.0, steered=0.5, rate=1e-3)


def rate_at(step: int, stage: StageConfig) -> float:
    """The learning rate at a step of a stage."""
    if step < stage.warm_up:
        return stage.rate * (step + 1) / stage.warm_up
    progress = min(1.0, (step - stage.warm_up) / max(1, stage.steps - stage.warm_up))
    return float(stage.rate * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * progress))))


def draw_curves(history: list[dict[str, float | str]], picture: Path) -> None:
    """Plot the loss of each stage over its steps."""
    figure, axes = plt.subplots(1, len(STAGES), figsize=(5 * len(STAGES), 3.5), squeeze=False)
    for stage, ax in zip(STAGES, axes[0], strict=True):
        points = [(entry["step"], entry["loss"]) for entry in history if entry["stage"] == stage]
        if points:
            ax.plot(*zip(*points, strict=True), linewidth=0.8)
        ax.set(title=stage, xlabel="step", ylabel="loss")
    figure.tight_layout()
    figure.savefig(picture)
    plt.close(figure)


class Trainer:
    """Holds modules, optimiser and progress; `run` trains all stages and saves regularly."""

    def __init__(
        self, makers: dict[str, Callable[[int], Iterator[Any]]], config: TrainConfig, out: Path,
        loss: dict[str, Callable[[Any], Tensor]], modules: dict[str, nn.Module],
    ) -> None:  # fmt: skip
        """For each stage, makers: its batches from a number on; loss; modules: what it trains. out: output folder."""
        self.makers, self.config, self.out = makers, config, out
        self.loss, self.modules = loss, nn.ModuleDict(modules)
        self.stage, self.step = STAGES[0], 0
        self.history: list[dict[str, float | str]] = []
        self.optimiser = self._optimiser(self.stage)

    def _optimiser(self, stage: str) -> torch.optim.Optimizer:
        matrices = [p for p in self.modules[stage].parameters() if p.dim() > 1]
        rest = [p for p in self.modules[stage].parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": self.config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=True)

    def save(self) -> None:
        """Write everything that a later run needs to resume."""
        state = {
            "modules": self.modules.state_dict(), "optimiser": self.optimiser.state_dict(), "stage": self.stage,
            "step": self.step, "history": self.history,
        }  # fmt: skip
        torch.save(state, self.out / "progress.tmp")
        (self.out / "progress.tmp").rename(self.out / "progress.pt")
        (self.out / "history.json").write_text(json.dumps(self.history))
        draw_curves(self.history, self.out / "curves.png")

    def resume(self) -> bool:
        """Load a saved run; False if there is none."""
        path = self.out / "progress.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location="cpu")
        self.modules.load_state_dict(state["modules"])
        self.stage, self.step, self.history = state["stage"], state["step"], state["history"]
        self.optimiser = self._optimiser(self.stage)
        self.optimiser.load_state_dict(state["optimiser"])
        return True

    def skip_to(self, stage: str) -> None:
        """Skip the stages before `stage`."""
        self.stage, self.step, self.optimiser = stage, 0, self._optimiser(stage)

    def run(self) -> None:
        """Train from the current step to the end of the last stage."""
        for stage in STAGES[STAGES.index(self.stage) :]:
            if stage != self.stage:
                self.skip_to(stage)
            self._run_stage(getattr(self.config, stage))
            self.save()

    def _run_stage(self, stage: StageConfig) -> None:
        batches = self.makers[self.stage](self.step)
        saved = time.monotonic()
        with tqdm(total=stage.steps, initial=self.step, desc=self.stage, unit="step", mininterval=5) as bar:
            while self.step < stage.steps:
                loss = self._update(next(batches), rate_at(self.step, stage))
                self.step += 1
                bar.update()
                if self.step % 20 == 0:
                    self.history.append({"stage": self.stage, "step": self.step, "loss": loss})
                    bar.set_postfix(loss=f"{loss:.3f}")
                if time.monotonic() - saved > self.config.save_every:
                    self.save()
                    saved = time.monotonic()

    def _update(self, batch: Any, rate: float) -> float:
        for group in self.optimiser.param_groups:
            group["lr"] = rate
        device = next(self.modules.parameters()).device
        with torch.autocast(device.type, torch.bfloat16):  # halves the time on CPUs with bfloat16
            loss = self.loss[self.stage](batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules[self.stage].parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())


def train_nano(
    robot: Path, folder: Path, samples: int, config: TrainConfig, start: Path | None = None, workers: int = 2
) -> MolmoAct:
    """Train the nano model from scratch: demonstrations, depth codes, all stages. It resumes an interrupted run.

    Args:
        robot: the arm's MJCF file.
        folder: receives demonstrations, progress, the loss curve and finally `checkpoint`.
        samples: number of demonstrations.
        config: the hyperparameters.
        start: a checkpoint to fine-tune in the last stage only, instead of training new weights in all stages.
        workers: processes that collect demonstrations.

    Returns the trained model.
    """
    torch.manual_seed(config.seed)
    begun = None if start is None else load_checkpoint(start)
    data = Demonstrations.load(collect_all(robot, folder / "demonstrations", samples, workers))
    tokenizer = build_tokenizer()
    stats = NormStats.from_actions(data.actions.reshape(-1, data.actions.shape[-1]))
    nano = nano_config(tokenizer, stats) if begun is None else begun.config
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MolmoAct(nano)
    initialise(model, tokenizer)
    model.to(device)
    width = nano.llm_config.hidden_size
    head, space = VisionHead(width).to(device), SpaceHead(width).to(device)
    targets = SoftTargets.of(tokenizer, nano.llm_config.vocab_size).to(device)
    maker = BatchMaker(data, nano, tokenizer)

    def vision(first: int) -> Iterator[tuple[Tensor, Tensor]]:
        return vision_batches(data, config.vision.batch, config.seed, first)

    def answers(stage: StageConfig, first: int) -> Iterator[Batch]:
        vq = depth_vq(data, folder, config.seed)
        maker.codes = partial(depth_codes, vq, data)
        return maker.batches(stage.batch, stage.asked, stage.depth, config.seed, first, stage.steered)

    def loss(stage: StageConfig, batch: Batch) -> Tensor:
        return answer_loss(model, space, maker, targets, batch, stage.news)

    answering = nn.ModuleList([model, space])
    trainer = Trainer(
        {"vision": vision, "answer": partial(answers, config.answer), "action": partial(answers, config.action)},
        config,
        folder,
        {
            "vision": lambda batch: vision_loss(model, head, maker, batch),
            "answer": partial(loss, config.answer),
            "action": partial(loss, config.action),
        },
        {"vision": nn.ModuleList([model.model.vision_backbone, head]), "answer": answering, "action": answering},
    )
    if not trainer.resume() and start is not None and begun is not None:
        shutil.copy(start / DEPTH, folder / DEPTH)  # the codebook that the weights were trained with
        model.load_state_dict(begun.model.state_dict())
        trainer.skip_to(STAGES[-1])
    trainer.run()
    save_nano(folder / "checkpoint", model.cpu(), tokenizer, load_depth_vq(folder / DEPTH))
    return model
