"""Trains the nano model in stages, seeded and resumable.

1. `vision`: the image tokens learn to identify and locate objects. 2. `answer`: the whole model learns to generate
answers; most batches omit the depth codes to save time. 3. `action`: the same, but action values that differ from the
previous action's weigh most, and half of the batches have a stroke drawn on the image.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tokenizers import Tokenizer
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import DEPTH, load_checkpoint, load_depth_vq
from molmoact_ros.engine.model.config import MolmoActConfig, ProcessorConfig
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.training.data_loader import Batch, BatchMaker, SoftTargets
from molmoact_ros.training.demonstrations import Demonstrations, collect_all
from molmoact_ros.training.nano_model import PROCESSOR, initialise, nano_config, save_nano
from molmoact_ros.training.stage_answers import SpaceHead, answer_loss
from molmoact_ros.training.stage_depth_vq import depth_codes, depth_vq
from molmoact_ros.training.stage_vision import VisionHead, vision_batches, vision_loss
from molmoact_ros.training.tokenizer import build_tokenizer
from molmoact_ros.training.training_run import (
    Stage,
    StageConfig,
    StageTimes,
    TrainingRun,
    TrainingRunConfig,
    begin_run,
    check_run,
)

LAST_STAGE = "action"


class AnswerStageConfig(StageConfig):
    """Hyperparameters of a stage that trains whole answers."""

    asked: int = 1  # instructions per state
    depth: float = 0.2  # fraction of batches with depth codes in their answers
    news: float = 1.0  # weight of action values that differ from the previous action's
    steered: float = 0.0  # fraction of batches with strokes on their images


class TrainConfig(TrainingRunConfig):
    """Hyperparameters of all stages."""

    vision: StageConfig = StageConfig(steps=1500, batch=24, rate=1e-3)
    answer: AnswerStageConfig = AnswerStageConfig(steps=4000, batch=12, asked=3, rate=1e-3)
    action: AnswerStageConfig = AnswerStageConfig(
        steps=8000, batch=16, asked=3, depth=0.1, news=16.0, steered=0.5, rate=1e-3
    )

    def fixed(self, samples: int) -> dict[str, Any]:
        """What must be the same when a run is resumed."""
        return {"samples": samples, "settings": self.model_dump(exclude={"save_every", "ahead"})}


class NanoRecipe:
    """Modules, data and stages of a model of the nano's kind, whatever it is trained to do."""

    def __init__(
        self, data: Demonstrations, folder: Path, config: TrainConfig, tokenizer: Tokenizer, nano: MolmoActConfig,
        processor: ProcessorConfig = PROCESSOR,
    ) -> None:  # fmt: skip
        """folder: receives the depth codec. nano: the model's configuration."""
        torch.manual_seed(config.seed)
        self.data, self.folder, self.config, self.tokenizer = data, folder, config, tokenizer
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model = MolmoAct(nano)
        initialise(self.model, self.tokenizer)
        self.model.to(device)
        width = nano.llm_config.hidden_size
        self.head, self.space = VisionHead(width).to(device), SpaceHead(width).to(device)
        self.targets = SoftTargets.of(self.tokenizer, nano.llm_config.vocab_size).to(device)
        self.maker = BatchMaker(data, nano, self.tokenizer, processor)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that is trained."""
        return {"model": self.model, "head": self.head, "space": self.space}

    def stages(self) -> dict[str, Stage]:
        """The stages in order."""
        return {
            "vision": self._vision(), "answer": self._answers(self.config.answer),
            LAST_STAGE: self._answers(self.config.action),
        }  # fmt: skip

    def _vision(self) -> Stage:
        config = self.config.vision
        return Stage(
            config,
            nn.ModuleList([self.model.model.vision_backbone, self.head]),
            partial(vision_batches, self.data, config.batch, self.config.seed),
            lambda batch: vision_loss(self.model, self.head, self.maker, batch),
        )

    def _answers(self, config: AnswerStageConfig) -> Stage:
        return self._answer_stage(config, partial(self._batches, self.maker, config), self._prepare_depth)

    def _batches(self, maker: BatchMaker, config: AnswerStageConfig, first: int) -> Iterator[Batch]:
        return maker.batches(config.batch, config.asked, config.depth, self.config.seed, first, config.steered)

    def _answer_stage(
        self, config: AnswerStageConfig, batches: Callable[[int], Iterator[Batch]], prepare: Callable[[], None]
    ) -> Stage:
        def loss(batch: Batch) -> Tensor:
            return answer_loss(self.model, self.space, self.maker, self.targets, batch, config.news)

        return Stage(config, nn.ModuleList([self.model, self.space]), batches, loss, prepare)

    def _prepare_depth(self) -> None:
        vq = depth_vq(self.data, self.folder, self.config.seed)
        self.maker.codes = partial(depth_codes, vq, self.data)


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

    Returns the trained model. Raises CheckpointError where the folder holds a run of other settings.
    """
    begin_run(folder / "run.json", config.fixed(samples))
    check_run(folder / "run.json", config.fixed(samples), folder)
    begun = None if start is None else load_checkpoint(start)
    with StageTimes(folder / "times.json").measured("demonstrations"):
        data = Demonstrations.load(collect_all(robot, folder / "demonstrations", samples, workers))
    tokenizer = build_tokenizer()
    stats = NormStats.from_actions(data.actions.reshape(-1, data.actions.shape[-1]))
    nano = nano_config(tokenizer, stats) if begun is None else begun.model.config
    recipe = NanoRecipe(data, folder, config, tokenizer, nano)
    run = TrainingRun(folder, config, recipe.modules, recipe.stages())
    if not run.resume() and start is not None and begun is not None:
        shutil.copy(start / DEPTH, folder / DEPTH)  # the codebook that the weights were trained with
        recipe.model.load_state_dict(begun.model.state_dict())
        run.skip_to(LAST_STAGE)
    run.run()
    save_nano(folder / "checkpoint", recipe.model.cpu(), recipe.tokenizer, load_depth_vq(folder / DEPTH))
    return recipe.model
