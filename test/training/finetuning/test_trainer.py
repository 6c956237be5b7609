"""Training that is interrupted, that diverges, and its schedule."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.examples import ExampleMaker, Mixture
from molmoact_ros.training.finetuning.losses import TrainingLoss
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.finetuning.saved_run import SavedRun, trained_tensors
from molmoact_ros.training.finetuning.trainer import DivergedTraining, FinetuneTrainer
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import Labelled, make_samples

CPU = torch.device("cpu")
ALONE = Processes(0, 1, CPU)
CONFIG = FinetuneConfig(rank=4, steps=4, batch=2, save_every=2, validate_every=2, seed=5)
DATA = Labelled(make_samples(8))
Validate = Callable[[TrainingLoss[Any]], dict[str, float]]


@cache
def maker() -> ExampleMaker:
    return ExampleMaker(CheckpointFolder(default_checkpoint()), DATA)


def make_trainer(
    folder: Path, config: FinetuneConfig = CONFIG, micro_batch: int = 1, validate: Validate | None = None,
    report: Callable[[dict[str, Any]], None] = lambda entry: None,
) -> FinetuneTrainer:  # fmt: skip
    files = CheckpointFolder(default_checkpoint())
    loss = build_model(files, config)
    fill_model(loss, files, config, CPU)
    mixture = Mixture([(DATA, maker(), np.arange(8))], config)
    return FinetuneTrainer(loss, mixture, config, ALONE, micro_batch, SavedRun(folder, ALONE), validate, report)


@pytest.mark.parametrize("method", list(Method))
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(tmp_path: Path, method: Method) -> None:
    """With dropout, augmentation and the mixture; it stops after step 3, and goes on from what was saved at 2."""
    config = CONFIG.model_copy(update={"method": method})
    whole = make_trainer(tmp_path / "whole", config)
    before = {name: tensor.clone() for name, tensor in trained_tensors(whole.loss).items()}
    whole.run()
    cut = make_trainer(tmp_path / "cut", config)
    step = cut.step

    def interrupted(batches: Any) -> dict[str, Any]:
        if cut.progress.step == 3:
            raise KeyboardInterrupt
        return step(batches)

    cut.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    resumed = make_trainer(tmp_path / "cut", config)
    assert resumed.progress.step == 2
    resumed.run()
    wanted, found = trained_tensors(whole.loss), trained_tensors(resumed.loss)
    assert all(torch.equal(wanted[name], found[name]) for name in wanted)
    assert any(not torch.equal(wanted[name], before[name]) for name in wanted), "something was trained"
    moments = [[s["exp_avg_sq"] for s in t.optimiser.state_dict()["state"].values()] for t in (whole, resumed)]
    assert all(torch.equal(one, other) for one, other in zip(*moments, strict=True))


def test_a_run_is_saved_whole_or_not_at_all(tmp_path: Path) -> None:
    """A cut between the two renames of saving leaves the state before; a partial one is never read."""
    config = CONFIG.model_copy(update={"steps": 2})
    make_trainer(tmp_path, config).run()
    (tmp_path / "last").rename(tmp_path / "last.old")
    (tmp_path / "last.partial").mkdir()
    assert make_trainer(tmp_path, config).progress.step == 2
    next((tmp_path / "last.old").glob("*.distcp")).write_bytes(b"cut")
    with pytest.raises(CheckpointError, match=r"last.old cannot be read .*; remove it to go on from before"):
        make_trainer(tmp_path, config)


@pytest.mark.parametrize("where", ["loss", "gradient"])
def test_numbers_that_are_not_finite_stop_and_keep_the_last_good(tmp_path: Path, where: str) -> None:
    run = make_trainer(tmp_path, validate=lambda loss: {"loss": 1.0})
    forward = run.loss.forward

    def broken(batch: Any) -> Any:
        value, entropy = forward(batch)
        if run.progress.step == 2:
            if where == "loss":
                return value * torch.nan, entropy
            value.register_hook(lambda gradient: gradient * torch.nan)
        return value, entropy

    run.loss.forward = broken  # type: ignore[method-assign]
    message = rf"step 3: the loss is .*; training stops and {tmp_path} keeps the best and the last state; try a lower"
    with pytest.raises(DivergedTraining, match=message):
        run.run()
    assert all(bool(torch.isfinite(p).all()) for p in run.loss.parameters()), "the step was not made"
    again = make_trainer(tmp_path)
    assert again.progress.step == 2
    assert all(bool(torch.isfinite(tensor).all()) for tensor in trained_tensors(again.loss).values())


def test_best_is_the_lowest_validation_and_last_the_last(tmp_path: Path) -> None:
    losses = iter([3.0, 1.0, 2.0])
    entries: list[dict[str, Any]] = []
    run = make_trainer(tmp_path, validate=lambda loss: {"loss": next(losses)}, report=entries.append)
    progress = run.run()
    assert [e["step"] for e in progress.history if "validation" in e] == [0, 2, 4] and progress.best == 1.0
    last = {name: tensor.clone() for name, tensor in trained_tensors(run.loss).items()}
    assert run.saved.load_best(run.loss) == 2
    best = trained_tensors(run.loss)
    assert any(not torch.equal(last[name], best[name]) for name in last)
    assert entries == progress.history and make_trainer(tmp_path).progress == progress


def test_a_run_of_other_settings_is_not_resumed(tmp_path: Path) -> None:
    saved = SavedRun(tmp_path / "out" / "training", ALONE)
    saved.begin({"settings": {"rank": 32, "seed": 0}, "checkpoint": "abc"})
    saved.begin({"settings": {"rank": 32, "seed": 0}, "checkpoint": "abc"})
    with pytest.raises(CheckpointError, match=r"out was begun with settings.rank 32, not 8; give it, or another --out"):
        saved.begin({"settings": {"rank": 8, "seed": 0}, "checkpoint": "abc"})
    assert "rate" not in CONFIG.fixed() and CONFIG.fixed()["rank"] == 4


def test_the_rate_warms_up_from_zero_and_falls_to_a_tenth() -> None:
    config = FinetuneConfig(steps=1000, warm_up=100)
    assert [config.rate_factor(step) for step in (0, 50, 100)] == pytest.approx([0.0, 0.5, 1.0])
    assert config.rate_factor(550) == pytest.approx(0.55) and config.rate_factor(1000) == pytest.approx(0.1)
    assert FinetuneConfig().rate_factor(100) == pytest.approx(0.5), "200 steps, as released"
    assert FinetuneConfig(steps=100).rate_factor(10) == pytest.approx(1.0), "at most a tenth of the run"
