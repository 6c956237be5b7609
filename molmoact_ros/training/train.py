"""Trains the nano model in stages, seeded and resumable.

1. `depth`: a VQ-VAE learns depth codes. 2. `vision`: the image tokens learn to identify and locate objects. 3.
`answer`: the whole model learns to generate answers; most batches omit the depth codes to save time. 4. `action`: the
same, but action values that differ from the previous action's weigh most. 5. `strokes`: half of the batches have a
stroke drawn on the image. 6. `round1` and so on: the policy as it is does tasks, the expert labels what it meets, and
it learns from old and new moments.
"""

from __future__ import annotations

import copy
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import nn

from molmoact_ros.engine.model.checkpoint import DEPTH, Checkpoint, load_checkpoint, load_depth_vq, save_checkpoint
from molmoact_ros.engine.model.config import MolmoActConfig, ProcessorConfig, RunConfig
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import digest
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.training.data_loader import Batch, BatchMaker
from molmoact_ros.training.demonstrations import ASKED, TRAIN_SEED, Demonstrations, collect, collect_all
from molmoact_ros.training.met_states import Correct, CorrectionRound, correct_round
from molmoact_ros.training.nano_model import (
    FEATURE_SIZE,
    PROCESSOR,
    RUN,
    feature_size,
    initialise,
    nano_config,
    size_features,
)
from molmoact_ros.training.part_files import make_parts
from molmoact_ros.training.run_report import finish_run
from molmoact_ros.training.soft_targets import SoftTargets
from molmoact_ros.training.stage_answers import SpaceHead, answer_loss, space_errors
from molmoact_ros.training.stage_depth_vq import DepthVqConfig, depth_codes, depth_vq
from molmoact_ros.training.stage_vision import VisionHead, vision_batches, vision_loss
from molmoact_ros.training.tokenizer import SHAPES, build_tokenizer, known_shapes
from molmoact_ros.training.training_run import (
    Stage,
    StageConfig,
    StageTimes,
    TrainingRun,
    TrainingRunConfig,
    begin_run,
    check_run,
)

LAST_STAGE = "strokes"  # before the rounds
HELD = "held_out.npz"
HELD_SEED = 900_000  # of held-out moments: none that is trained on, and none of an evaluation
ROUND_SEED, ROUND_APART = TRAIN_SEED + 500_000, 10_000  # scenes of the first round, and how far the next one's are
SIZED_BY = 32  # moments by which the image features' size is measured

NO_STEPS = StageConfig(steps=0, batch=0, rate=0.0)


class AnswerStageConfig(StageConfig):
    """Hyperparameters of a stage that trains whole answers."""

    asked: int = 1  # instructions per state
    depth: float = 0.2  # fraction of batches with depth codes in their answers
    news: float = 1.0  # weight of action values that differ from the previous action's
    steered: float = 0.0  # fraction of batches with strokes on their images
    short: float = 0.0  # fraction of the other batches whose answers end after three actions


class RoundConfig(AnswerStageConfig):
    """Hyperparameters of a round of correction."""

    episodes: int
    seconds: float = 30.0  # of simulated time: the longest episode
    met: float = 0.5  # fraction of batches from the moments that the policy met, in this round or before


class TrainConfig(TrainingRunConfig):
    """Hyperparameters of all stages.

    varied: fraction of the moments with a drawn appearance. shapes: of the objects. rounds: of correction. held:
    moments that are held out.
    """

    varied: float = 0.5
    shapes: tuple[str, ...] = SHAPES

    depth_vq: DepthVqConfig = DepthVqConfig()
    vision: StageConfig = StageConfig(steps=1500, batch=24, rate=1e-3)
    answer: AnswerStageConfig = AnswerStageConfig(steps=2500, batch=12, asked=4, short=0.5, rate=1e-3)
    action: AnswerStageConfig = AnswerStageConfig(
        steps=7000, batch=12, asked=4, depth=0.1, news=16.0, short=0.7, rate=1e-3
    )
    strokes: AnswerStageConfig = AnswerStageConfig(
        steps=2000, batch=12, asked=4, depth=0.1, news=16.0, steered=0.5, short=0.7, rate=5e-4
    )
    rounds: int = 3
    correction: RoundConfig = RoundConfig(
        steps=700, batch=12, asked=4, depth=0.1, news=16.0, steered=0.25, short=0.5, rate=3e-4, episodes=120
    )
    held: int = 400

    def fixed(self, samples: int, start: str) -> dict[str, Any]:
        """What must be the same when a run is resumed. start: digest of the checkpoint that it begins with, or ""."""
        free = {"save_every": True, "ahead": True}
        settings = self.model_dump(exclude={**free, "rounds": True, "depth_vq": free})
        return {"samples": samples, "start": start, "settings": settings}


