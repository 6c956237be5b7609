"""The bench of passes against the floor, on a small shape and the processor: the same code as on a GPU."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch

from molmoact_ros.benchmarks.random_weights import Case, possible
from molmoact_ros.cli.main import main
from molmoact_ros.engine.decoding.cuda_graphs import WIDTHS
from molmoact_ros.engine.model.checkpoint import CONFIG, read_config
from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.utils.paths import default_checkpoint, shape

from ..conftest import released_config


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """A folder with the shape of a model that is smaller still than the nano."""
    config = json.loads((default_checkpoint() / CONFIG).read_text())
    config["llm_config"] |= {"num_hidden_layers": 1, "intermediate_size": 64}
    (tmp_path / CONFIG).write_text(json.dumps(config))
    return tmp_path


def test_every_figure_is_there_and_adds_up(small: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "floor.json"
    arguments = ["--device", "cpu", "--prompt", "60", "--tokens", "8", "--repeats", "3", "--passes", "40", "80"]
    assert main(["bench", "floor", "--shape", str(small), *arguments, "--json", str(out)]) == 0
    shown, said = capsys.readouterr().out, json.loads(out.read_text())
    assert "transformers takes" in shown and "share 128" in shown and said["baseline"]["transformers"] > 0
    assert list(said["figures"]) == ["none", "fp8"]  # what a processor can do
    for row in said["figures"].values():
        for width in WIDTHS:
            assert row[f"share {width}"] == pytest.approx(row["floor"] / row[f"pass {width}"]) and row["floor"] > 0
        for passes in (40, 80):
            assert row[f"step {passes}"] == pytest.approx(row["vision"] + row["prefill"] + passes * row["loop"])
    usual, fewer = (said["figures"][kind]["weights"] for kind in ("none", "fp8"))
    llm = json.loads((small / CONFIG).read_text())["llm_config"]
    head, kv = llm["head_dim"], llm["num_key_value_heads"]
    width, rows = llm["hidden_size"], (llm["num_attention_heads"] + 2 * kv) * head
    matrices = width * rows + width * llm["num_attention_heads"] * head + 3 * width * llm["intermediate_size"]
    scales = 4 * (rows + 2 * width + 2 * llm["intermediate_size"])
    assert (usual - fewer) * 1e9 == pytest.approx(3 * matrices - scales)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (["--prompt", "200"], "give a shorter --prompt"),
        (["--quantization", "int4"], "need a GPU"),
        (["--shape", "nowhere"], "no checkpoint at nowhere"),
        (["--dtype", "int4"], "float32"),
    ],
)
def test_what_cannot_be_measured_is_said(
    small: Path, change: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["bench", "floor", "--shape", str(small), "--device", "cpu", "--prompt", "60", "--tokens", "8"]
    assert main([*arguments, *change]) == 1
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there_is_missed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["bench", "floor"]) == 1
    assert "torch finds no GPU for 'cuda'" in capsys.readouterr().err


def test_the_shape_is_the_released_one() -> None:
    config = read_config(shape("7b-d"), CONFIG, MolmoActConfig)
    assert config.model_copy(update={"norm_stats": {}}) == released_config(False, False).model_copy(
        update={"norm_stats": {}}
    )
    case = Case(config, torch.device("cpu"), torch.bfloat16, "", 988, 453, [79.1], 30)
    assert possible(case) == ["none", "fp8"]


def test_a_robot_model_is_measured_stage_by_stage(
    droid_folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config, out = json.loads((droid_folder / CONFIG).read_text()), tmp_path / "floor.json"
    config["enable_depth_reasoning"] = True
    (tmp_path / CONFIG).write_text(json.dumps(config))
    arguments = ["bench", "floor", "--shape", str(tmp_path), "--device", "cpu", "--repeats", "3", "--json", str(out)]
    assert main([*arguments, "--quantization", "none"]) == 0
    said = json.loads(out.read_text())
    assert "reference takes" in capsys.readouterr().out and said["baseline"]["reference"] > 0 and said["prompt"] == 490
    row, stages = said["figures"]["none"], ("vision", "prefill", "actions", "depth")
    for stage in stages:
        assert row[f"share {stage}"] == pytest.approx(row[f"{stage} floor"] / row[stage]) and row[f"{stage} GB"] > 0
    assert row["step"] == pytest.approx(sum(row[stage] for stage in stages))
    text, expert = config["text_config"], config["action_expert_config"]
    layers, width = text["num_hidden_layers"], text["hidden_size"]
    queries, kv = text["num_attention_heads"] * text["head_dim"], text["num_key_value_heads"] * text["head_dim"]
    project, rest = width * (queries + 2 * kv), queries * width + 3 * width * text["intermediate_size"]
    layer = 2 * 490 * (project + rest) + 2 * 2 * 490 * 490 * queries  # the last one ends with its keys and values
    assert row["prefill TFLOP"] * 1e12 == pytest.approx((layers - 1) * layer + 2 * 490 * project)
    rows, hidden = config["max_action_horizon"], expert["hidden_size"]
    assert row["actions TFLOP"] * 1e12 > 10 * layers * 2 * rows * 6 * hidden * hidden
    pixels, vit = config["vit_config"]["image_default_input_size"][0], config["vit_config"]["hidden_size"]
    assert row["vision TFLOP"] * 1e12 > 2 * 2 * (pixels // 14) ** 2 * 588 * vit
    assert main([*arguments, "--prompt", "10"]) == 1
    assert "give a longer --prompt than 10" in capsys.readouterr().err
