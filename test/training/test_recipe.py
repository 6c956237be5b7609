"""The nano's whole recipe at a size at which it takes seconds: every stage, a round of correction, a checkpoint."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from molmoact_ros.engine.model.checkpoint import DEPTH, load_checkpoint
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.evaluation.corrections import collect_corrections
from molmoact_ros.evaluation.rollout import sample_observations
from molmoact_ros.training.demonstrations import Demonstrations
from molmoact_ros.training.train import AnswerStageConfig, RoundConfig, StageConfig, TrainConfig, train_nano
from molmoact_ros.utils.paths import default_checkpoint, robot_model

STEPS = dict(steps=2, batch=2, rate=1e-3, warm_up=1)
TINY = TrainConfig(
    vision=StageConfig(**STEPS), answer=AnswerStageConfig(**STEPS, asked=2, depth=0.5),
    action=AnswerStageConfig(**STEPS, news=16.0), strokes=AnswerStageConfig(**STEPS, steered=0.5), rounds=1,
    correction=RoundConfig(**STEPS, episodes=2, seconds=0.9), held=3,
)  # fmt: skip
STAGES = ["depth", "vision", "answer", "action", "strokes", "round1"]


def train(folder: Path) -> None:
    correct = partial(collect_corrections, robot=robot_model(), workers=1)
    train_nano(robot_model(), folder, 6, TINY, workers=1, correct=correct)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("nano")
    shutil.copy(default_checkpoint() / DEPTH, folder)  # to train one takes a minute
    train(folder)
    return folder


def test_every_stage_leaves_its_time_and_the_report_tells_it(run: Path) -> None:
    times = json.loads((run / "times.json").read_text())
    assert list(times) == ["demonstrations", *STAGES]
    report = (run / "report.md").read_text()
    assert all(f"| {name} |" in report for name in times) and "torch" in report
    history = json.loads((run / "history.json").read_text())
    assert {entry["stage"] for entry in history if "thing_mm" in entry} == {*STAGES[2:]}
    assert [entry["episodes"] for entry in history if "episodes" in entry] == [2]


def test_the_checkpoint_answers(run: Path) -> None:
    engine = TorchEngine.load(run / "checkpoint", vision="torch")
    (observation,) = sample_observations(robot_model(), 1)
    *_, reasoning = engine.reason(observation)
    assert reasoning.actions is not None and np.asarray(reasoning.actions).shape == (8, 7)
    assert reasoning.depth_codes is not None and np.asarray(reasoning.depth_codes).shape == (10, 10)


def test_a_round_labels_what_its_policy_met(run: Path) -> None:
    met = Demonstrations.load([run / "round1" / "part000.npz"])
    outcomes = json.loads((run / "round1" / "part000.json").read_text())
    assert [outcome["period"] for outcome in outcomes] == [0.0, 0.75] and len(met.images) == 4
    assert (met.actions != 0).any() and not np.isnan(met.hand).any()
    policy, last = (load_checkpoint(run / name).model for name in ("round1/policy", "checkpoint"))
    assert not torch.equal(policy.lm_head.weight, last.lm_head.weight), "it has learnt from them"


def test_a_finished_run_is_not_trained_again(run: Path) -> None:
    before = load_checkpoint(run / "checkpoint").digest
    part = (run / "round1" / "part000.npz").stat().st_mtime_ns
    train(run)
    assert load_checkpoint(run / "checkpoint").digest == before
    assert (run / "round1" / "part000.npz").stat().st_mtime_ns == part


def test_a_run_of_other_settings_is_not_resumed(run: Path) -> None:
    with pytest.raises(CheckpointError, match="begun with samples 6, not 7"):
        train_nano(robot_model(), run, 7, TINY)


def test_the_shipped_weights_are_trained_on_with_their_own_words(tmp_path: Path) -> None:
    train_nano(robot_model(), tmp_path, 6, TINY, default_checkpoint(), workers=1)
    begun, found = load_checkpoint(default_checkpoint()), load_checkpoint(tmp_path / "checkpoint")
    assert found.tokenizer.get_vocab() == begun.tokenizer.get_vocab() and found.config == begun.config
    assert list(json.loads((tmp_path / "times.json").read_text())) == ["demonstrations", "strokes"]
    change = (found.model.lm_head.weight - begun.model.lm_head.weight).abs().max()
    assert 0 < change < 0.01
