"""The command on a MolmoAct 2: what comes out is a folder that the doctor passes and the engine runs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.checkpoint import inspect
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.engine.molmoact2.engine import MolmoAct2Engine
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.examples import Mixture
from molmoact_ros.training.finetuning.flow_examples import FlowExampleMaker
from molmoact_ros.training.finetuning.joint_motion import JointRows
from molmoact_ros.training.finetuning.model import build_model, fill_model
from molmoact_ros.training.finetuning.processes import Processes
from molmoact_ros.training.finetuning.saved_run import SavedRun, trained_tensors
from molmoact_ros.training.finetuning.trainer import FinetuneTrainer
from molmoact_ros.utils.checks import Verdict

from .conftest import make_samples

CPU = torch.device("cpu")
CONFIG = FinetuneConfig.of(
    "molmoact2", {"rank": 4, "steps": 4, "batch": 2, "save_every": 2, "seed": 5, "flow_times": 2}
)


def finetune(*words: str | Path) -> int:
    return main(["finetune", *map(str, words)])


def test_from_data_to_a_policy(
    joints: Path, droid_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    words: list[str | Path] = ["--checkpoint", droid_folder, "--data", joints, "--out", out, "--device", "cpu"]
    words += ["--batch", "2", "--validation-samples", "1", "--validation", "0.3", "--flow-times", "2"]
    assert finetune(*words, "--steps", "2", "--validate-every", "1") == 0
    said = capsys.readouterr().out
    for text in (
        "12 samples of 3 episodes",
        "norm_tag: kitchen, 15 actions",
        "million parameters (lora)",
        "joint error",
    ):
        assert text in said
    assert not [check for check in inspect(out) if check.verdict is Verdict.FAIL]
    files = RobotCheckpointFolder(out)
    assert list(files.stats.metadata_by_tag) == list(files.run.conventions) == ["kitchen"]
    engine, sample = MolmoAct2Engine.load(out), make_samples(1)[0]
    state = RobotState(np.array([*np.arange(7) / 10, 0.0]), 0.0)
    *_, answer = engine.reason(Observation(sample.images, "pick up the red cube", 0.0, state=state))
    assert answer.actions is not None and answer.actions.shape == (15, 8)
    before, after = (load_file(folder / "model.safetensors") for folder in (droid_folder, out))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert "model.transformer.blocks.0.self_attn.att_proj.weight" in moved
    assert "model.action_expert.action_embed.weight" in moved
    assert not [name for name in moved if "vision_backbone" in name or name == "lm_head.weight"]
    card = (out / "README.md").read_text()
    assert "the expert whole, on decoder, expert" in card and "| joint error |" in card and "| gripper equal |" in card
    history = json.loads((out / "training" / "history.json").read_text())
    assert [entry["step"] for entry in history if "validation" in entry] == [0, 1, 2]
    assert finetune(*words, "--steps", "3", "--validate-every", "1") == 0, "more steps go on from the last"
    assert main(["merge", str(out / "training" / "best-adapter"), "--out", str(tmp_path / "merged")]) == 0


def test_data_without_joints_are_refused_in_one_line(
    lab: Path, droid_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert finetune("--checkpoint", droid_folder, "--data", lab, "--out", tmp_path / "out") == 1
    said = capsys.readouterr().err
    assert "lab has no column 'joint_motion'; label it first" in said and said.count("\n") == 1


@pytest.mark.parametrize("method", list(Method))
def test_interrupted_and_resumed_equals_uninterrupted_to_the_bit(
    joints: Path, droid_folder: Path, tmp_path: Path, method: Method
) -> None:
    """With dropout, augmentation and noise; it stops after step 3, and goes on from what was saved at 2."""
    config = CONFIG.model_copy(update={"method": method})
    files, data = RobotCheckpointFolder(droid_folder), JointRows(joints, 15)
    mixture = Mixture([(data, FlowExampleMaker(files, data), np.arange(12))], config)

    def make(folder: Path) -> FinetuneTrainer:
        loss = build_model(files, config)
        fill_model(loss, files, config, CPU)
        saved = SavedRun(folder, Processes(0, 1, CPU))
        return FinetuneTrainer(loss, mixture, config, Processes(0, 1, CPU), 1, saved, None, lambda entry: None)

    whole = make(tmp_path / "whole")
    whole.run()
    cut = make(tmp_path / "cut")
    step: Callable[[Any], dict[str, Any]] = cut.step

    def interrupted(batches: Any) -> dict[str, Any]:
        if cut.progress.step == 3:
            raise KeyboardInterrupt
        return step(batches)

    cut.step = interrupted  # type: ignore[method-assign]
    with pytest.raises(KeyboardInterrupt):
        cut.run()
    resumed = make(tmp_path / "cut")
    assert resumed.progress.step == 2
    resumed.run()
    wanted, found = trained_tensors(whole.loss), trained_tensors(resumed.loss)
    assert wanted.keys() == found.keys() and all(torch.equal(wanted[name], found[name]) for name in wanted)
