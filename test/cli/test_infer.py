"""The command that takes one step on images."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from molmoact_ros.cli.main import main


@pytest.fixture
def pictures(tmp_path: Path) -> list[str]:
    rng, names = np.random.default_rng(2), []
    for name, size in (("front", (480, 640, 3)), ("wrist", (240, 424, 3))):
        Image.fromarray(rng.integers(0, 256, size, dtype=np.uint8)).save(tmp_path / f"{name}.png")
        names += ["--image", str(tmp_path / f"{name}.png")]
    return names


def test_a_released_folder_answers(
    released: Path, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "said"
    arguments = [
        "infer",
        "--checkpoint",
        str(released),
        *pictures,
        "--instruction",
        "close the laptop",
        "--out",
        str(out),
    ]
    assert main(arguments) == 1
    assert "choose one of: molmoact, two_arms" in capsys.readouterr().err
    assert main([*arguments, "--unnorm-key", "molmoact"]) == 0
    shown = capsys.readouterr().out
    for part in ("complete: depth\n", "complete: depth, trace, actions", "depth codes", "trace, x and y", "actions ["):
        assert part in shown
    assert Image.open(out / "trace.png").size == (640, 480) and Image.open(out / "depth.png").size == (320, 320)
    assert not (out / "overlay.png").exists()


def test_a_drawn_trace_is_shown_as_the_model_saw_it(
    released: Path, pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "said"
    arguments = [
        "infer", "--checkpoint", str(released), *pictures, "--instruction", "close the laptop", "--out", str(out),
        "--unnorm-key", "molmoact", "--edit-trace",
    ]  # fmt: skip
    assert main([*arguments, "20,30;200,100"]) == 0
    overlay = np.asarray(Image.open(out / "overlay.png"))
    assert overlay.shape == (240, 320, 3)
    assert overlay[round(65 / 255 * 239), round(110 / 255 * 319)].tolist() == [0, 255, 255]  # half way
    assert "depth codes" not in capsys.readouterr().out
    for wrong in ("20,30;x", "1,2;3", "20,300", "1;2", ""):
        assert main([*arguments, wrong]) == 1
        assert "trace" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (["--image", "nowhere.png"], "nowhere.png is not an image"),
        (["--instruction", ""], "instruction is empty"),
        (["--frame-size", "huge"], "320x240"),
        (["--dtype", "int4"], "float32"),
        (["--device", "cuda:77"], "no GPU" if not torch.cuda.is_available() else "CUDA"),
        (["--checkpoint", "nowhere"], "no checkpoint at"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    pictures: list[str], change: list[str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", *pictures, "--instruction", "put the red cube in the bowl", *change]) == 1
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def test_the_nano_answers(pictures: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "said"
    assert main(["infer", *pictures, "--instruction", "put the red cube in the bowl", "--out", str(out)]) == 0
    assert "actions [8, 7]" in capsys.readouterr().out
    assert (out / "depth.png").exists()
