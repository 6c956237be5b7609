"""Trains a small model for LIBERO-Object and -Spatial by the nano's recipe: its stages, and rounds of correction.

In a round (DAgger) the policy as it is runs by the released protocol, in layouts that no earlier episode had, and the
expert labels the moments that it meets. There are no strokes: their geometry is the workcell's.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from molmoact_ros.engine.model.checkpoint import Checkpoint
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.training.demonstrations import Demonstrations
from molmoact_ros.training.libero_demonstrations import CONVENTION, PART, VIEW, collect_libero, collect_task
from molmoact_ros.training.libero_errands import WORDS
from molmoact_ros.training.nano_model import nano_config, two_camera_run, view_processor
from molmoact_ros.training.part_files import make_parts
from molmoact_ros.training.run_report import finish_run
from molmoact_ros.training.stage_depth_vq import DepthVqConfig
from molmoact_ros.training.tokenizer import build_tokenizer
from molmoact_ros.training.train import (
    HELD,
    HELD_SEED,
    LAST_STAGE,
    AnswerStageConfig,
    Correct,
    ModelKind,
    NanoRecipe,
    RoundConfig,
    TrainConfig,
)
from molmoact_ros.training.training_run import Stage, StageConfig, StageTimes, TrainingRun, begin_run, check_run

KEY: Final = "libero_small"
"""Name of the statistics of its actions."""


class LiberoTrainConfig(TrainConfig):
    """Hyperparameters of all stages. tasks: numbers in `errand_book`, 0 to 9 of LIBERO-Object and 10 to 19 of -Spatial.
    part: moments of a file of demonstrations, all of one task. What is of the workcell's scenes has no effect."""

    depth_vq: DepthVqConfig = DepthVqConfig(frames=8000)  # the first file of each task
    vision: StageConfig = StageConfig(steps=1500, batch=24, rate=1e-3)
    answer: AnswerStageConfig = AnswerStageConfig(steps=3000, batch=8, asked=3, depth=0.1, rate=1e-3)
    action: AnswerStageConfig = AnswerStageConfig(steps=7000, batch=8, asked=3, depth=0.1, news=16.0, rate=1e-3)
    rounds: int = 3
    correction: RoundConfig = RoundConfig(
        steps=800, batch=8, asked=3, depth=0.1, news=16.0, rate=3e-4, episodes=40, seconds=14.0
    )
    tasks: tuple[int, ...] = tuple(range(20))
    part: int = PART


class LiberoRecipe(NanoRecipe):
    """The nano's stages, on LIBERO's views and words."""

    def stages(self) -> dict[str, Stage]:
        """See NanoRecipe: without strokes."""
        return {name: stage for name, stage in super().stages().items() if name != LAST_STAGE}

    def _kind(self, begun: Checkpoint | None) -> ModelKind:
        tokenizer = build_tokenizer(WORDS, self.data.names)
        config = nano_config(tokenizer, self.stats, KEY, VIEW)
        return ModelKind(tokenizer, config, view_processor(VIEW), two_camera_run(KEY, CONVENTION))


def train_libero(
    folder: Path, samples: int, config: LiberoTrainConfig, workers: int = 2, correct: Correct | None = None
) -> MolmoAct:
    """Train the small model for LIBERO: demonstrations, depth codes, all stages. It resumes an interrupted run.

    Args:
        folder: receives demonstrations, progress, curves, rounds, a report and finally `checkpoint`.
        samples: number of demonstrated moments.
        config: the hyperparameters.
        workers: processes that simulate.
        correct: collects rounds of correction; None: there are none.

    Returns the trained model. Raises NoLiberoError without LIBERO, CheckpointError where the folder holds a run of
    other settings, and DivergedTraining.
    """
    settings = config.fixed(samples, "")
    begin_run(folder / "run.json", settings)
    check_run(folder / "run.json", settings, folder)
    times = StageTimes(folder / "times.json")
    with times.measured("demonstrations"):
        parts = collect_libero(
            folder / "demonstrations", samples, workers, config.tasks, config.part, lambda made, of: times.save()
        )
        each = max(1, config.held // len(config.tasks))
        held = {folder / "held" / f"part{task:03d}.npz": task for task in config.tasks}
        make_parts(collect_task, {out: (task, HELD_SEED, each, out) for out, task in held.items()}, workers)
        if not (folder / HELD).exists():
            Demonstrations.load(list(held)).save(folder / HELD)
    recipe = LiberoRecipe(Demonstrations.load(parts), folder, config, correct=correct)
    run = TrainingRun(folder, config, recipe.modules, recipe.stages())
    run.resume()
    finish_run(run, recipe.save, settings)
    return recipe.model.cpu()
