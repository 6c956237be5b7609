"""The command from folder to folder: what comes out is a checkpoint that the doctor passes and the engine runs."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.checkpoint import inspect
from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.config import RunConfig
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.action_convention import ActionConvention, GripperPolarity
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import STATISTICS, make_samples, write_arrow

FAST = ("--device", "cpu", "--steps", "1", "--validation", "0", "--batch", "2", "--dropout", "0", "--rank", "4")


def finetune(*words: str | Path) -> int:
    return main(["finetune", *map(str, words)])


def test_the_nano_from_data_to_a_policy(lab: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out"
    words = ("--data", lab, "--out", out, "--device", "cpu", "--batch", "4", "--validation-samples", "1", "--rank", "8")
    assert finetune(*words, "--steps", "2", "--validate-every", "1", "--tensorboard") == 0
    said = capsys.readouterr().out
    for text in ("20 samples of 5 episodes", "million parameters (lora)", "tokens: ", "memory: ", "held out: loss"):
        assert text in said
    files = CheckpointFolder(out)
    assert list(files.config.norm_stats) == ["lab"] and files.config.norm_stats["lab"].action == STATISTICS
    assert (files.run.cameras, files.run.chunk_steps) == (2, (8,))
    assert not [check for check in inspect(out) if check.verdict is Verdict.FAIL]
    sample = make_samples(20)[3]
    *_, answer = TorchEngine.load(out).reason(Observation(sample.images, sample.instruction, 0.0))
    assert answer.actions is not None and answer.actions.shape == (8, 7) and answer.depth_codes is not None
    before, after = (load_file(folder / "model.safetensors") for folder in (default_checkpoint(), out))
    assert any(not torch.equal(before[name], after[name]) for name in before) and before.keys() == after.keys()
    card = (out / "README.md").read_text()
    assert "seed 0" in card and "| position error |" in card and "5 episodes" in card
    training = out / "training"
    for name in ("best", "last", "best-adapter/adapter_config.json", "curves.png", "history.json", "tensorboard"):
        assert (training / name).exists()
    assert [e["step"] for e in json.loads((training / "history.json").read_text()) if "validation" in e] == [0, 1, 2]
    assert finetune(*words, "--steps", "3", "--validate-every", "1") == 0, "more steps go on from the last"
    assert "step 3: held out" in capsys.readouterr().out
    assert finetune(*words[:-1], "16", "--steps", "3") == 1
    assert "was begun with settings.rank 8, not 16" in capsys.readouterr().err


def test_rehearsed_data_keep_their_key_and_what_their_numbers_mean(tmp_path: Path) -> None:
    """Both data sets state it; without it in the result, the controller would refuse what the fine-tune says."""
    stated = {"new": make_convention(0.1), "old": make_convention(0.05)}
    new, old = (write_arrow(tmp_path / key, make_samples(4, seed=seed)) for seed, key in enumerate(stated))
    for folder in (new, old):
        fields = RunConfig(conventions={folder.name: stated[folder.name]}).model_dump(mode="json")
        (folder / "run.json").write_text(json.dumps({"conventions": fields["conventions"]}))
    assert finetune("--data", new, "--rehearse", old, "--out", tmp_path / "out", "--method", "full", *FAST) == 0
    files = CheckpointFolder(tmp_path / "out")
    assert list(files.config.norm_stats) == ["new", "old"]
    assert {key: files.run.convention(key) for key in stated} == stated
    assert all(files.run.convention(key).stated for key in stated)
    assert not (tmp_path / "out" / "training" / "best-adapter").exists()


def test_rehearsed_data_may_have_the_same_key_with_the_same_statistics_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    kinds = ("new", "old", "more")
    for kind in kinds:
        (tmp_path / kind).mkdir()
    new, old, more = (write_arrow(tmp_path / k / "key", make_samples(4, seed=seed)) for seed, k in enumerate(kinds))
    words: list[str | Path] = ["--data", new, "--rehearse", old, "--out", tmp_path / "out", "--method", "full", *FAST]
    assert finetune(*words) == 0
    assert list(CheckpointFolder(tmp_path / "out").config.norm_stats) == ["key"], "the policy needs no unnorm_key"
    assert finetune(*(more if word == old else word for word in words)) == 1
    assert "was begun with data" in capsys.readouterr().err, "both are the run's"
    statistics = json.loads((old / "dataset_statistics.json").read_text())
    statistics["key"]["action"]["q99"][0] *= 2
    (old / "dataset_statistics.json").write_text(json.dumps(statistics))
    assert finetune(*words) == 1
    assert "have the key 'key' with other statistics" in capsys.readouterr().err


def make_convention(dt: float) -> ActionConvention:
    return ActionConvention(
        robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw",
        gripper=GripperPolarity(open=1, closed=0), dt=dt, cameras=("front", "wrist"),
    )  # fmt: skip


def test_what_does_not_fit_is_one_line(
    lab: Path, tmp_path: Path, arrow: Callable[..., Path], capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    def refused(*words: str | Path) -> str:
        assert finetune(*words) == 1
        said = capsys.readouterr().err
        assert said.startswith("error: ") and said.count("\n") == 1
        return said

    out = tmp_path / "out"
    assert "there is no data set" in refused("--data", tmp_path / "none", "--out", out, *FAST)
    one = arrow(make_samples(4, cameras=1))
    assert "data has 1 cameras, and" in refused("--data", one, "--out", out, *FAST)
    assert "they cannot be mixed" in refused("--data", lab, "--rehearse", one, "--out", out, *FAST)
    assert "--quantize is for" in refused("--data", lab, "--out", out, *FAST, "--quantize", "nf4")
    monkeypatch.setattr("molmoact_ros.training.finetuning.finetune.available", lambda device: 2e7)
    assert "needs 0.0" in (said := refused("--data", lab, "--out", out, *FAST)) and "; you have 0.02 GB: use" in said
    assert not out.exists(), "nothing was begun"
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("mine")
    assert "holds something else" in refused("--data", lab, "--out", tmp_path / "mine", *FAST)


@pytest.fixture(scope="module")
def real(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two episodes of one camera in the size of released training, without depth, so that every trace is drawn."""
    samples = [replace(sample, depth_codes=None) for sample in make_samples(8, (240, 320), cameras=1)]
    return write_arrow(tmp_path_factory.mktemp("data") / "real", samples)


