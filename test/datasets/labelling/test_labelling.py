"""Labels of an episode whose truth is known: from a bag to what fine-tuning reads."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import pytest

from molmoact_ros.cli.main import main
from molmoact_ros.engine.model.checkpoint import DEPTH, load_depth_vq
from molmoact_ros.training.finetuning.arrow_data import ArrowData
from molmoact_ros.utils.paths import default_checkpoint

from .conftest import FRONT, MOVING, STILL, Truth

BEGIN = STILL
"""The first frame that is labelled: the first one whose action moves the arm."""


@pytest.fixture(scope="module")
def labelled(truth: Truth, tmp_path_factory: pytest.TempPathFactory) -> ArrowData:
    before = digest(truth.bag)
    folder = tmp_path_factory.mktemp("labels") / "cube"
    assert main(["label", str(truth.bag), "--out", str(folder)]) == 0
    assert digest(truth.bag) == before, "what is labelled is only read"
    return ArrowData(folder)


def digest(folder: Path) -> str:
    total = hashlib.sha256()
    for file in sorted(folder.rglob("*")):
        total.update(f"{file} {file.stat().st_mtime_ns}".encode() + file.read_bytes())
    return total.hexdigest()


def test_traces_are_where_the_simulator_has_the_gripper(labelled: ArrowData, truth: Truth) -> None:
    size = np.array([FRONT.width - 1, FRONT.height - 1])
    for row in range(len(labelled)):
        trace = labelled.sample(row).trace
        assert trace is not None
        path = np.array(truth.pixels[BEGIN + row : BEGIN + len(labelled)])
        chosen = np.linspace(0, len(path) - 1, 5).astype(int) if len(path) > 5 else np.arange(len(path))
        off = np.linalg.norm(trace / 255 * size - path[chosen], axis=1)
        assert off.max() < 2.0, row


def test_depth_tokens_are_those_of_the_true_depth(labelled: ArrowData, truth: Truth) -> None:
    """The camera measures mm; nothing else is between the two."""
    vq = load_depth_vq(default_checkpoint() / DEPTH)
    same = []
    for row in range(len(labelled)):
        codes, true = labelled.sample(row).depth_codes, truth.depth[BEGIN + row]
        print((codes == vq.encode_depth(np.round(true * 1000) / 1000)).mean())
        same.append((codes == vq.encode_depth(true)).mean())
    print(same)
