"""The recipe of the small MolmoAct 2: demonstrations, two stages, and rounds of correction; seeded and resumable.

1. `reach`: decoder, expert and heads learn, on the nano's tower as it is. 2. `whole`: all of it. 3. Rounds of
correction (DAgger, arXiv 1011.0686): the policy runs episodes in training scenes, the expert labels what it met, and
training goes on with old and new moments.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import load_checkpoint
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.training.flow_matching import motion_statistics
from molmoact_ros.training.molmoact2.joint_batches import JointBatch, JointBatchMaker
from molmoact_ros.training.molmoact2.joint_demonstrations import JointDemonstrations, JointSampleArrays, collect_joints
from molmoact_ros.training.molmoact2.robot_tokenizer import build_robot_tokenizer
from molmoact_ros.training.molmoact2.small_model import (
    begin_from,
    initialise_small,
    save_small,
    scale_features,
    small_config,
    small_stats,
)
from molmoact_ros.training.molmoact2.stage_joints import JointHead, joint_loss
from molmoact_ros.training.training_run import (
    Stage,
    StageConfig,
    StageTimes,
    TrainingRun,
    TrainingRunConfig,
    begin_run,
    check_run,
)
from molmoact_ros.utils.paths import default_checkpoint

Correct = Callable[[Path, int, int], Sequence[JointSampleArrays]]
"""Runs a checkpoint's policy for some episodes in training scenes, from a seed on: the moments it met, labelled."""


SOME = 16  # samples, to look at features


class JointStageConfig(StageConfig):
    """Hyperparameters of a stage."""

    asked: int = 3  # instructions a state
    flow_times: int = 4  # moments between noise and actions, of each instruction


class RobotTrainConfig(TrainingRunConfig):
    """Hyperparameters of all stages, and of the rounds of correction behind them.

    new_share: of the moments in a round's batches, those of corrections.
    """

    reach: JointStageConfig = JointStageConfig(steps=5000, batch=8, rate=1e-3)
    whole: JointStageConfig = JointStageConfig(steps=4000, batch=8, rate=6e-4)
    correction: JointStageConfig = JointStageConfig(steps=400, batch=8, rate=2e-4, warm_up=20)
    rounds: int = 2
    episodes: int = 30
    new_share: float = 0.5

    def fixed(self, samples: int, start: str) -> dict[str, Any]:
        """What must be the same when a run is resumed."""
        settings = self.model_dump(exclude={"save_every", "ahead"})
        return {"family": "molmoact2", "samples": samples, "start": start, "settings": settings}


