"""What a run is estimated to need, and what is advised where it does not fit."""

from __future__ import annotations

import json
import shutil
from math import prod
from typing import Any

import pytest
import torch

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.losses import TrainingLoss
from molmoact_ros.training.finetuning.memory import SequenceSizes, advice, choose_micro_batch, estimate, gigabytes
from molmoact_ros.training.finetuning.model import build_model
from molmoact_ros.utils.paths import default_checkpoint, shape

SIZES = SequenceSizes(tokens=1450, answer=460, crops=2, patches=729, image_tokens=784, mean_tokens=1300)
LORA = FinetuneConfig(dtype="bfloat16")


@pytest.fixture(scope="module")
def seven(tmp_path_factory: pytest.TempPathFactory) -> CheckpointFolder:
    """A folder of 7B-D's shapes whose weights are holes in files: only headers are read of it."""
    folder = tmp_path_factory.mktemp("seven")
    shutil.copy(shape("7b-d") / "config.json", folder)
    with torch.device("meta"):
        model = MolmoAct(CheckpointFolder(folder).config)
    tensors = list(model.state_dict().items())
    places = {}
    for first in range(0, len(tensors), 60):
        header, at, path = {}, 0, folder / f"part{first}.safetensors"
        for name, tensor in tensors[first : first + 60]:
            size = 4 * prod(tensor.shape)
            header[name] = {"dtype": "F32", "shape": list(tensor.shape), "data_offsets": [at, at + size]}
            at, places[name] = at + size, path.name
        text = json.dumps(header).encode()
        with path.open("wb") as file:
            file.write(len(text).to_bytes(8, "little") + text)
            file.truncate(8 + len(text) + at)
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    return CheckpointFolder(folder)


@pytest.fixture(scope="module")
def adapted(seven: CheckpointFolder) -> TrainingLoss[Any]:
    """It with adapters as in the released command, without memory for its numbers."""
    return build_model(seven, LORA)


def test_7b_d_in_parts(seven: CheckpointFolder, adapted: TrainingLoss[Any]) -> None:
    lora = estimate(adapted, LORA, SIZES, 1, 1, cuda=True)
    trained = sum(p.numel() for p in adapted.parameters() if p.requires_grad)
    assert trained == pytest.approx(94.7e6, rel=1e-3), "every matrix at rank 32; Ai2 counts about 97 million"
    assert 16e9 < lora.weights < 17e9, "8.1 thousand million weights in bfloat16, and the adapters"
    assert 1.0e9 < lora.trained < 1.3e9 and 1e9 < lora.passes < 8e9
    config = LORA.model_copy(update={"method": Method.FULL})
    whole = build_model(seven, config)
    full, eight = (estimate(whole, config, SIZES, 1, count, cuda=True) for count in (1, 8))
    assert full.weights + full.trained == pytest.approx(16 * 8.12e9, rel=0.02)
    assert eight.trained == pytest.approx(full.trained / 8) and eight.weights < 0.4 * full.weights
    quantised = LORA.model_copy(update={"quantize": "nf4"})
    small = estimate(adapted, quantised, SIZES, 1, 1, cuda=True)
    assert 6e9 < small.weights < 8e9
    assert gigabytes(lora.total) in str(lora)


def test_what_does_not_fit_gets_advice_that_would_help(seven: CheckpointFolder, adapted: TrainingLoss[Any]) -> None:
    need = estimate(adapted, LORA, SIZES, 1, 1, cuda=True).total
    assert choose_micro_batch(adapted, LORA, SIZES, 1, 80e9, cuda=True) >= 4
    assert choose_micro_batch(adapted, LORA, SIZES, 1, need / 2, cuda=True) == 1
    assert advice(seven, LORA, SIZES, 1, 0.8 * need, cuda=True) == "use --quantize nf4"
    small = CheckpointFolder(default_checkpoint())
    many = FinetuneConfig(micro_batch=16)
    need = estimate(build_model(small, many), many, SIZES, 16, 1, cuda=False).total
    assert advice(small, many, SIZES, 1, 0.5 * need, cuda=False) == "use --micro-batch 1"
    assert "more GPUs" in advice(small, many, SIZES, 1, 1e6, cuda=False)


def test_a_wanted_pass_is_taken_and_the_nano_fits_anywhere() -> None:
    files = CheckpointFolder(default_checkpoint())
    config = FinetuneConfig(micro_batch=3)
    assert choose_micro_batch(build_model(files, config), config, SIZES, 1, 1.0, cuda=False) == 3
    config = FinetuneConfig(batch=12)
    assert choose_micro_batch(build_model(files, config), config, SIZES, 1, 16e9, cuda=False) == 8
