"""Demonstrations, batches and training steps of the nano model."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
import torch

from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.training.data_loader import SHORT, BatchMaker
from molmoact_ros.training.demonstrations import ASKED, THINGS, Demonstrations, Sampler, collect
from molmoact_ros.training.expert import CHUNK_STEPS, OPEN, Expert, ExpertPhase
from molmoact_ros.training.nano_model import (
    FEATURE_SIZE,
    feature_size,
    initialise,
    nano_config,
    ordered_tokens,
    size_features,
)
from molmoact_ros.training.soft_targets import SoftTargets
from molmoact_ros.training.stage_answers import SpaceHead, answer_loss, shared_images_forward
from molmoact_ros.training.stage_vision import VisionHead, vision_batches, vision_loss
from molmoact_ros.training.tokenizer import build_tokenizer
from molmoact_ros.utils.paths import robot_model


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Demonstrations:
    part = tmp_path_factory.mktemp("demonstrations") / "part000.npz"
    collect(robot_model(), 2_000_000, 12, part)
    return Demonstrations.load([part])


@pytest.fixture
def learner(data: Demonstrations) -> tuple[MolmoAct, BatchMaker, SoftTargets]:
    torch.manual_seed(0)
    tokenizer = build_tokenizer()
    config = nano_config(tokenizer, NormStats.from_actions(data.actions.reshape(-1, 7)))
    model = MolmoAct(config)
    initialise(model, tokenizer)
    return model, BatchMaker(data, config, tokenizer), SoftTargets.of(tokenizer, config.llm_config.vocab_size)


def test_a_seed_gives_the_same_moment_again(data: Demonstrations) -> None:
    arrays, texts = Sampler(robot_model()).sample(2_000_003)
    for name, row in arrays.items():
        np.testing.assert_array_equal(row, getattr(data, name)[3], err_msg=name)
    assert texts == [data.texts[i] for i in data.instructions[3]] and len(set(texts)) == ASKED


@pytest.mark.parametrize("seed", range(30))
def test_the_experts_plan_goes_by_the_object_and_ends_over_the_target(seed: int) -> None:
    scene = sample_scene(seed)
    placed = scene.object(scene.task.object)
    plan = Expert.from_start(scene, np.array([0.42, 0.0, 0.25]))
    trace, chunk = plan.trace(), plan.chunk()
    assert trace.shape == (3, 3) and chunk.shape == (CHUNK_STEPS, 7)
    assert np.linalg.norm(trace[1] - placed.point) < 0.012
    if scene.task.target is not None:
        goal = scene.object(scene.task.target)
        assert np.linalg.norm(trace[-1][:2] - [goal.x, goal.y]) < 0.015
    assert np.linalg.norm(chunk[:, :2], axis=1).max() < 0.025


@torch.no_grad()
@pytest.mark.parametrize("with_depth", [False, True])
def test_sharing_images_gives_the_numbers_of_whole_sequences(
    learner: tuple[MolmoAct, BatchMaker, SoftTargets], with_depth: bool
) -> None:
    model, maker, _ = learner
    maker.codes = lambda rows: np.full((len(rows), 10, 10), 7)
    batch = maker.batch(np.arange(3), 2, with_depth, np.random.default_rng(0))
    shared = shared_images_forward(model, batch, maker.pooled).hidden
    images = batch.prefix.shape[1]
    ids = torch.cat([batch.prefix.repeat_interleave(2, 0), batch.ids], 1)
    positions = torch.cat([torch.arange(images).expand(6, -1), batch.positions], 1)
    features = model.image_features(batch.crops, maker.pooled.expand(3, -1, -1)).repeat_interleave(2, 0)
    torch.testing.assert_close(shared, model(ids, features, positions)[:, images:], atol=1e-4, rtol=1e-4)


def test_the_loss_falls_and_near_misses_cost_less(learner: tuple[MolmoAct, BatchMaker, SoftTargets]) -> None:
    model, maker, targets = learner
    batch = maker.batch(np.arange(4), 2, False, np.random.default_rng(0))
    space = SpaceHead(model.config.llm_config.hidden_size)
    optimiser = torch.optim.AdamW([*model.parameters(), *space.parameters()], 2e-3)
    losses = []
    for _ in range(12):
        loss = answer_loss(model, space, maker, targets, batch)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.8 * losses[0]
    token = int(batch.targets[0][targets.spread[batch.targets[0]] > 0][0])
    near, far = (torch.nn.functional.one_hot(torch.tensor([token + d]), 1216) * 9.0 for d in (1, 7))
    right, once = torch.tensor([token]), torch.ones(1)
    assert targets.loss(near, right, once) < targets.loss(far, right, once)


@pytest.mark.parametrize("factor", [0.1, 10.0])
@pytest.mark.parametrize("stage", ["vision", "answer"])
def test_every_stage_brings_the_image_features_back_to_their_size(
    stage: str, factor: float, data: Demonstrations, learner: tuple[MolmoAct, BatchMaker, SoftTargets]
) -> None:
    model, maker, targets = learner
    batch = maker.batch(np.arange(4), 2, False, np.random.default_rng(0))
    pooled = maker.pooled.expand(4, -1, -1)
    size_features(model, batch.crops, pooled)
    assert feature_size(model, batch.crops, pooled) == pytest.approx(FEATURE_SIZE, rel=1e-4)
    last = model.model.vision_backbone.image_projector.w2.weight
    with torch.no_grad():
        last.mul_(factor)
    width = model.config.llm_config.hidden_size
    if stage == "vision":
        views = next(vision_batches(data, 6, seed=0, first=0))
        loss = vision_loss(model, VisionHead(width), maker, views)
    else:
        loss = answer_loss(model, SpaceHead(width), maker, targets, batch)
    loss.backward()
    assert last.grad is not None
    growth = -float((last.grad * last).sum())  # how far a step along the gradient makes the features grow
    assert growth > 5 if factor < 1 else growth < -5


def test_what_an_action_newly_says_counts_more(
    data: Demonstrations, learner: tuple[MolmoAct, BatchMaker, SoftTargets]
) -> None:
    maker = learner[1]
    batch = maker.batch(np.arange(4), 1, False, np.random.default_rng(0))
    for row in range(4):
        chunk = np.isin(batch.targets[row], maker.action_ids)
        news = batch.news[row].numpy()[chunk].reshape(CHUNK_STEPS, 7)
        assert news.sum() == batch.news[row].sum(), "nothing but values of actions"
        changed = np.abs(np.diff(data.actions[row, 0], axis=0)) > 1e-3  # far more than a bin
        assert news[0].all() and news[1:][changed].all() and not news[1:, 3:6].any()


def test_batches_are_the_same_wherever_one_begins(learner: tuple[MolmoAct, BatchMaker, SoftTargets]) -> None:
    maker = learner[1]
    whole = list(islice(maker.batches(5, 1, 0.0, seed=3), 5))
    later = list(islice(maker.batches(5, 1, 0.0, seed=3, first=3), 2))
    for one, other in zip(whole[3:], later, strict=True):
        torch.testing.assert_close(vars(one), vars(other), equal_nan=True)
    assert not torch.equal(whole[0].crops, whole[2].crops), "each epoch has an order of its own"


def test_a_short_answer_is_the_beginning_of_the_whole_one(
    learner: tuple[MolmoAct, BatchMaker, SoftTargets],
) -> None:
    maker = learner[1]
    whole, short = (maker.sequence(3, 1, None, cut) for cut in (False, True))
    length = len(short[0])
    assert np.isin(short[0], maker.action_ids).sum() == SHORT * 7 and np.isin(short[0][-1], maker.action_ids)
    for cut, kept in zip(short[:2], whole[:2], strict=True):
        np.testing.assert_array_equal(cut, kept[:length])
    batch = maker.batch(np.arange(4), 2, False, np.random.default_rng(0), short=True)
    assert batch.ids.shape[1] < 0.7 * len(whole[0]) and not (batch.targets == maker.end).any()


def test_numbers_begin_like_their_neighbours(learner: tuple[MolmoAct, BatchMaker, SoftTargets]) -> None:
    model = learner[0]
    for ids in ordered_tokens(build_tokenizer()):
        rows = model.lm_head.weight[ids]
        step, far = rows.diff(dim=0).norm(dim=1).mean(), (rows[0] - rows[-1]).norm()
        assert step < 0.1 * far


def test_image_tokens_learn_to_name_and_place_what_they_show(
    data: Demonstrations, learner: tuple[MolmoAct, BatchMaker, SoftTargets]
) -> None:
    model, maker, _ = learner
    head = VisionHead(model.config.llm_config.hidden_size)
    crops, places = next(vision_batches(data, 6, seed=0, first=0))
    there = ~torch.isnan(places).any(-1)
    assert crops.shape[:2] == (6, 1) and there[:, :12].sum(1).min() >= 3 and there[:, 20:23].sum(1).min() >= 2
    optimiser = torch.optim.AdamW([*model.model.vision_backbone.parameters(), *head.parameters()], 1e-3)
    losses = []
    for _ in range(25):
        loss = vision_loss(model, head, maker, (crops, places))
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[-1] < 0.6 * losses[0]


def test_a_name_points_at_the_thing_that_the_trace_goes_to(
    data: Demonstrations, learner: tuple[MolmoAct, BatchMaker, SoftTargets]
) -> None:
    maker = learner[1]
    rows = np.arange(len(data.images))
    batch = maker.batch(rows, ASKED, False, np.random.default_rng(0))
    pointed = 0
    for sequence, points in enumerate(batch.points):
        row, asked = divmod(sequence, ASKED)
        named = batch.ids[sequence][~points.isnan().any(-1)]
        words = data.texts[data.instructions[row, asked]]
        assert {THINGS[int((maker.things == token).nonzero())] for token in named} <= {t for t in THINGS if t in words}
        pointed += len(named) > 0
    assert pointed == len(batch.points), "every instruction names something that is there"


def test_a_name_knows_how_far_its_thing_is_from_the_hand(
    data: Demonstrations, learner: tuple[MolmoAct, BatchMaker, SoftTargets]
) -> None:
    maker = learner[1]
    batch = maker.batch(np.arange(len(data.images)), ASKED, False, np.random.default_rng(0))
    named = ~batch.points.isnan().any(-1)
    assert torch.equal(named, ~batch.offsets.isnan().any(-1))
    sequence, place = named.nonzero(as_tuple=True)
    for i, token, offset in zip(sequence, batch.ids[sequence, place], batch.offsets[sequence, place], strict=True):
        thing = int((maker.things == token).nonzero())
        np.testing.assert_allclose(batch.hand[i] + offset, data.things[int(i) // ASKED, thing], atol=1e-6)


@pytest.mark.parametrize("opening", [0.05, 0.06, OPEN])
def test_closing_once_begun_goes_on_around_the_object(opening: float) -> None:
    scene = sample_scene(3)
    thing = scene.object(scene.task.object).point
    off = ExpertPhase(thing + [0.01, 0.0, 0.012], opening, thing, held=False)
    move, gripper = Expert(scene).act(off)
    if opening == OPEN:
        assert gripper == 1.0 and np.linalg.norm(move) > 0, "not aligned yet"
    else:
        assert gripper == 0.0 and not move.any()
    far = ExpertPhase(thing + [0.05, 0.0, 0.0], opening, thing, held=False)
    assert Expert(scene).act(far)[1] == 1.0, "nothing there to close on"


def test_the_hand_is_shown_all_over_the_table() -> None:
    poses = np.array([state.tcp for _, state, _, _ in map(Sampler(robot_model()).moment, range(40))])
    assert poses[:, 1].min() < -0.1 and poses[:, 1].max() > 0.1
    assert len(np.unique(poses[:, 1])) == len(poses)
