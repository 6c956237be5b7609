"""Rehearsal data of the simulated workcell, as fine-tuning reads them."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.cli.main import main
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.camera_renderer import D405_WRIST, D435_FRONT
from molmoact_ros.training.demonstrations import TRAIN_SEED, Sampler
from molmoact_ros.training.finetuning.arrow_data import ArrowData
from molmoact_ros.training.finetuning.examples import ExampleMaker
from molmoact_ros.utils.paths import default_checkpoint, robot_model

COUNT = 8


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> ArrowData:
    folder = tmp_path_factory.mktemp("rehearsal") / "old_tasks"
    assert main(["rehearse", "--samples", str(COUNT), "--out", str(folder)]) == 0
    return ArrowData(folder)


def test_samples_are_labelled_as_in_training_and_normalised_by_the_checkpoint(data: ArrowData) -> None:
    files = CheckpointFolder(default_checkpoint())
    assert (len(data), data.name, data.notes) == (COUNT, "nano_workcell", [])
    assert data.statistics.action == files.config.norm_stats["nano_workcell"].action
    assert data.run["conventions"]["nano_workcell"] == files.run.conventions["nano_workcell"].model_dump(mode="json")
    assert data.episodes.tolist() == list(range(COUNT))
    sampler = Sampler(robot_model())
    for row in range(3):
        arrays, instructions = sampler.sample(TRAIN_SEED + row)
        sample = data.sample(row)
        asked = instructions.index(sample.instruction)
        np.testing.assert_array_equal(sample.trace, arrays["trace"][asked])
        low, high = np.array(data.statistics.action.q01), np.array(data.statistics.action.q99)
        wanted = np.where(data.statistics.action.mask, np.clip(arrays["actions"][asked], low, high), 0)
        actions = data.statistics.action.unnormalise(sample.actions)
        np.testing.assert_allclose(actions[:, :6], wanted[:, :6], atol=2e-4)
        np.testing.assert_allclose(actions[:, 6], arrays["actions"][asked][:, 6], atol=0.01)
        assert [image.shape[:2] for image in sample.images] == [
            (k.height, k.width) for k in (D435_FRONT, D405_WRIST)
        ]  # fmt: skip
    ExampleMaker(files, data).example(data.sample(0), steered=False)


def test_the_nano_knows_them(data: ArrowData) -> None:
    """What it answers to them is nearer to the labels than what it answers to another one's images."""
    engine = open_engine(EngineOptions(), default_checkpoint())

    def wrong(row: int, other: int) -> tuple[float, float]:
        """Error of where the hand is after the chunk, m, and share of wrong depth codes."""
        sample = data.sample(row)
        *_, answer = engine.reason(Observation(data.sample(other).images, sample.instruction, 0.0))
        way = data.statistics.action.unnormalise(sample.actions)[:, :3].sum(0)
        off = float(np.linalg.norm(np.asarray(answer.actions)[:, :3].sum(0) - way))
        return off, float(np.mean(answer.depth_codes != sample.depth_codes))

    own = np.mean([wrong(row, row) for row in range(COUNT)], axis=0)
    others = np.mean([wrong(row, (row + 1) % COUNT) for row in range(COUNT)], axis=0)
    assert own[0] < others[0] / 3
    assert own[1] < others[1]