class RobotRecipe:
    """Modules, data and stages of the small MolmoAct 2."""

    def __init__(
        self, data: JointDemonstrations, folder: Path, config: RobotTrainConfig, start: Path, correct: Correct
    ) -> None:  # fmt: skip
        """folder: receives corrections. start: the nano whose tower is taken over."""
        torch.manual_seed(config.seed)
        self.data, self.folder, self.config, self.correct = data, folder, config, correct
        self.tokenizer = build_robot_tokenizer()
        self.stats = small_stats(
            motion_statistics(data.state), motion_statistics(data.chunks.reshape(-1, data.chunks.shape[-1]))
        )
        self.model = MolmoAct2(small_config(self.tokenizer))
        initialise_small(self.model, self.tokenizer)
        begin_from(self.model, self.tokenizer, load_checkpoint(start))
        self.maker = JointBatchMaker(data, self.model.config, self.tokenizer, self.stats)
        some = self.maker.batch(np.arange(min(SOME, len(data.images))), 1, 1, np.random.default_rng(config.seed))
        scale_features(self.model, some.crops, some.pooled)
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(device)
        self.head = JointHead(self.model.config.llm_config.hidden_size).to(device)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that is trained."""
        return {"model": self.model, "head": self.head}

    def stages(self) -> dict[str, Stage]:
        """The stages in order."""
        parts = self.model.model
        seeing = nn.ModuleList([parts.transformer, parts.action_expert, self.head])
        everything = nn.ModuleList([self.model, self.head])
        found = {
            "reach": self._stage(self.config.reach, seeing, self._batches, frozen=True),
            "whole": self._stage(self.config.whole, everything, self._batches),
        }
        for number in range(1, self.config.rounds + 1):
            stage = self._stage(self.config.correction, everything, partial(self._mixed, number))
            stage.prepare = partial(self._collect, number)
            found[f"correction {number}"] = stage
        return found

    def _stage(
        self, config: JointStageConfig, trained: nn.Module,
        batches: Callable[[JointStageConfig, int], Iterator[JointBatch]], frozen: bool = False,
    ) -> Stage:  # fmt: skip
        def loss(batch: JointBatch) -> Tensor:
            return joint_loss(self.model, self.head, batch, frozen)

        return Stage(config, trained, partial(batches, config), loss)

    def _batches(self, config: JointStageConfig, first: int) -> Iterator[JointBatch]:
        return self.maker.batches(config.batch, config.asked, config.flow_times, self.config.seed, first)

    def _mixed(self, round_number: int, config: JointStageConfig, first: int) -> Iterator[JointBatch]:
        """Batches in which demonstrations and the corrections of all rounds so far take turns, by chance."""
        met = JointDemonstrations.load([self._corrections(number) for number in range(1, round_number + 1)])
        new = JointBatchMaker(met, self.model.config, self.tokenizer, self.stats)
        seed = self.config.seed + round_number
        streams = [
            maker.batches(config.batch, config.asked, config.flow_times, seed, first) for maker in (self.maker, new)
        ]
        number = first
        while True:
            turn = int(np.random.default_rng((seed, number)).random() < self.config.new_share)
            made = [next(stream) for stream in streams]
            yield made[turn]
            number += 1

    def _corrections(self, number: int) -> Path:
        return self.folder / "corrections" / f"round{number:02}.npz"

    def _collect(self, number: int) -> None:
        """Let the policy run, once for each round."""
        path = self._corrections(number)
        if path.exists():
            return
        path.parent.mkdir(parents=True, exist_ok=True)
        self.save(self.folder / "checkpoint")
        seed = (number - 1) * self.config.episodes
        met = self.correct(self.folder / "checkpoint", self.config.episodes, seed)
        JointDemonstrations.of(met).save(path)

    def save(self, folder: Path) -> None:
        """Write the model as it is as a checkpoint folder."""
        save_small(folder, self.model, self.tokenizer, self.stats)


def train_robot_model(
    robot: Path, folder: Path, samples: int, config: RobotTrainConfig, correct: Correct, start: Path | None = None,
    workers: int = 2,
) -> MolmoAct2:  # fmt: skip
    """Train the small MolmoAct 2; it resumes an interrupted run.

    Args:
        robot: the arm's MJCF file.
        folder: receives demonstrations, progress, times, curves, corrections and finally `checkpoint`.
        samples: number of demonstrations.
        config: the hyperparameters.
        correct: see `Correct`.
        start: a MolmoAct 1 checkpoint of the nano's shapes, whose tower is taken over; None: the nano.
        workers: processes that collect demonstrations.

    Returns the trained model. Raises CheckpointError where the folder holds a run of other settings.
    """
    begin = start or default_checkpoint()
    settings = config.fixed(samples, begin.name)
    begin_run(folder / "run.json", settings)
    check_run(folder / "run.json", settings, folder)
    with StageTimes(folder / "times.json").measured("demonstrations"):
        data = JointDemonstrations.load(collect_joints(robot, folder / "demonstrations", samples, workers))
    recipe = RobotRecipe(data, folder, config, begin, correct)
    run = TrainingRun(folder, config, recipe.modules, recipe.stages())
    run.resume()
    run.run()
    recipe.model.cpu()
    recipe.save(folder / "checkpoint")
    return recipe.model
