"""Examples of MolmoAct 2 are what the engine asks; flow times and noise follow the facts."""

from __future__ import annotations

from functools import cache
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.reasoning.action_convention import GripperPolarity
from molmoact_ros.training.finetuning.augmentation import augment_robot_image
from molmoact_ros.training.finetuning.config import FinetuneConfig, ModelPart
from molmoact_ros.training.finetuning.flow_examples import FlowExampleMaker, collate_flows
from molmoact_ros.training.finetuning.joint_motion import JointRows
from molmoact_ros.training.finetuning.samples import DataError
from molmoact_ros.training.flow_matching import FlowDraw, motion_statistics

GOLDEN = Path(__file__).parents[2] / "golden" / "think_like"
RNG = np.random.default_rng


@cache
def files(folder: Path = GOLDEN) -> RobotCheckpointFolder:
    return RobotCheckpointFolder(folder)


def test_an_example_is_the_engines_prompt_and_the_normalised_chunk(joints: Path) -> None:
    data = JointRows(joints, 16)
    maker = FlowExampleMaker(files(), data)
    example = maker.example(data.sample(1), 3, RNG(0))
    text = files().tokenizer.decode(example.ids.tolist(), skip_special_tokens=False)
    assert "The setup is <setup_start>single franka robotic arm in kitchen<setup_end>." in text
    assert "control mode is <control_start>absolute joint pose<control_end>." in text
    assert text.endswith("<action_output>") and "<depth_output>" not in text
    assert (example.ids == files().config.image_patch_id).sum() == len(example.pooled) == 2 * 196
    stats, sample = maker.scaling.metadata.action_stats, data.sample(1)
    low, high = np.array(stats.q01), np.array(stats.q99)
    wanted = np.clip(2 * (sample.actions - low) / (high - low) - 1, -1, 1)
    np.testing.assert_allclose(example.actions[:, :7], wanted[:, :7], atol=1e-6)
    np.testing.assert_array_equal(example.actions[:, 7], sample.actions[:, 7])
    assert not example.actions[:, 8:].any() and not example.draw.noise[..., 8:].any()
    again = maker.scaling.actions(example.actions)
    np.testing.assert_allclose(again, np.clip(sample.actions, *np.array([low, high])), atol=1e-6)


def test_a_droid_like_checkpoint_keeps_its_gripper(joints: Path, droid_folder: Path) -> None:
    """There 0 is open; the data's 1 is turned, in states, actions and the statistics."""
    data = JointRows(joints, 15)
    maker = FlowExampleMaker(files(droid_folder), data)
    assert maker.convention.gripper == GripperPolarity(open=0, closed=1)
    example = maker.example(data.sample(0), 1, RNG(0))
    np.testing.assert_array_equal(example.actions[:3, 7], 1 - data.sample(0).actions[:3, 7])
    assert maker.convention.stated and maker.convention.dt is None


def test_chunks_that_the_checkpoint_cannot_make_are_refused(joints: Path) -> None:
    with pytest.raises(DataError, match="kitchen has chunks of 17 actions of 8 values; the checkpoint has at most 16"):
        FlowExampleMaker(files(), JointRows(joints, 17))


def test_padding_is_known_as_padding(joints: Path) -> None:
    data = JointRows(joints, 16)
    maker = FlowExampleMaker(files(), data)
    examples = [maker.example(data.sample(row), 2, RNG(row)) for row in (0, 1)]
    batch = maker.collate(examples)
    assert batch.there.sum(1).tolist() == [len(example.ids) for example in examples] and not batch.there.all()
    assert batch.tokens == sum(len(example.ids) for example in examples)
    assert batch.terms == 2 * 2 * 16 * 8 and batch.noise.shape == (2, 2, 16, 32)
    assert collate_flows(examples[:1], batch.moving).there.all()


def test_flow_times_follow_the_beta_law_and_noise_is_normal() -> None:
    draw = FlowDraw.draw(RNG(0), files().config, (200, 50, 4), 8)
    assert draw.times.min() >= 0.001 and draw.times.max() <= 1.0 and draw.times.dtype == np.float32
    assert float(draw.times.mean()) == pytest.approx(0.001 + 0.999 / 2.5, abs=0.01), "the mean of beta(1, 1.5)"
    noise = draw.noise[..., :8]
    assert float(noise.std()) == pytest.approx(1, abs=0.01) and abs(float(noise.mean())) < 0.01


def test_statistics_leave_grippers_as_they_are() -> None:
    values = RNG(0).normal(size=(500, 16))
    stats = motion_statistics(values)
    assert stats.mask == ((True,) * 7 + (False,)) * 2
    np.testing.assert_allclose(stats.q99, np.quantile(values, 0.99, axis=0))
    for mode in ("q01_q99", "q10_q90", "min_max", "mean_std"):
        stats.needs(mode)


def test_augmentation_keeps_the_size_and_changes_the_image() -> None:
    image = RNG(0).integers(0, 256, (60, 80, 3), np.uint8)
    found = augment_robot_image(image, RNG(1))
    assert found.shape == image.shape and found.dtype == np.uint8 and not np.array_equal(found, image)
    np.testing.assert_array_equal(found, augment_robot_image(image, RNG(1)))


def test_the_defaults_are_those_of_the_family() -> None:
    config = FinetuneConfig.of("molmoact2", {"steps": 3})
    assert (config.rank, config.parts) == (64, (ModelPart.DECODER, ModelPart.EXPERT))
    assert config.rates() == dict.fromkeys(config.parts, 5e-5)
    assert FinetuneConfig.of("molmoact", {}) == FinetuneConfig()
    with pytest.raises(ValueError, match="only a MolmoAct 2 has the part expert"):
        FinetuneConfig.of("molmoact", {"parts": ("expert",)})
