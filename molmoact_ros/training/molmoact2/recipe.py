"""The recipe of the small MolmoAct 2: demonstrations, two stages, and rounds of correction; seeded and resumable.

1. `reach`: decoder, expert and heads learn, on the nano's tower as it is. 2. `whole`: all of it. 3. `round1` and so on:
the policy as it is does tasks, the expert labels what it meets, and it learns from old and new moments.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import load_checkpoint
from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.sim.scene import SHAPES
from molmoact_ros.training.demonstrations import ASKED, collect, collect_all
from molmoact_ros.training.flow_matching import motion_statistics
from molmoact_ros.training.met_states import Correct, CorrectionRound, correct_round
from molmoact_ros.training.molmoact2.joint_batches import JointBatch, JointBatchMaker
from molmoact_ros.training.molmoact2.joint_demonstrations import JointDemonstrations, JointSampler
from molmoact_ros.training.molmoact2.robot_tokenizer import build_robot_tokenizer
from molmoact_ros.training.molmoact2.small_model import (
    begin_from,
    initialise_small,
    save_small,
    small_config,
    small_stats,
)
from molmoact_ros.training.molmoact2.stage_joints import SIZE, JointHead, joint_errors_of, joint_loss
from molmoact_ros.training.nano_model import size_features
from molmoact_ros.training.run_report import finish_run
from molmoact_ros.training.train import HELD, HELD_SEED, ROUND_APART, ROUND_SEED, SIZED_BY
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


class JointStageConfig(StageConfig):
    """Hyperparameters of a stage."""

    asked: int = 3  # instructions a state
    flow_times: int = 4  # moments between noise and actions, of each instruction


class JointRoundConfig(JointStageConfig):
    """Hyperparameters of a round of correction."""

    episodes: int
    seconds: float = 30.0  # of simulated time: the longest episode
    met: float = 0.5  # fraction of batches from the moments that the policy met, in this round or before


class RobotTrainConfig(TrainingRunConfig):
    """Hyperparameters of all stages. rounds: of correction. held: moments that are held out."""

    reach: JointStageConfig = JointStageConfig(steps=5000, batch=8, rate=1e-3)
    whole: JointStageConfig = JointStageConfig(steps=4000, batch=8, rate=6e-4)
    rounds: int = 2
    correction: JointRoundConfig = JointRoundConfig(steps=400, batch=8, rate=2e-4, warm_up=20, episodes=30)
    held: int = 64

    def fixed(self, samples: int, start: str) -> dict[str, Any]:
        """What must be the same when a run is resumed. start: digest of the nano that it begins with."""
        settings = self.model_dump(exclude={"save_every", "ahead", "rounds"})
        return {"family": "molmoact2", "samples": samples, "start": start, "settings": settings}


Batches = Callable[[JointStageConfig, int], Iterator[JointBatch]]
"""The batches of a stage from a number on."""


class RobotRecipe:
    """Modules, data and stages of the small MolmoAct 2."""

    def __init__(
        self, data: JointDemonstrations, folder: Path, config: RobotTrainConfig, start: Path,
        correct: Correct | None = None,
    ) -> None:  # fmt: skip
        """folder: receives rounds, and has the held-out moments. start: the nano whose tower is taken over. correct:
        collects rounds of correction; None: there are none."""
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
        rows = np.arange(min(SIZED_BY, len(data.images)))
        some = self.maker.batch(rows, 1, 1, np.random.default_rng(config.seed))
        size_features(self.model, some.crops, some.pooled.expand(len(rows), -1, -1), SIZE)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        self.head = JointHead(self.model.config.llm_config.hidden_size).to(self.device)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that is trained."""
        return {"model": self.model, "head": self.head}

    def stages(self) -> dict[str, Stage]:
        """The stages in order."""
        parts, config = self.model.model, self.config
        seeing = nn.ModuleList([parts.transformer, parts.action_expert, self.head])
        everything = nn.ModuleList([self.model, self.head])
        stages = {
            "reach": self._stage(config.reach, seeing, self._batches, frozen=True),
            "whole": self._stage(config.whole, everything, self._batches),
        }
        if self.correct is not None:
            for number in range(1, config.rounds + 1):
                stages[f"round{number}"] = self._round(number, everything)
        return stages

    def save(self, folder: Path) -> None:
        """Write the model as it is as a checkpoint folder, which appears at once and whole."""
        unfinished = folder.with_name(f"unfinished-{folder.name}")
        save_small(unfinished, copy.deepcopy(self.model).cpu(), self.tokenizer, self.stats)
        unfinished.rename(folder)

    def _stage(
        self, config: JointStageConfig, trained: nn.Module, batches: Batches, frozen: bool = False
    ) -> Stage:  # fmt: skip
        def loss(batch: JointBatch) -> Tensor:
            return joint_loss(self.model, self.head, batch, frozen)

        return Stage(config, trained, partial(batches, config), loss, finish=self._errors)

    def _batches(self, config: JointStageConfig, first: int) -> Iterator[JointBatch]:
        return self.maker.batches(config.batch, config.asked, config.flow_times, self.config.seed, first)

    def _round(self, number: int, trained: nn.Module) -> Stage:
        """A round, whose batches are of demonstrations or of what the policy met, by chance."""
        seed, figures, made = self.config.seed + number, dict[str, float](), list[JointBatchMaker]()

        def batches(config: JointStageConfig, first: int) -> Iterator[JointBatch]:
            for i in count(first):
                new = np.random.default_rng((seed, i)).random() < self.config.correction.met
                maker = made[0] if new else self.maker
                yield next(maker.batches(config.batch, config.asked, config.flow_times, seed, i))

        def prepare() -> None:
            files, found = self._corrections(number)
            figures.update(found)
            met = JointDemonstrations.load(files)
            made[:] = [JointBatchMaker(met, self.model.config, self.tokenizer, self.stats)]

        stage = self._stage(self.config.correction, trained, batches)
        stage.prepare, stage.finish = prepare, lambda: {**figures, **self._errors()}
        return stage

    def _corrections(self, number: int) -> tuple[list[Path], dict[str, float]]:
        """Files of all rounds up to a number, and the figures of its own episodes; collects what is missing."""
        assert self.correct is not None
        config, first = self.config.correction, ROUND_SEED + (number - 1) * ROUND_APART

        def order(policy: Path, folder: Path) -> CorrectionRound:
            shared = (config.episodes, config.seconds, 0.0, SHAPES, JointSampler)
            return CorrectionRound(policy, self.device.type, folder, first, *shared)

        return correct_round(self.folder, number, self.save, self.correct, order)

    def _errors(self) -> dict[str, float]:
        """How far off chunks and positions are in the held-out moments."""
        held = JointDemonstrations.load([self.folder / HELD])
        maker = JointBatchMaker(held, self.model.config, self.tokenizer, self.stats)
        batch = maker.batch(np.arange(len(held.images)), ASKED, 1, np.random.default_rng(0))
        return joint_errors_of(self.model, self.head, batch, maker.scaling)