@dataclass(frozen=True)
class ModelKind:
    """What a checkpoint folder says of its weights."""

    tokenizer: Tokenizer
    config: MolmoActConfig
    processor: ProcessorConfig
    run: RunConfig


class NanoRecipe:
    """The nano's modules, data and stages."""

    def __init__(
        self, data: Demonstrations, folder: Path, config: TrainConfig, begun: Checkpoint | None = None,
        correct: Correct | None = None,
    ) -> None:  # fmt: skip
        """folder: receives depth codec and rounds, and has the held-out moments. begun: what to train on; None: new
        weights. correct: collects rounds of correction; None: there are none."""
        torch.manual_seed(config.seed)
        self.data, self.folder, self.config, self.correct = data, folder, config, correct
        self.kind = self._kind(begun)
        self.tokenizer, nano = self.kind.tokenizer, self.kind.config
        self.maker = self._maker(data)
        self.model, self.size = self._model(nano, None if begun is None else begun.model)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.model.to(self.device)
        width = nano.llm_config.hidden_size
        self.head, self.space = VisionHead(width).to(self.device), SpaceHead(width).to(self.device)
        self.targets = SoftTargets.of(self.tokenizer, nano.llm_config.vocab_size).to(self.device)

    @property
    def modules(self) -> dict[str, nn.Module]:
        """All that is trained."""
        return {"model": self.model, "head": self.head, "space": self.space}

    def stages(self) -> dict[str, Stage]:
        """The stages in order."""
        config = self.config
        stages = {"depth": self._depth(), "vision": self._vision(), "answer": self._answers(config.answer, 1)}
        stages |= {"action": self._answers(config.action, 2), LAST_STAGE: self._answers(config.strokes, 3)}
        if self.correct is not None:
            stages |= {f"round{n}": self._round(n) for n in range(1, config.rounds + 1)}
        return stages

    def save(self, folder: Path) -> None:
        """Write the model as it is as a checkpoint folder, which appears at once and whole."""
        unfinished = folder.with_name(f"unfinished-{folder.name}")
        model, codec = copy.deepcopy(self.model).cpu(), load_depth_vq(self.folder / DEPTH)
        save_checkpoint(unfinished, model, self.tokenizer, codec, self.kind.processor, self.kind.run)
        unfinished.rename(folder)

    @property
    def stats(self) -> NormStats:
        """Statistics of the demonstrations' actions."""
        return NormStats.from_actions(self.data.actions.reshape(-1, self.data.actions.shape[-1]))

    def _kind(self, begun: Checkpoint | None) -> ModelKind:
        """What kind of model is trained. begun: what to train on."""
        tokenizer = build_tokenizer() if begun is None else begun.tokenizer
        nano = nano_config(tokenizer, self.stats) if begun is None else begun.config
        return ModelKind(tokenizer, nano, PROCESSOR, RUN)

    def _maker(self, data: Demonstrations) -> BatchMaker:
        return BatchMaker(data, self.kind.config, self.tokenizer, self.kind.processor)

    def _model(self, nano: MolmoActConfig, begun: MolmoAct | None) -> tuple[MolmoAct, float]:
        """The model at first, and the size that its image features are held at."""
        rows = np.arange(min(SIZED_BY, len(self.data.images)))
        crops = self.maker.batch(rows, 1, False, np.random.default_rng(self.config.seed)).crops
        pooled = self.maker.pooled.expand(len(rows), -1, -1)
        model = MolmoAct(nano)
        if begun is not None:
            model.load_state_dict(begun.state_dict())
            return model, feature_size(model, crops, pooled)
        initialise(model, self.tokenizer)
        size_features(model, crops, pooled)
        return model, FEATURE_SIZE

    def _depth(self) -> Stage:
        return Stage(NO_STEPS, self.space, lambda first: iter(()), torch.mean, self._prepare_depth)

    def _vision(self) -> Stage:
        config = self.config.vision
        return Stage(
            config,
            nn.ModuleList([self.model.model.vision_backbone, self.head]),
            partial(vision_batches, self.data, config.batch, self.config.seed),
            lambda batch: vision_loss(self.model, self.head, self.maker, batch, self.size),
        )

    def _answers(self, config: AnswerStageConfig, number: int) -> Stage:
        """A stage of answers, by whose number the order of its batches is drawn."""
        return Stage(
            config,
            nn.ModuleList([self.model, self.space]),
            partial(self._batches, self.maker, config, self.config.seed + number),
            lambda batch: answer_loss(self.model, self.space, self.maker, self.targets, batch, config.news, self.size),
            self._prepare_depth,
            self._errors,
        )

    def _round(self, number: int) -> Stage:
        config, seed = self.config.correction, self.config.seed + 3 + number
        stage, figures = self._answers(config, 3 + number), {}
        made: list[BatchMaker] = []

        def prepare() -> None:
            self._prepare_depth()
            files, found = self._corrections(number)
            figures.update(found)
            met = Demonstrations.load(files)
            made[:] = [self._maker(met)]
            made[0].codes = partial(depth_codes, load_depth_vq(self.folder / DEPTH), met)

        def batches(first: int) -> Iterator[Batch]:
            for i in count(first):
                new = np.random.default_rng((seed, i)).random() < config.met
                yield next(self._batches(made[0] if new else self.maker, config, seed, i))

        stage.prepare, stage.batches = prepare, batches
        stage.finish = lambda: {**figures, **self._errors()}
        return stage

    def _corrections(self, number: int) -> tuple[list[Path], dict[str, float]]:
        """Files of all rounds up to a number, and the figures of its own episodes; collects what is missing."""
        assert self.correct is not None
        config, first = self.config.correction, ROUND_SEED + (number - 1) * ROUND_APART

        def order(policy: Path, folder: Path) -> CorrectionRound:
            device, shared = self.device.type, self.config
            return CorrectionRound(
                policy, device, folder, first, config.episodes, config.seconds, shared.varied, shared.shapes
            )

        return correct_round(self.folder, number, self.save, self.correct, order)

    def _batches(self, maker: BatchMaker, config: AnswerStageConfig, seed: int, first: int) -> Iterator[Batch]:
        return maker.batches(config.batch, config.asked, config.depth, seed, first, config.steered, config.short)

    def _prepare_depth(self) -> None:
        config = self.config.depth_vq.model_copy(update={"seed": self.config.seed, "ahead": self.config.ahead})
        vq = depth_vq(self.data, self.folder, config)
        self.maker.codes = partial(depth_codes, vq, self.data)

    def _errors(self) -> dict[str, float]:
        """How far off the model reads positions in the held-out moments."""
        held = self._maker(Demonstrations.load([self.folder / HELD]))
        rows = np.array_split(np.arange(len(held.data.images)), -(-len(held.data.images) // SIZED_BY))
        rng = np.random.default_rng(0)
        batches = (held.batch(some, ASKED, False, rng) for some in rows)
        return space_errors(self.model, self.space, held, batches)


def train_nano(
    robot: Path, folder: Path, samples: int, config: TrainConfig, start: Path | None = None, workers: int = 2,
    correct: Correct | None = None,
) -> MolmoAct:  # fmt: skip
    """Train the nano model from scratch: demonstrations, depth codes, all stages. It resumes an interrupted run.

    Args:
        robot: the arm's MJCF file.
        folder: receives demonstrations, progress, curves, a report and finally `checkpoint`.
        samples: number of demonstrations.
        config: the hyperparameters.
        start: a checkpoint to train on from `LAST_STAGE`, with the shapes that it knows; None: new weights in all
            stages.
        workers: processes that collect demonstrations.
        correct: collects rounds of correction; None: there are none.

    Returns the trained model. Raises CheckpointError where the folder holds a run of other settings, and
    DivergedTraining.
    """
    begun = None if start is None else load_checkpoint(start)
    settings = config.fixed(samples, digest(start) if start else "")
    begin_run(folder / "run.json", settings)
    check_run(folder / "run.json", settings, folder)
    if begun is not None:
        config = config.model_copy(update={"shapes": known_shapes(begun.tokenizer)})
    times = StageTimes(folder / "times.json")
    with times.measured("demonstrations"):
        files = collect_all(
            robot, folder / "demonstrations", samples, workers, config.varied, config.shapes,
            lambda made, of: times.save(),
        )  # fmt: skip
        held = robot, HELD_SEED, config.held, folder / HELD, config.varied, config.shapes
        make_parts(collect, {folder / HELD: held}, 1)
        data = Demonstrations.load(files)
    if start is not None and not (folder / DEPTH).exists():
        shutil.copy(start / DEPTH, folder / DEPTH)  # the codebook that the weights were trained with
    recipe = NanoRecipe(data, folder, config, begun, correct)
    run = TrainingRun(folder, config, recipe.modules, recipe.stages())
    if not run.resume() and start is not None:
        run.skip_to(LAST_STAGE)
    finish_run(run, recipe.save, settings)
    return recipe.model.cpu()
