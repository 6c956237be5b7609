"""Figures of a validation are in mm, degrees, pixels and percent, and read what the model in training says."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.reasoning.action_convention import RELEASED, UNSTATED
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.training.finetuning.config import FinetuneConfig
from molmoact_ros.training.finetuning.examples import ExampleMaker
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.finetuning.validation import UNITS, AnswerValidator, action_errors, summary, trace_error
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import STATISTICS, Labelled, make_samples

CPU = torch.device("cpu")
CONFIG = FinetuneConfig(rank=4, validation_samples=1)


def make_validator(cameras: int = 2) -> AnswerValidator:
    files, data = CheckpointFolder(default_checkpoint()), Labelled(make_samples(4, cameras=cameras))
    return AnswerValidator(files, ExampleMaker(files, data), data, np.arange(4), CONFIG, Processes(0, 1, CPU))


def test_errors_are_those_after_the_chunk() -> None:
    wanted = np.zeros((8, 7))
    wanted[:, :6] = np.random.default_rng(0).uniform(-0.02, 0.02, (8, 6))
    wanted[4:, 6] = 1.0
    assert action_errors(wanted, wanted, UNSTATED) == pytest.approx(
        {"position_error": 0.0, "rotation_error": 0.0, "gripper_equal": 100.0}, abs=1e-5
    )
    found = wanted.copy()
    found[2, 0] += 0.003
    found[5, 1] -= 0.004
    found[7, 3:6] = 0
    wanted[7, 3:6] = (0, 0, np.radians(5))
    found[0, 6] = 0.9
    errors = action_errors(found, wanted, UNSTATED)
    assert errors == pytest.approx({"position_error": 5.0, "rotation_error": 5.0, "gripper_equal": 87.5}, abs=1e-3)
    both = np.concatenate([found[:, :3], wanted[:, :3], found[:, 3:6], wanted[:, 3:6], found[:, 6:], wanted[:, 6:]], 1)
    twice = np.concatenate([wanted[:, :3]] * 2 + [wanted[:, 3:6]] * 2 + [wanted[:, 6:]] * 2, 1)
    assert action_errors(both, twice, UNSTATED)["position_error"] == pytest.approx(2.5, abs=1e-3), (
        "the mean over both arms"
    )
    assert action_errors(np.zeros((8, 8)), np.zeros((8, 8)), UNSTATED) == {}


def test_errors_are_by_what_the_numbers_mean() -> None:
    """LIBERO's are in 5 cm and half radians; poses count where they end; in the hand's frame turns lead elsewhere."""
    wanted = np.zeros((8, 7))
    found = wanted.copy()
    found[1, 0], found[7, 5] = 0.1, 0.1
    assert action_errors(found, wanted, RELEASED["libero_10_no_noops_modified"]) == pytest.approx(
        {"position_error": 5.0, "rotation_error": np.degrees(0.05), "gripper_equal": 100.0}
    )
    poses = UNSTATED.model_copy(update={"space": "ee_pose"})
    assert action_errors(found, wanted, poses) == pytest.approx(
        {"position_error": 0.0, "rotation_error": np.degrees(0.1), "gripper_equal": 100.0}
    )
    hand = UNSTATED.model_copy(update={"frame": "hand"})
    turned, straight = np.zeros((2, 7)), np.zeros((2, 7))
    turned[0, 5] = np.pi / 2
    turned[1, 0] = straight[1, 0] = 0.01
    assert action_errors(turned, straight, hand)["position_error"] == pytest.approx(10 * np.sqrt(2))
    assert action_errors(turned, straight, UNSTATED)["position_error"] == 0.0
    joints = UNSTATED.model_copy(update={"space": "joint_position"})
    assert action_errors(np.zeros((8, 8)), np.ones((8, 8)), joints) == {}


def test_traces_are_compared_in_pixels_of_the_camera() -> None:
    trace = np.array([[0, 0], [255, 0]])
    assert trace_error(trace, trace, 640, 480) == 0.0
    assert trace_error(trace + [0, 51], trace, 640, 480) == pytest.approx(96.0, abs=1.0)
    assert trace_error(np.array([[0, 0], [100, 0], [255, 0]]), trace, 640, 480) < 1.0, "more points on the same line"
    assert trace_error(np.array([[0, 0]]), trace, 641, 480) == pytest.approx(320.0, abs=1.0)


def test_a_perfect_answer_has_no_error_and_a_wrong_one_its_size() -> None:
    validator = make_validator()
    sample = validator.data.sample(1)
    actions = STATISTICS.unnormalise(sample.actions)
    answer = Reasoning(sample.depth_codes, sample.trace, actions, complete=True)
    assert sample.depth_codes is not None and sample.trace is not None
    perfect = validator.errors(sample, answer)
    assert perfect["depth_equal"] == 100 and perfect["trace_error"] == 0 and perfect["position_error"] < 1e-4
    codes = sample.depth_codes.copy()
    codes[:3] = (codes[:3] + 1) % 128
    assert validator.errors(sample, replace(answer, depth_codes=codes))["depth_equal"] == 70
    apart = replace(answer, actions=actions + np.eye(8, 7) * 0.001)
    metres = validator.errors(sample, apart)["position_error"]
    scaled = UNSTATED.model_copy(update={"position_scale": 0.05})
    validator.maker.run = validator.maker.run.model_copy(update={"conventions": {validator.data.name: scaled}})
    assert validator.errors(sample, apart)["position_error"] == pytest.approx(metres * 0.05) and metres > 1


def test_the_adapters_are_seen_and_nothing_is_trained() -> None:
    """The head's adapter, too, which is beside the weights that a plain engine reads."""
    validator, files = make_validator(), CheckpointFolder(default_checkpoint())
    loss = build_model(files, CONFIG)
    fill_model(loss, files, CONFIG, CPU)
    before = validator.figures(loss)
    joints = {"joint_error", "last_joint_error"}
    assert set(before) == set(UNITS) - {"action_error", "steered_action_error"} - joints
    assert loss.training and all(parameter.grad is None for parameter in loss.parameters())
    assert validator.figures(loss) == before
    with torch.no_grad():
        for name, parameter in loss.model.named_parameters():
            if name == "lm_head.lora_B.default.weight":
                parameter.normal_(generator=torch.Generator().manual_seed(0))
    after = validator.figures(loss)
    assert after["position_error"] != before["position_error"] and after["loss"] != before["loss"]
    assert "position error" in summary(after) and " mm" in summary(after)


def test_a_sample_that_cannot_reason_is_validated_by_its_trace() -> None:
    validator, files = make_validator(), CheckpointFolder(default_checkpoint())
    samples = [replace(sample, depth_codes=None) for sample in make_samples(4)]
    validator.data = Labelled(samples)
    loss = build_model(files, CONFIG)
    fill_model(loss, files, CONFIG, CPU)
    assert set(validator.figures(loss)) == {
        "loss", "steered_position_error", "steered_rotation_error", "steered_gripper_equal"
    }  # fmt: skip
