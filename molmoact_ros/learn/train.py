"""Training of the nano model, in stages, seeded and resumable.

1. `tower`: the vision transformer learns where each object, each target and the hand is (as a released tower comes
   pre-trained). 2. `answer`: the whole model learns to answer; most batches leave the depth codes out to save time.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import matplotlib.pyplot as plt
import numpy as np
import torch
from pydantic import BaseModel
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm import tqdm, trange

from molmoact_ros.engine.checkpoint import DEPTH, load_depth_vq, save_checkpoint
from molmoact_ros.engine.model import MolmoAct, rope_tables
from molmoact_ros.engine.preprocess import patches
from molmoact_ros.learn.batches import Batch, BatchMaker, SoftTargets
from molmoact_ros.learn.demonstrations import TRAIN_SEED, VIEW, Demonstrations, collect_all
from molmoact_ros.learn.depth import depth_codes, depth_vq
from molmoact_ros.learn.nano import PATCH, initialise, nano_config
from molmoact_ros.learn.tokenizer import build_tokenizer
from molmoact_ros.reasoning.actions import NormStats
from molmoact_ros.sim.scene import GRASP_HEIGHT, OBJECTS, TARGETS, sample_scene
from molmoact_ros.sim.workcell import Workcell

STAGES = ("tower", "answer")
PLACE_WEIGHT = 10.0  # an error of a tenth of the picture counts like one nat of doubt about what it is


class StageConfig(BaseModel):
    """How one stage trains. Learning rate: linear warm-up, then cosine down to a twentieth."""

    steps: int
    batch: int
    asked: int = 1  # instructions for every moment
    depth: float = 0.2  # share of the batches that have depth codes in their answers
    rate: float
    warm_up: int = 100


class TrainConfig(BaseModel):
    """The whole recipe."""

    seed: int = 0
    weight_decay: float = 0.05
    save_every: float = 180.0  # seconds
    tower: StageConfig = StageConfig(steps=800, batch=24, rate=1e-3)
    answer: StageConfig = StageConfig(steps=4200, batch=12, asked=3, rate=1e-3)


def rate_at(step: int, stage: StageConfig) -> float:
    """Learning rate at a step of a stage."""
    if step < stage.warm_up:
        return stage.rate * (step + 1) / stage.warm_up
    progress = min(1.0, (step - stage.warm_up) / max(1, stage.steps - stage.warm_up))
    return float(stage.rate * (0.05 + 0.95 * 0.5 * (1 + np.cos(np.pi * progress))))


def object_places(cell: Workcell, seed: int) -> np.ndarray:
    """Where the things of a training scene lie in the front view, float [15, 2] in 0..1 (x, y); NaN where absent.

    Order: the 12 objects, then the 3 targets. The object of the task is left out, since it may be in the hand.
    """
    scene, names = sample_scene(np.random.default_rng(seed)), OBJECTS + TARGETS
    k, out = cell.intrinsics["front"], np.full((len(names), 2), np.nan)
    for placed in scene.objects[1:] + scene.targets:
        height = GRASP_HEIGHT.get(placed.name.split()[-1], 0.01)
        out[names.index(placed.name)] = cell.project(np.array([[placed.x, placed.y, height]]))[0] / (k.width, k.height)
    return out


class TowerHead(nn.Module):
    """What stands at each patch, and where exactly. Thrown away later."""

    def __init__(self, features: int) -> None:
        super().__init__()
        self.kind = nn.Linear(features, len(OBJECTS) + len(TARGETS) + 2)
        self.place = nn.Linear(features, 2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Tower features [N, P, features] to scores [N, P, 17] of nothing, 12 objects, 3 targets, the hand; and the
        thing's place in the picture [N, P, 2], (x, y) in 0..1."""
        return self.kind(x), self.place(x)


def draw_curves(history: list[dict[str, float | str]], picture: Path) -> None:
    """Draw the loss of each stage over its steps."""
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
    """Holds model, optimiser and progress; `run` goes through the stages and saves as it goes."""

    def __init__(
        self, model: MolmoAct, makers: dict[str, Callable[[int], Iterator[Any]]], config: TrainConfig, out: Path,
        loss: dict[str, Callable[[Any], Tensor]], modules: dict[str, nn.Module],
    ) -> None:  # fmt: skip
        """For each stage: makers, its batches from a number on; loss; modules, what it trains. out: where to save."""
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
        draw_curves(self.history, self.out / "curves.png")

    def resume(self) -> bool:
        """Take up a saved run; False when there is none."""
        path = self.out / "progress.pt"
        if not path.exists():
            return False
        state = torch.load(path, weights_only=True, map_location="cpu")
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
        loss = self.loss[self.stage](batch)
        self.optimiser.zero_grad(set_to_none=True)
        loss.backward()
        nn.utils.clip_grad_norm_(self.modules[self.stage].parameters(), 1.0)
        self.optimiser.step()
        return float(loss.detach())


