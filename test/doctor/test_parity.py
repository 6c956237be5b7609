"""The model and the image processor against the reference implementation's numbers."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from molmoact_ros.cli.main import main
from molmoact_ros.doctor.parity import LOGITS_LIMIT, compare
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.utils.checks import Verdict

GOLDEN = Path(__file__).parents[1] / "golden"


def test_everything_equals_the_reference() -> None:
    findings = compare(GOLDEN)
    assert [f for f in findings if f.verdict is not Verdict.OK] == []
    names = " ".join(f.name for f in findings)
    for case in ("d_like", "o_like_two_cameras", "320x240", "pictures_d/640x480", "pictures_o/424x240", "think_like"):
        assert case in names
    assert len(findings) == 2 * 6 + 4 * 3 + 47


@pytest.mark.parametrize("case", ["d_like", "o_like_two_cameras"])
def test_a_changed_weight_is_noticed(tmp_path: Path, case: str, capsys: pytest.CaptureFixture[str]) -> None:
    shutil.copytree(GOLDEN / case, tmp_path / case)
    path = tmp_path / case / "model.safetensors"
    tensors = load_file(path)
    tensors["model.vision_backbone.image_projector.w1.weight"] *= 1.01
    save_file(tensors, path)
    assert main(["doctor", "--golden", str(tmp_path)]) == 1
    shown = capsys.readouterr().out
    assert "FAIL" in shown and "largest difference" in shown and f"limit {LOGITS_LIMIT:.0e}" in shown


@pytest.mark.parametrize("part", ["pixels", "indices", "grids"])
def test_a_changed_picture_is_noticed(tmp_path: Path, part: str) -> None:
    data = dict(np.load(GOLDEN / "320x240.npz"))
    key = {"pixels": "crops_u8", "indices": "pooled_idx", "grids": "grids"}[part]
    data[key].flat[3] ^= 1
    np.savez(tmp_path / "320x240.npz", **data)
    shutil.copy(GOLDEN / "320x240.png", tmp_path)
    (wrong,) = (f for f in compare(tmp_path) if f.verdict is Verdict.FAIL)
    assert part in wrong.name and "1 of" in wrong.text


def test_what_cannot_be_compared_is_said(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"neither a golden\.npz nor"):
        compare(tmp_path)
    shutil.copy(GOLDEN / "320x240.npz", tmp_path)
    shutil.copytree(GOLDEN / "d_like", tmp_path / "broken")
    (tmp_path / "broken" / "model.safetensors").unlink()
    texts = [f.text for f in compare(tmp_path) if f.verdict is Verdict.FAIL]
    assert len(texts) == 2 and "not an image" in texts[1] and "model.safetensors is missing" in texts[0]