def train_robot_model(
    robot: Path, folder: Path, samples: int, config: RobotTrainConfig, start: Path | None = None, workers: int = 2,
    correct: Correct | None = None,
) -> MolmoAct2:  # fmt: skip
    """Train the small MolmoAct 2; it resumes an interrupted run.

    Args:
        robot: the arm's MJCF file.
        folder: receives demonstrations, progress, curves, a report and finally `checkpoint`.
        samples: number of demonstrations.
        config: the hyperparameters.
        start: a MolmoAct 1 checkpoint of the nano's shapes, whose tower is taken over; None: the nano.
        workers: processes that collect demonstrations.
        correct: collects rounds of correction; None: there are none.

    Returns the trained model. Raises CheckpointError where the folder holds a run of other settings, and
    DivergedTraining.
    """
    begin = start or default_checkpoint()
    settings = config.fixed(samples, digest(begin))
    begin_run(folder / "run.json", settings)
    check_run(folder / "run.json", settings, folder)
    times = StageTimes(folder / "times.json")
    with times.measured("demonstrations"):
        files = collect_all(
            robot, folder / "demonstrations", samples, workers, done=lambda made, of: times.save(),
            sampler=JointSampler,
        )  # fmt: skip
        if not (folder / HELD).exists():
            collect(robot, HELD_SEED, config.held, folder / HELD, sampler=JointSampler)
        data = JointDemonstrations.load(files)
    recipe = RobotRecipe(data, folder, config, begin, correct)
    run = TrainingRun(folder, config, recipe.modules, recipe.stages())
    run.resume()
    finish_run(run, recipe.save, settings)
    return recipe.model.cpu()
