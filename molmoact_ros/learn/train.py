"""Training of the nano model, in stages, seeded and resumable.

1. `tower`: the vision transformer learns where each object, each target and the hand is (as a released tower comes
   pre-trained). 2. `answer`: the whole model learns to answer; most batches leave the depth codes out to save time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm

from molmoact_ros.engine.checkpoint import DEPTH, load_depth_vq, save_checkpoint
from molmoact_ros.engine.model import MolmoAct, rope_tables
from molmoact_ros.engine.preprocess import patches
from molmoact_ros.learn.batches import Batch, BatchMaker, Shares, SoftTargets
from molmoact_ros.learn.demonstrations import TRAIN_SEED, VIEW, Demonstrations, collect_all
from molmoact_ros.learn.depth import depth_codes, depth_vq
from molmoact_ros.learn.nano import PATCH, nano_config
from molmoact_ros.learn.tokenizer import build_tokenizer
from molmoact_ros.reasoning.actions import NormStats
from molmoact_ros.sim.scene import GRASP_HEIGHT, OBJECTS, TARGETS, sample_scene
from molmoact_ros.sim.workcell import Workcell

STAGES = ("tower", "answer")


class StageConfig(BaseModel):
    """How one stage trains. Learning rate: linear warm-up, then cosine down to a twentieth."""

    steps: int
    batch: int
    asked: int = 1  # instructions for every moment
    shares: Shares = Shares()
    rate: float
    warm_up: int = 200


class TrainConfig(BaseModel):
    """The whole recipe."""

    seed: int = 0
    weight_decay: float = 0.05
    save_every: float = 180.0  # seconds
    tower: StageConfig = StageConfig(steps=1500, batch=32, rate=1.5e-3)
    answer: StageConfig = StageConfig(steps=6000, batch=12, asked=3, rate=1.2e-3)


def rate_at(step: int, stage: StageConfig) -> float:
    """Learning rate at a step of a stage."""
    if step < stage.warm_up:
        return stage.rate * (step + 1) / stage.warm_up
    progress = min(1.0, (step - stage.warm_up) / max(1, stage.steps - stage.warm_up))
    return float(stage.rate * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * progress))))


def object_pixels(cell: Workcell, seed: int) -> np.ndarray:
    """Where the things of a training scene lie, int [15, 2] patch (column, row) in the front view; -1 where absent.

    Order: the 12 objects, then the 3 targets. The object of the task is left out, since it may be in the hand.
    """
    scene = sample_scene(np.random.default_rng(seed))
    out = np.full((len(OBJECTS) + len(TARGETS), 2), -1)
    for placed in scene.objects[1:] + scene.targets:
        height = GRASP_HEIGHT.get(placed.name.split()[-1], 0.01)
        k = cell.intrinsics["front"]
        pixel = cell.project(np.array([[placed.x, placed.y, height]]))[0]
        names = OBJECTS + TARGETS
        out[names.index(placed.name)] = pixel / (k.width, k.height) * (VIEW[1] // PATCH, VIEW[0] // PATCH)
    return out


class TowerHead(nn.Module):
    """Scores [N, P, 17] of what stands at each patch: nothing, 12 objects, 3 targets, the hand. Thrown away later."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.linear = nn.Linear(features, len(OBJECTS) + len(TARGETS) + 2)

    def forward(self, x: Tensor) -> Tensor:
        """Tower features [N, P, features] to scores."""
        return self.linear(x)


class Trainer:
    """Holds model, optimiser and progress; `run` goes through the stages and saves as it goes."""

    def __init__(self, model: MolmoAct, makers: dict[str, Callable[[], Iterator[Any]]], config: TrainConfig, out: Path,
                 loss: dict[str, Callable[[Any], Tensor]], modules: dict[str, nn.Module]) -> None:  # fmt: skip
        self.model, self.makers, self.config, self.out = model, makers, config, out
        self.loss, self.modules = loss, modules
        self.stage, self.step = STAGES[0], 0
        self.history: list[dict[str, float | str]] = []
        self.optimiser = self._optimiser(self.stage)

    def _optimiser(self, stage: str) -> torch.optim.Optimizer:
        matrices = [p for p in self.modules[stage].parameters() if p.dim() > 1]
        rest = [p for p in self.modules[stage].parameters() if p.dim() <= 1]
        groups = [{"params": matrices, "weight_decay": self.config.weight_decay}, {"params": rest, "weight_decay": 0.0}]
        return torch.optim.AdamW(groups, lr=0.0, betas=(0.9, 0.95), foreach=True)

    def save(self) -> None:
        """Write everything that a later run needs to go on."""
        state = {
            "model": self.model.state_dict(), "optimiser": self.optimiser.state_dict(), "stage": self.stage,
            "step": self.step, "history": self.history,
        }  # fmt: skip
        torch.save(state, self.out / "progress.tmp")
        (self.out / "progress.tmp").rename(self.out / "progress.pt")
        (self.out / "history.json").write_text(json.dumps(self.history))

    def resume(self) -> bool:
        """Take up a saved run; False when there is none."""
        path = self.out / "progress.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.stage, self.step, self.history = state["stage"], state["step"], state["history"]
        self.optimiser = self._optimiser(self.stage)
        self.optimiser.load_state_dict(state["optimiser"])
        return True

    def run(self) -> None:
        """Train from where we are to the end of the last stage."""
        for stage in STAGES[STAGES.index(self.stage) :]:
            if stage != self.stage:
                self.stage, self.step, self.optimiser = stage, 0, self._optimiser(stage)
            self._run_stage(getattr(self.config, stage))
            self.save()

    def _run_stage(self, stage: StageConfig) -> None:
        batches = self.makers[self.stage]()
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
        loss = self.loss[self.stage](batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules[self.stage].parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())


