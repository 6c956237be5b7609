"""A look at a folder without its weights: what is wrong is named, what is unusual is noted."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors.torch import load_file, save_file

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.checkpoint import REPORTED_STANDSTILL, inspect
from molmoact_ros.engine.model.weight_files import read_headers
from molmoact_ros.utils.checks import Verdict
from molmoact_ros.utils.paths import default_checkpoint


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "copy"
    shutil.copytree(released, folder, ignore=shutil.ignore_patterns("depth_vq.safetensors"))
    return folder


def texts(folder: Path, verdict: Verdict) -> str:
    return "\n".join(f"{f.name}: {f.text}" for f in inspect(folder) if f.verdict is verdict)


def edit(folder: Path, name: str, change: Callable[[Any], object]) -> None:
    content = json.loads((folder / name).read_text())
    change(content)
    (folder / name).write_text(json.dumps(content))


def test_a_whole_folder_is_fine_and_says_what_it_is(copy: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["doctor", "--checkpoint", str(copy)]) == 0
    shown = capsys.readouterr().out
    for line in (
        "SigLIP-like tower of 27 layers", "Qwen2-like decoder of 28 layers", "all accounted for", "F32 in 3 file(s)",
        "from 152064 on, image_patch_id 152066", "<DEPTH_START> is 151665, as expected", "151643 byte-pair tokens",
        "'Image 1' is [1906, 220, 16], as expected", "1 or 8 actions; an action symbol is 2 to 4 tokens",
        "normalisation key two_arms: 14 dimensions", "vae-final.pt", "at most 8 each, as expected",
    ):  # fmt: skip
        assert line in shown, line
    assert "note near-zero actions of 7B-D-0812" in shown
    assert "FAIL" not in shown


def test_the_nano_is_fine_too() -> None:
    assert texts(default_checkpoint(), Verdict.FAIL) == ""


def test_weights_are_not_read(copy: Path) -> None:
    for path in read_headers(copy).files:  # the header stays, the numbers are lost
        with path.open("r+b") as file:
            start = 8 + int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            file.truncate(start)
            file.truncate(size)
    assert texts(copy, Verdict.FAIL) == ""


def test_every_tensor_that_does_not_fit_is_listed(copy: Path) -> None:
    for path in read_headers(copy).files:
        tensors = load_file(path)
        save_file({name.replace("ff_norm", "other_norm"): tensor for name, tensor in tensors.items()}, path)

    def rename(index: dict[str, Any]) -> None:
        index["weight_map"] = {
            name.replace("ff_norm", "other_norm"): file for name, file in index["weight_map"].items()
        }

    edit(copy, "model.safetensors.index.json", rename)
    found = texts(copy, Verdict.FAIL)
    assert "model.transformer.blocks.0.ff_norm.weight [32] is missing" in found and "and 48 more" in found


@pytest.mark.parametrize(
    ("name", "change", "why"),
    [
        ("config.json", lambda c: c.update(image_patch_id=152_069), "image_patch_id is 152069"),
        ("config.json", lambda c: c.update(norm_stats={}), "not trained to act"),
        ("config.json", lambda c: c["vit_config"].pop("hidden_size"), "vit_config.hidden_size: Field required"),
        ("config.json", lambda c: c["norm_stats"]["molmoact"]["action"].update(q01=[9] * 7), "q01 not above q99"),
        ("preprocessor_config.json", lambda c: c.update(crop_mode="tiles"), "crop_mode"),
        ("preprocessor_config.json", lambda c: c.update(base_image_input_size=[336, 336]), "(378, 378)"),
        ("preprocessor_config.json", lambda c: c.update(base_image_input_size=[380, 380]), "no multiple"),
        ("model.safetensors.index.json", lambda c: c.pop("weight_map"), "is corrupt"),
    ],
)
def test_what_is_wrong_is_named(copy: Path, name: str, change: Callable[[Any], object], why: str) -> None:
    edit(copy, name, change)
    assert why in texts(copy, Verdict.FAIL)
    assert main(["doctor", "--checkpoint", str(copy)]) == 1


@pytest.mark.parametrize(
    "name", ["config.json", "preprocessor_config.json", "tokenizer.json", "model-00003-of-00003.safetensors"]
)
def test_a_missing_file_is_named(copy: Path, name: str) -> None:
    (copy / name).unlink()
    assert f"{name} is missing" in texts(copy, Verdict.FAIL)


def test_a_tokenizer_without_depth_tokens_is_named(copy: Path) -> None:
    text = (copy / "tokenizer.json").read_text().replace("<DEPTH_77>", "<DEEP_77>")
    (copy / "tokenizer.json").write_text(text)
    assert "the tokenizer has no <DEPTH_77>" in texts(copy, Verdict.FAIL)


def test_what_was_not_expected_is_noted(copy: Path) -> None:
    edit(copy, "preprocessor_config.json", lambda c: c.update(max_multi_image_crops=4))
    (copy / "vae-final.pt").unlink()
    template = "{{ message['content'] }}"
    (copy / "tokenizer_config.json").write_text(json.dumps({"chat_template": template}))
    noted = texts(copy, Verdict.NOTE)
    assert "at most 4 each; 8 was expected" in noted
    assert "depth decoder: none" in noted and "copy vae-final.pt here" in noted
    assert "does not name the roles" in noted


def test_the_reported_standstill_is_recognised(copy: Path) -> None:
    low = [value - 0.02 for value in REPORTED_STANDSTILL]
    high = [value + 0.02 for value in REPORTED_STANDSTILL]

    def settle(config: dict[str, Any]) -> None:
        config["norm_stats"]["molmoact"]["action"].update(q01=[*low, 0], q99=[*high, 1])

    edit(copy, "config.json", settle)
    fine = texts(copy, Verdict.OK)
    assert "near-zero actions of 7B-D-0812: no motion is written as -8.64e-06" in fine