def tower_labels(cell: Workcell, data: Demonstrations, first: int) -> tuple[np.ndarray, np.ndarray]:
    """What stands at each front patch, int64 [n, P]: 0 nothing, 1..15 object or target, 16 the hand; and where in the
    picture, float32 [n, P, 2] in 0..1. first: the seed of the first sample."""
    rows, columns = VIEW[0] // PATCH, VIEW[1] // PATCH
    kinds = np.zeros((len(data.images), rows * columns), np.int64)
    places = np.zeros((*kinds.shape, 2), np.float32)
    for i in trange(len(kinds), desc="labels of the tower", mininterval=5):
        things = [*object_places(cell, first + i), data.trace[i, 0, 0] / 256.0]
        for kind, (x, y) in enumerate(things, start=1):
            if 0 <= x < 1 and 0 <= y < 1:
                patch = int(y * rows) * columns + int(x * columns)
                kinds[i, patch], places[i, patch] = kind, (x, y)
    return kinds, places


def tower_batches(
    data: Demonstrations, labels: tuple[np.ndarray, np.ndarray], size: int, seed: int, first: int
) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
    """Front views as patches [B, P, patch_dim] and their labels [B, P] and [B, P, 2], without end.

    first: the batch to begin with.
    """
    for number in count(first):
        rng = np.random.default_rng((seed, number))
        rows = rng.integers(0, len(labels[0]), size)
        crops = patches(data.images[rows, 0], PATCH) * rng.uniform(0.85, 1.15, (size, 1, 1))
        kinds, places = (torch.from_numpy(x[rows]) for x in labels)
        yield torch.from_numpy(crops.astype(np.float32)), kinds, places


def tower_loss(model: MolmoAct, head: TowerHead, batch: tuple[Tensor, Tensor, Tensor]) -> Tensor:
    """Cross-entropy per patch, where something counts more, since most hold nothing; and the error of the places."""
    crops, kinds, places = (t.to(head.kind.weight.device) for t in batch)
    scores, found = head(model.model.vision_backbone.image_vit(crops))
    weight = torch.ones(scores.shape[-1], device=scores.device)
    weight[0] = 0.1
    there = kinds > 0
    error = F.l1_loss(found[there], places[there])
    return F.cross_entropy(scores.flatten(0, 1), kinds.flatten(), weight=weight) + PLACE_WEIGHT * error


def shared_images_forward(model: MolmoAct, batch: Batch, pooled: Tensor) -> Tensor:
    """Hidden states [B * K, S, hidden] of prompts and answers: the images are read once for all K instructions.

    The same numbers as B * K whole sequences, since what comes later never changes what the images' tokens hold.
    """
    parts, llm = model.model.transformer, model.config.llm_config
    images = model.embed(batch.prefix, model.image_features(batch.crops, pooled.expand(len(batch.crops), -1, -1)))
    words = model.embed(batch.ids, None)
    cos, sin = (table.to(images.device) for table in rope_tables(llm, llm.max_position_embeddings))
    there = (cos[: images.shape[1]], sin[: images.shape[1]])
    here = (cos[batch.positions].unsqueeze(1), sin[batch.positions].unsqueeze(1))
    asked, length = len(words) // len(images), words.shape[1]
    sees = torch.ones(length, images.shape[1] + length, dtype=torch.bool, device=images.device).tril(images.shape[1])
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
    """Weighted soft cross-entropy of the answers' tokens, on the model's device."""
    batch = batch.to(model.lm_head.weight.device)
    hidden = shared_images_forward(model, batch, maker.pooled.to(model.lm_head.weight.device))
    learnt = batch.targets >= 0
    return targets.loss(model.logits(hidden[learnt]), batch.targets[learnt])


def train_nano(robot: Path, folder: Path, samples: int, config: TrainConfig, workers: int = 2) -> MolmoAct:
    """Everything from nothing: demonstrations, depth codes, the two stages. Goes on where an earlier run stopped.

    folder: where demonstrations, progress, the loss curve and at last `checkpoint` are kept. Returns the trained model.
    """
    torch.manual_seed(config.seed)
    data = Demonstrations.load(collect_all(robot, folder / "demonstrations", samples, workers))
    tokenizer = build_tokenizer()
    stats = NormStats.from_actions(data.actions.reshape(-1, data.actions.shape[-1]))
    nano = nano_config(tokenizer, stats)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    model = MolmoAct(nano)
    initialise(model, tokenizer)
    model.to(device)
    head = TowerHead(len(nano.adapter_config.vit_layers) * nano.vit_config.hidden_size).to(device)
    targets = SoftTargets.of(tokenizer, nano.llm_config.vocab_size).to(device)
    maker = BatchMaker(data, nano, tokenizer)

    def tower(first: int) -> Iterator[tuple[Tensor, Tensor, Tensor]]:
        cell = Workcell(robot)
        cell.reset(sample_scene(0))
        return tower_batches(data, tower_labels(cell, data, TRAIN_SEED), config.tower.batch, config.seed, first)

    def answer(first: int) -> Iterator[Batch]:
        vq, stage = depth_vq(data, folder, config.seed), config.answer
        maker.codes = partial(depth_codes, vq, data)
        return maker.batches(stage.batch, stage.asked, stage.depth, config.seed, first)

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
    save_checkpoint(folder / "checkpoint", model.cpu(), tokenizer, load_depth_vq(folder / DEPTH))
    return model