def tower_labels(cell: Workcell, data: Demonstrations) -> np.ndarray:
    """What stands at each front patch, int64 [n, P]: 0 nothing, 1..15 object or target, 16 the hand."""
    rows, columns = VIEW[0] // PATCH, VIEW[1] // PATCH
    labels = np.zeros((len(data.images), rows, columns), np.int64)
    for i, grid in enumerate(labels):
        for kind, (column, row) in enumerate(object_pixels(cell, TRAIN_SEED + i)):
            if 0 <= column < columns and 0 <= row < rows:
                grid[row, column] = kind + 1
        x, y = data.trace[i, 0, 0] / 256.0 * (columns, rows)
        grid[int(y), int(x)] = len(OBJECTS) + len(TARGETS) + 1
    return labels.reshape(len(labels), -1)


def tower_batches(data: Demonstrations, labels: np.ndarray, size: int, seed: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Front views as patches [B, P, patch_dim] and their labels [B, P], without end."""
    rng = np.random.default_rng(seed)
    while True:
        rows = rng.integers(0, len(labels), size)
        crops = patches(data.images[rows, 0], PATCH) * rng.uniform(0.85, 1.15, (size, 1, 1))
        yield torch.from_numpy(crops.astype(np.float32)), torch.from_numpy(labels[rows])


def tower_loss(model: MolmoAct, head: TowerHead, batch: tuple[Tensor, Tensor]) -> Tensor:
    """Cross-entropy per patch; patches with something count more, since most hold nothing."""
    crops, labels = batch
    scores = head(model.model.vision_backbone.image_vit(crops))
    weight = torch.ones(scores.shape[-1])
    weight[0] = 0.1
    return F.cross_entropy(scores.flatten(0, 1), labels.flatten(), weight=weight)


def shared_images_forward(model: MolmoAct, batch: Batch, pooled: Tensor) -> Tensor:
    """Hidden states [B * K, S, hidden] of prompts and answers: the images are read once for all K instructions.

    The same numbers as B * K whole sequences, since what comes later never changes what the images' tokens hold.
    """
    parts, llm = model.model.transformer, model.config.llm_config
    images = model.embed(batch.prefix, model.image_features(batch.crops, pooled.expand(len(batch.crops), -1, -1)))
    words = model.embed(batch.ids, None)
    cos, sin = rope_tables(llm, llm.max_position_embeddings)
    there = (cos[: images.shape[1]], sin[: images.shape[1]])
    here = (cos[batch.positions].unsqueeze(1), sin[batch.positions].unsqueeze(1))
    asked, length = len(words) // len(images), words.shape[1]
    sees = torch.cat([torch.ones(length, images.shape[1]), torch.ones(length, length).tril()], dim=1).bool()
    for block in model.layers:
        attention = block.self_attn
        q, k, v = attention.heads(block.attn_norm(images), *there)
        q2, k2, v2 = attention.heads(block.attn_norm(words), *here)
        images = images + attention.output(q, k, v, causal=True)
        keys, values = (torch.cat([a.repeat_interleave(asked, 0), b], dim=2) for a, b in ((k, k2), (v, v2)))
        words = words + attention.output(q2, keys, values, mask=sees)
        images, words = (x + block.mlp(block.ff_norm(x)) for x in (images, words))
    return parts.ln_f(words)


def answer_loss(model: MolmoAct, maker: BatchMaker, targets: SoftTargets, batch: Batch) -> Tensor:
    """Weighted soft cross-entropy of the answers' tokens."""
    hidden = shared_images_forward(model, batch, maker.pooled)
    learnt = batch.targets >= 0
    return targets.loss(model.logits(hidden[learnt]), batch.targets[learnt])


def train_nano(robot: Path, folder: Path, samples: int, config: TrainConfig, workers: int = 2) -> MolmoAct:
    """Everything from nothing: demonstrations, depth codes, the three stages. Goes on where an earlier run stopped.

    folder: where demonstrations, progress, the loss curve and at last `checkpoint` are kept. Returns the trained model.
    """
    torch.manual_seed(config.seed)
    data = Demonstrations.load(collect_all(robot, folder / "demonstrations", samples, workers))
    tokenizer = build_tokenizer()
    stats = NormStats.from_actions(data.actions.reshape(-1, data.actions.shape[-1]))
    nano = nano_config(tokenizer, stats)
    model = MolmoAct(nano)
    model.initialise()
    head = TowerHead(len(nano.adapter_config.vit_layers) * nano.vit_config.hidden_size)
    targets = SoftTargets.of(tokenizer, nano.llm_config.vocab_size)
    maker = BatchMaker(data, nano, tokenizer)

    def tower() -> Iterator[tuple[Tensor, Tensor]]:
        cell = Workcell(robot)
        cell.reset(sample_scene(0))
        return tower_batches(data, tower_labels(cell, data), config.tower.batch, config.seed)

    def answer() -> Iterator[Batch]:
        vq, stage = depth_vq(data, folder, config.seed), config.answer
        maker.codes = partial(depth_codes, vq, data)
        return maker.forever(stage.batch, stage.asked, stage.shares, seed=config.seed + 1)

    trainer = Trainer(
        model,
        {"tower": tower, "answer": answer},
        config,
        folder,
        {
            "tower": lambda batch: tower_loss(model, head, batch),
            "answer": lambda batch: answer_loss(model, maker, targets, batch),
        },
        {"tower": nn.ModuleList([model.model.vision_backbone.image_vit, head]), "answer": model},
    )
    trainer.resume()
    trainer.run()
    save_checkpoint(folder / "checkpoint", model, tokenizer, load_depth_vq(folder / DEPTH))
    return model