def check_trained(released: Path, out: Path) -> list[dict[str, Any]]:
    """The history of a run of one step whose result passes the doctor's checks and has moved in every layer."""
    assert not [check for check in inspect(out) if check.verdict is Verdict.FAIL]
    before, after = map(weights_of, (released, out))
    assert before.keys() == after.keys() and all(before[name].shape == after[name].shape for name in before)
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert {f"model.transformer.blocks.{layer}.mlp.ff_out.weight" for layer in range(28)} <= moved
    assert {
        f"model.vision_backbone.image_vit.transformer.resblocks.{n}.attention.wv.weight" for n in range(25)
    } <= moved
    history: list[dict[str, Any]] = json.loads((out / "training" / "history.json").read_text())
    return history


def weights_of(folder: Path) -> dict[str, torch.Tensor]:
    files = [path for path in sorted(folder.glob("*.safetensors")) if "depth" not in path.name]
    return {name: tensor for path in files for name, tensor in load_file(path).items()}


def test_7b_d_layers_train_by_adapters(released: Path, real: Path, tmp_path: Path) -> None:
    """28 and 25 layers, Qwen's vocabulary, tiny widths."""
    out = tmp_path / "lora"
    assert finetune("--checkpoint", released, "--data", real, "--no-augment", *FAST, "--out", out) == 0
    (entry,) = check_trained(released, out)
    assert np.isfinite([entry["loss"], entry["gradient_norm"]]).all()


@pytest.mark.skipif("MOLMOACT_TWO_PROCESSES" not in os.environ, reason="make test-finetune: minutes of training")
def test_7b_d_layers_train_by_all_weights_in_two_processes_as_in_one(
    released: Path, real: Path, tmp_path: Path
) -> None:
    """The same layers; two processes (FSDP2, gloo) compute what one does."""
    words: list[str | Path] = ["--checkpoint", released, "--data", real, "--no-augment", *FAST, "--method", "full"]
    words += ["--rate", "0.001", "--validation", "0.5", "--validation-samples", "2"]
    assert finetune(*words, "--out", tmp_path / "one") == 0
    program = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    command = [*program, "-m", "molmoact_ros.cli.main", "finetune", *words, "--out", tmp_path / "two"]
    done = subprocess.run(
        [str(word) for word in command], cwd=tmp_path, capture_output=True, text=True, check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    one, two = (check_trained(released, tmp_path / name) for name in ("one", "two"))
    for alone, both in zip(one, two, strict=True):
        figures, others = (entry.get("validation", entry) for entry in (alone, both))
        assert "steered_position_error" in figures or "gradient_norm" in figures
        for name in figures.keys() - {"tokens_per_second"}:
            assert others[name] == pytest.approx(figures[name], rel=1e-4), name
