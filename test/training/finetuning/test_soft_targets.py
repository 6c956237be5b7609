"""Soft targets in a fine-tune are those of the small models' training."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.examples import AnswerBatch, ExampleMaker, collate
from molmoact_ros.training.finetuning.losses import AnswerLoss
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.soft_targets import ACTION_SPREAD, SoftTargets
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import Labelled, make_samples

SOFT = FinetuneConfig(method=Method.FULL, dropout=0.0, z_weight=0.0, targets="soft")


@pytest.fixture(scope="module")
def files() -> CheckpointFolder:
    return CheckpointFolder(default_checkpoint())


@pytest.fixture(scope="module")
def batch(files: CheckpointFolder) -> AnswerBatch:
    samples = make_samples(2)
    maker = ExampleMaker(files, Labelled(samples))
    return collate([maker.example(sample, steered=False) for sample in samples])


def loss_of(files: CheckpointFolder, config: FinetuneConfig) -> AnswerLoss:
    loss = build_model(files, config)
    fill_model(loss, files, config, torch.device("cpu"))
    assert isinstance(loss, AnswerLoss)
    return loss


def test_the_loss_is_the_weighted_mean_of_the_recipe(files: CheckpointFolder, batch: AnswerBatch) -> None:
    loss = loss_of(files, SOFT)
    value, entropy = loss(batch)
    model, there = loss.model, (batch.pooled >= 0).any(-1)
    features = model.image_features(batch.crops, batch.pooled)
    learnt = batch.targets >= 0
    logits = model.logits(model(batch.ids, features[there].unsqueeze(0))[learnt])
    targets, vocabulary = batch.targets[learnt], files.config.llm_config.vocab_size
    wanted = SoftTargets.of(files.tokenizer, vocabulary).loss(logits, targets, torch.ones(len(targets)))
    torch.testing.assert_close(value / batch.terms, wanted)
    torch.testing.assert_close(entropy / batch.terms, F.cross_entropy(logits, targets).detach())
    hard, _ = loss_of(files, SOFT.model_copy(update={"targets": "hard"}))(batch)
    torch.testing.assert_close(hard / batch.terms, F.cross_entropy(logits, targets))


def test_a_near_miss_of_an_action_costs_less_than_a_far_one(files: CheckpointFolder) -> None:
    vocabulary = files.config.llm_config.vocab_size
    targets, symbol = SoftTargets.of(files.tokenizer, vocabulary), files.tokenizer.token_to_id
    right = symbol(ACTION_SYMBOLS[100])
    said = [symbol(ACTION_SYMBOLS[100 + off]) for off in (0, round(ACTION_SPREAD), 40)]
    logits = 8.0 * F.one_hot(torch.tensor(said), vocabulary).float()
    same, near, far = (float(targets.loss(row[None], torch.tensor([right]), torch.ones(1))) for row in logits)
    assert same < near < far


def test_a_tokenizer_without_numbers_as_tokens_is_refused_in_one_line(released: Path) -> None:
    with pytest.raises(CheckpointError, match="--targets soft is for the small models") as error:
        build_model(CheckpointFolder(released), SOFT)
    assert "\n" not in str(error.value)
