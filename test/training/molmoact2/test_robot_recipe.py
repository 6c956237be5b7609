"""All stages at a tiny size, from demonstrations to a folder that the engine runs and the controller plays."""

from __future__ import annotations

import json
import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from molmoact_ros.control.controller import Controller
from molmoact_ros.doctor.checkpoint import inspect
from molmoact_ros.engine.model.checkpoint import load_checkpoint
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.engine.molmoact2.model import MolmoAct2, side_by_side
from molmoact_ros.evaluation.corrections import collect_corrections
from molmoact_ros.evaluation.rollout import EpisodeResult, observe, run_episode, state_of
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.met_states import CorrectionRound
from molmoact_ros.training.molmoact2.joint_demonstrations import JointDemonstrations
from molmoact_ros.training.molmoact2.recipe import (
    JointRoundConfig,
    JointStageConfig,
    RobotRecipe,
    RobotTrainConfig,
    train_robot_model,
)
from molmoact_ros.training.molmoact2.small_model import TAG, begin_from
from molmoact_ros.training.molmoact2.stage_joints import SIZE, shared_images_context
from molmoact_ros.training.train import HELD, ROUND_SEED
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import default_checkpoint, robot_model

TINY = JointStageConfig(steps=1, batch=2, rate=1e-3, asked=2, flow_times=2, warm_up=1)
CONFIG = RobotTrainConfig(
    reach=TINY, whole=TINY, rounds=1, ahead=False, held=2,
    correction=JointRoundConfig(**TINY.model_dump(), episodes=1, seconds=1.0),
)  # fmt: skip
SAMPLES = 4


