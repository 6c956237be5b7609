"""The small model for LIBERO: its stages at a tiny size, and where LIBERO is installed the whole of its training."""

from __future__ import annotations

import shutil
from functools import partial
from pathlib import Path

import numpy as np
import pytest
import torch

from molmoact_ros.control.osc_pose import checkpoint_actions, osc_inputs
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.checkpoint import DEPTH
from molmoact_ros.evaluation.libero_corrections import collect_libero_corrections
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.libero_suite import libero_environment
from molmoact_ros.training.demonstrations import ASKED, Demonstrations, save_rows
from molmoact_ros.training.libero_demonstrations import ASTRAY, CONVENTION, SUITES, VIEW, led_astray
from molmoact_ros.training.libero_errands import LiberoErrand
from molmoact_ros.training.libero_recipe import LiberoRecipe, LiberoTrainConfig, train_libero
from molmoact_ros.training.met_states import CorrectionRound
from molmoact_ros.training.train import HELD, RoundConfig
from molmoact_ros.training.training_run import StageConfig, TrainingRun
from molmoact_ros.utils.paths import default_checkpoint

installed = pytest.mark.skipif(not libero_environment().exists(), reason="`make libero` sets up LIBERO")
TINY = RoundConfig(steps=2, batch=2, asked=ASKED, depth=0.5, news=16.0, rate=1e-3, warm_up=1, episodes=1)
CONFIG = LiberoTrainConfig(
    vision=StageConfig(steps=2, batch=2, rate=1e-3, warm_up=1), answer=TINY, action=TINY, correction=TINY, rounds=1,
    tasks=(0,), part=4, held=2, ahead=False,
)  # fmt: skip
ERRANDS = [LiberoErrand(thing, "basket", ("in", f"{thing}_1", "basket_1")) for thing in ("alphabet soup", "milk")]
NAMES = ("alphabet soup", "basket", "milk")


def moments(seed: int, count: int, file: Path) -> Path:
    """Random arrays of the shapes of LIBERO's moments: for what the stages do, not for what they learn."""
    rng = np.random.default_rng(seed)
    inputs = np.concatenate([rng.uniform(-1, 1, (ASKED, 8, 6)), np.ones((ASKED, 8, 1))], axis=2)

    def sample() -> tuple[dict[str, np.ndarray], list[str]]:
        arrays = {
            "images": rng.integers(0, 255, (2, *VIEW, 3), np.uint8),
            "depth": rng.uniform(0.5, 2, (80, 80)).astype(np.float16),
            "trace": rng.integers(0, 255, (ASKED, 3, 2), np.uint8),
            "actions": np.stack([checkpoint_actions(one, CONVENTION) for one in inputs]).astype(np.float32),
            "things": np.array([[0.5, 0, 0], [0.6, 0.2, 0], [np.nan] * 3], np.float32),
            "places": np.array([[0.4, 0.5], [0.2, 0.5], [np.nan] * 2], np.float32),
            "hand": np.array([0.4, 0, 0.3], np.float32), "held": np.array(-1),
            "camera": np.full(13, np.nan, np.float32),
        }  # fmt: skip
        return arrays, [ERRANDS[0].instruction, *(ERRANDS[0].reworded(rng) for _ in range(ASKED - 1))]

    save_rows([sample() for _ in range(count)], file, partial(Demonstrations, names=NAMES))
    return file


def met(order: CorrectionRound) -> tuple[list[Path], dict[str, float]]:
    """In place of episodes: what the stages need to go on, from a policy that can be loaded."""
    open_engine(EngineOptions(), order.checkpoint).close()
    return [moments(order.first_seed, 4, order.folder / "part000.npz")], {"episodes": 1, "success": 0.0}


@pytest.fixture(autouse=True)
def codec(tmp_path: Path) -> None:
    """A depth codec that is in the folder is kept: training one takes minutes."""
    shutil.copy(default_checkpoint() / DEPTH, tmp_path)


@pytest.fixture
def recipe(tmp_path: Path) -> LiberoRecipe:
    moments(5, 2, tmp_path / HELD)
    return LiberoRecipe(Demonstrations.load([moments(0, 6, tmp_path / "part000.npz")]), tmp_path, CONFIG, correct=met)


def test_what_leads_astray_stays_within_the_controllers_inputs() -> None:
    rng, plan = np.random.default_rng(1), np.tile([0.9, -0.9, 0.5, 0, 0, 0.4, -1.0], (8, 1))
    stretches = [led_astray(plan, rng) for _ in range(400)]
    assert {len(stretch) for stretch in stretches} == set(range(2, 9))
    assert all(np.abs(stretch).max() <= 1 for stretch in stretches)
    kept = np.mean([np.array_equal(stretch, plan[: len(stretch)]) for stretch in stretches])
    assert abs(kept - ASTRAY["not"]) < 0.08


def test_numbers_are_those_of_the_released_checkpoints() -> None:
    inputs = np.random.default_rng(0).uniform(-1, 1, (8, 7))
    inputs[:, 6] = np.sign(inputs[:, 6])
    actions = checkpoint_actions(inputs, CONVENTION)
    np.testing.assert_allclose(actions[:, :6], inputs[:, :6])
    np.testing.assert_allclose(osc_inputs(actions, CONVENTION), inputs, atol=1e-12)
    assert set(SUITES) == {"libero_object", "libero_spatial"}


def test_all_stages_and_a_round_lead_to_a_checkpoint_that_the_engine_loads(
    recipe: LiberoRecipe, tmp_path: Path
) -> None:
    assert sum(p.numel() for p in recipe.model.parameters()) < 12e6
    run = TrainingRun(tmp_path, CONFIG, recipe.modules, recipe.stages())
    assert run.names == ["depth", "vision", "answer", "action", "round1"]
    before = recipe.model.lm_head.weight.detach().clone()
    run.run()
    assert run.stage is None and not torch.equal(before, recipe.model.lm_head.weight)
    recipe.save(tmp_path / "checkpoint")
    engine = open_engine(EngineOptions(), tmp_path / "checkpoint")
    assert engine.convention == CONVENTION
    picture = np.full((256, 256, 3), 90, np.uint8)
    *_, answer = engine.reason(Observation((picture, picture), "grab milk and put into basket", 0.0))
    assert answer.actions is not None and osc_inputs(answer.actions, engine.convention).shape == (8, 7)
    with pytest.raises(RefusedStep, match="'ketchup'"):
        list(engine.reason(Observation((picture, picture), "pick up the ketchup and place it in the basket", 0.0)))


@installed
def test_training_from_nothing_to_a_checkpoint(tmp_path: Path) -> None:
    train_libero(tmp_path, 4, CONFIG, 1, partial(collect_libero_corrections, tasks=CONFIG.tasks, workers=1))
    corrected = Demonstrations.load([tmp_path / "round1" / "part000.npz"])
    assert len(corrected.images) > 1 and len(corrected.names) == 22
    shown = Demonstrations.load([tmp_path / "demonstrations" / "part000.npz"])
    assert shown.images.shape == (4, 2, *VIEW, 3) and (shown.hand[:, 2] > 0).all()
    assert np.isfinite(shown.places[:, shown.names.index("basket")]).all()
    open_engine(EngineOptions(), tmp_path / "checkpoint").close()
