"""Trains a small model for LIBERO-Object and -Spatial: the nano's stages, then rounds of correction.

In a round (DAgger, Ross et al. 2011) the policy as it is runs by the released protocol, in layouts that no earlier
episode had; the moments that it meets are labelled by the expert, and every second batch of the round is of moments so
met, in this round or before. FOLDER/round1 has a round's policy, its moments, and how many episodes it did.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from functools import partial
from itertools import count
from pathlib import Path
from typing import Any, Final

from molmoact_ros.engine.model.checkpoint import DEPTH, load_depth_vq, save_checkpoint
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.training.data_loader import Batch, BatchMaker
from molmoact_ros.training.demonstrations import TRAIN_SEED, Demonstrations, make_parts
from molmoact_ros.training.libero_demonstrations import CONVENTION, PART, VIEW, collect_libero
from molmoact_ros.training.libero_errands import WORDS
from molmoact_ros.training.nano_model import nano_config, two_camera_run, view_processor
from molmoact_ros.training.stage_depth_vq import depth_codes
from molmoact_ros.training.tokenizer import build_tokenizer
from molmoact_ros.training.train import AnswerStageConfig, NanoRecipe, TrainConfig
from molmoact_ros.training.training_run import Stage, StageConfig, StageTimes, TrainingRun, begin_run, check_run

KEY: Final = "libero_small"
"""Name of the statistics of its actions."""
CORRECTED: Final = TRAIN_SEED * 10
"""First seed of the layouts of corrections; each round and task has SEEDS of them."""
SEEDS: Final = 1000

Correct = Callable[[Path, int, int, int, Path], None]
"""Runs a checkpoint's episodes of a task, with seeds from one on, and stores their labelled moments in a file; beside
it, as .json, the list of their successes. evaluation/libero_corrections.py has it."""


class LiberoConfig(TrainConfig):
    """Hyperparameters of all stages. rounds: of correction. episodes: of each task in a round. tasks: numbers in
    `errand_book`, 0 to 9 of LIBERO-Object and 10 to 19 of -Spatial. part: moments of a file of demonstrations."""

    vision: StageConfig = StageConfig(steps=1500, batch=24, rate=1e-3)
    answer: AnswerStageConfig = AnswerStageConfig(steps=3000, batch=8, asked=3, depth=0.1, rate=1e-3)
    action: AnswerStageConfig = AnswerStageConfig(steps=7000, batch=8, asked=3, depth=0.1, news=16.0, rate=1e-3)
    correction: AnswerStageConfig = AnswerStageConfig(steps=800, batch=8, asked=3, depth=0.1, news=16.0, rate=3e-4)
    rounds: int = 3
    episodes: int = 2
    tasks: tuple[int, ...] = tuple(range(20))
    part: int = PART


class LiberoRecipe(NanoRecipe):
    """The nano's stages on LIBERO, and rounds of correction by `correct` in `workers` processes."""

    config: LiberoConfig

    def __init__(
        self, data: Demonstrations, folder: Path, config: LiberoConfig, correct: Correct, workers: int
    ) -> None:
        tokenizer, processor = build_tokenizer(WORDS, data.names), view_processor(VIEW)
        stats = NormStats.from_actions(data.actions.reshape(-1, data.actions.shape[-1]))
        super().__init__(data, folder, config, tokenizer, nano_config(tokenizer, stats, KEY, VIEW), processor)
        self._correct, self._workers, self._processor = correct, workers, processor
        self._met = self.maker  # batches of the moments that the policy has met

    def stages(self) -> dict[str, Stage]:
        """The nano's, then `round1` and so on."""
        return super().stages() | {f"round{number}": self._round(number) for number in range(1, self.config.rounds + 1)}

    def save(self, folder: Path) -> None:
        """Write the model as it is as a checkpoint, which is whole or absent."""
        device, unfinished = next(self.model.parameters()).device, folder.with_name(f"unfinished-{folder.name}")
        run, codec = two_camera_run(KEY, CONVENTION), load_depth_vq(self.folder / DEPTH)
        save_checkpoint(unfinished, self.model.cpu(), self.tokenizer, codec, self._processor, run)
        self.model.to(device)
        unfinished.rename(folder)

    def _round(self, number: int) -> Stage:
        def batches(first: int) -> Iterator[Batch]:
            old, new = (
                self._batches(maker, self.config.correction, (first + later) // 2)
                for maker, later in ((self.maker, 1), (self._met, 0))
            )
            return (next(new if n % 2 else old) for n in count(first))

        return self._answer_stage(self.config.correction, batches, partial(self._meet, number))

    def _meet(self, number: int) -> None:
        """Run the policy for a round, unless that is done, and load all moments that were met so far."""
        self._prepare_depth()
        folder = self.folder / f"round{number}"
        if not (folder / "policy").exists():
            folder.mkdir(exist_ok=True)
            self.save(folder / "policy")
        parts = {
            folder / f"task{task:02d}.npz": (
                folder / "policy", task, CORRECTED + (number * len(self.config.tasks) + n) * SEEDS, self.config.episodes
            )
            for n, task in enumerate(self.config.tasks)
        }  # fmt: skip
        make_parts(self._correct, parts, self._workers)
        done = [success for part in parts for success in json.loads(part.with_suffix(".json").read_text())]
        print(f"round {number}: the policy did {sum(done)} of {len(done)} episodes before its correction", flush=True)
        met = [part for n in range(1, number + 1) for part in (self.folder / f"round{n}").glob("task*.npz")]
        data = Demonstrations.load(met)
        self._met = BatchMaker(data, self.model.config, self.tokenizer, self._processor)
        self._met.codes = partial(depth_codes, load_depth_vq(self.folder / DEPTH), data)


def train_libero(folder: Path, samples: int, config: LiberoConfig, correct: Correct, workers: int = 2) -> MolmoAct:
    """Train the small model for LIBERO: demonstrations, depth codes, all stages. It resumes an interrupted run.

    Args:
        folder: receives demonstrations, progress, the loss curve, rounds and finally `checkpoint`.
        samples: number of demonstrated moments.
        config: the hyperparameters.
        correct: see Correct.
        workers: processes that simulate.

    Returns the trained model. Raises NoLiberoError without LIBERO, CheckpointError where the folder holds a run of
    other settings.
    """
    settings: dict[str, Any] = config.fixed(samples)
    begin_run(folder / "run.json", settings)
    check_run(folder / "run.json", settings, folder)
    with StageTimes(folder / "times.json").measured("demonstrations"):
        parts = collect_libero(folder / "demonstrations", samples, workers, config.tasks, config.part)
    recipe = LiberoRecipe(Demonstrations.load(parts), folder, config, correct, workers)
    run = TrainingRun(folder, config, recipe.modules, recipe.stages())
    run.resume()
    run.run()
    if not (folder / "checkpoint").exists():
        recipe.save(folder / "checkpoint")
    return recipe.model