def train(folder: Path, config: RobotTrainConfig = CONFIG) -> MolmoAct2:
    correct = partial(collect_corrections, robot=robot_model(), workers=1)
    return train_robot_model(robot_model(), folder, SAMPLES, config, workers=1, correct=correct)


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a whole run, with an episode of a second."""
    folder = tmp_path_factory.mktemp("nano2")
    train(folder)
    return folder


@pytest.fixture(scope="module")
def engine(trained: Path) -> MolmoAct2Engine:
    return MolmoAct2Engine.load(trained / "checkpoint", threads=1)


def test_the_folder_is_a_small_checkpoint(trained: Path) -> None:
    folder = trained / "checkpoint"
    assert not [check for check in inspect(folder) if check.verdict is not Verdict.OK]
    model = MolmoAct2Engine.load(folder).model
    assert sum(parameter.numel() for parameter in model.parameters()) < 8e6
    assert sum(file.stat().st_size for file in folder.iterdir()) < 40e6
    history = json.loads((trained / "history.json").read_text())
    assert {entry["stage"] for entry in history if "joint_mrad" in entry} == {"reach", "whole", "round1"}
    for name in ("times.json", "history.json", "curves.png", "report.md", "round1/part000.npz"):
        assert (trained / name).exists()


def test_corrections_are_moments_of_the_episode(trained: Path) -> None:
    met = JointDemonstrations.load([trained / "round1" / "part000.npz"])
    assert len(met.state) == 2 and met.chunks.shape[1:] == (4, 8, 8)
    assert met.texts[met.instructions[0, 0]] == sample_scene(ROUND_SEED).task.instruction
    np.testing.assert_allclose(met.state[0, 7], 1.0, atol=0.02)


def test_an_interrupted_run_gives_the_weights_of_an_uninterrupted_one(trained: Path, tmp_path: Path) -> None:
    """It is cut when its round of correction begins, and goes on with what that round has collected."""
    for name in ("demonstrations", HELD):
        (tmp_path / name).symlink_to(trained / name)

    def cut(order: CorrectionRound) -> tuple[list[Path], dict[str, float]]:
        for part in (trained / "round1").glob("part000.*"):
            shutil.copy(part, order.folder)
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        train_robot_model(robot_model(), tmp_path, SAMPLES, CONFIG, workers=1, correct=cut)
    model = train(tmp_path)
    whole = MolmoAct2Engine.load(trained / "checkpoint").model.state_dict()
    assert all(torch.equal(tensor, whole[name]) for name, tensor in model.state_dict().items())
    with pytest.raises(CheckpointError, match=r"was begun with settings.held 2, not 3; give it, or another --out"):
        train(tmp_path, CONFIG.model_copy(update={"held": 3}))


def test_the_engine_steps_and_an_episode_runs_in_lock_step(engine: MolmoAct2Engine) -> None:
    cell, controller = Workcell(robot_model()), Controller(robot_model())
    seen: list[Observation] = []
    result: EpisodeResult = run_episode(
        cell,
        engine,
        controller,
        sample_scene(1),
        lambda observation, _: seen.append(observation),
        timeout=0.6,
    )
    assert len(result.step_times) == len(seen) == 1 and not result.refusals
    state = seen[0].state
    assert state is not None and state.values.shape == (8,)
    np.testing.assert_allclose(state_of(cell, engine.convention)[:7], cell.arm.positions[:7])
    assert engine.action_shape == (8, 8) and engine.unnorm_key == TAG


def test_words_that_it_does_not_know_are_refused(engine: MolmoAct2Engine) -> None:
    cell = Workcell(robot_model())
    cell.reset(sample_scene(1))
    state = RobotState(state_of(cell, engine.convention), 0.0)
    seen = observe(cell, "put the kettle in the bowl", 0.0)
    with pytest.raises(RefusedStep, match="does not know 'kettle'"):
        next(engine.reason(Observation(seen.images, seen.instruction, 0.0, state=state)))


@pytest.fixture(scope="module")
def recipe(trained: Path, tmp_path_factory: pytest.TempPathFactory) -> RobotRecipe:
    data = JointDemonstrations.load(sorted((trained / "demonstrations").glob("*.npz")))
    return RobotRecipe(data, tmp_path_factory.mktemp("recipe"), CONFIG, default_checkpoint())


@torch.no_grad()
def test_shared_images_are_those_of_whole_prompts(recipe: RobotRecipe) -> None:
    model, batch = recipe.model, recipe.maker.batch(np.array([0, 2]), 2, 1, np.random.default_rng(0))
    features = model.image_features(batch.crops, batch.pooled.expand(2, -1, -1))
    context, _ = shared_images_context(model, batch, features)
    for row in range(4):
        ids = torch.cat([batch.prefix, batch.ids[row, : int(batch.last[row]) + 1]]).unsqueeze(0)
        read = model.prefill(model.embed(ids, features[row // 2 : row // 2 + 1]), model.readable(ids))
        alone = model.action_expert.context(side_by_side(read.keys), side_by_side(read.values))
        for shared, own in zip(context, alone, strict=True):
            for found, wanted in zip(shared, own, strict=True):
                torch.testing.assert_close(found[row : row + 1, :, : ids.shape[1]], wanted, atol=1e-5, rtol=1e-4)


def test_the_tower_and_the_words_begin_as_the_nanos(recipe: RobotRecipe) -> None:
    nano, model = load_checkpoint(default_checkpoint()), recipe.model
    taken = begin_from(MolmoAct2(model.config), recipe.tokenizer, nano)
    assert set(taken) == {name for name in model.state_dict() if "vision_backbone" in name}
    mine, theirs = model.model.transformer.wte.embedding, nano.model.model.transformer.wte.embedding
    for word in (" red cube", " bowl", "Image 1"):
        rows = (tokenizer.token_to_id(word) for tokenizer in (recipe.tokenizer, nano.tokenizer))
        assert torch.equal(*(table[row] for table, row in zip((mine, theirs), rows, strict=True)))
    batch = recipe.maker.batch(np.arange(4), 1, 1, np.random.default_rng(0))
    with torch.no_grad():
        size = model.image_features(batch.crops, batch.pooled.expand(4, -1, -1)).square().mean()
    assert float(size) == pytest.approx(SIZE, rel=0.2)
