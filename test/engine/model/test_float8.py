"""Checkpoints whose matrices are float8 with scales, by every usual writer's naming; others are refused by name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file
from torch import Tensor

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.float8 import BLOCK, dequantised
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, fill, read_headers

MOST = float(torch.finfo(torch.float8_e4m3fn).max)
MATRICES = ("att_proj.weight", "attn_out.weight", "ff_proj.weight", "ff_out.weight")


def block_scales(weight: Tensor) -> Tensor:
    """One scale for each block."""
    rows, columns = (-(-side // BLOCK) for side in weight.shape)
    padded = torch.zeros(rows * BLOCK, columns * BLOCK)
    padded[: weight.shape[0], : weight.shape[1]] = weight.abs()
    return padded.view(rows, BLOCK, columns, BLOCK).amax((1, 3)) / MOST


GRANULARITIES: dict[str, tuple[str, Callable[[Tensor], Tensor]]] = {
    "vLLM, one": ("weight_scale", lambda w: w.abs().max() / MOST),
    "ModelOpt, one": ("weight_scale", lambda w: w.abs().max().reshape(1) / MOST),
    "FBGEMM, rows": ("weight_scale", lambda w: w.abs().amax(1, keepdim=True) / MOST),
    "compressed-tensors, rows": ("weight_scale", lambda w: w.abs().amax(1) / MOST),
    "DeepSeek, blocks": ("weight_scale_inv", block_scales),
}


def quantised(weight: Tensor, scale: Tensor) -> Tensor:
    """weight / scale as float8, element by element."""
    return (weight / dequantised(torch.ones_like(weight), scale)).to(torch.float8_e4m3fn)


@settings(max_examples=40, deadline=None)
@given(
    how=st.sampled_from(sorted(GRANULARITIES)), rows=st.sampled_from([1, 3, 127, 128, 129, 300]),
    columns=st.sampled_from([2, 128, 200]), seed=st.integers(0, 99),
)  # fmt: skip
def test_a_matrix_comes_back_within_float8s_precision(how: str, rows: int, columns: int, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(rows, columns, generator=generator) * torch.logspace(-2, 2, rows)[:, None]
    scale = GRANULARITIES[how][1](weight)
    read = dequantised(quantised(weight, scale), scale)
    tolerance = torch.maximum(weight.abs() / 16, dequantised(torch.ones_like(weight), scale) * 2**-9)
    assert read.dtype == torch.float32 and bool(((read - weight).abs() <= tolerance * 1.001).all())


def test_a_scale_that_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match=r"a scale of the shape \[5\] does not fit a matrix of \[4, 6\]"):
        dequantised(torch.zeros(4, 6), torch.ones(5))


@pytest.fixture
def copy(released: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "float8"
    skipped = shutil.ignore_patterns("*.safetensors", "*.index.json", "vae-final.pt")
    shutil.copytree(released, folder, ignore=skipped)
    return folder


def tensors(folder: Path) -> dict[str, Tensor]:
    """All tensors of a folder's weight files."""
    return {name: tensor for path in read_headers(folder).files for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("how", sorted(GRANULARITIES))
def test_a_checkpoint_in_float8_loads_as_its_numbers_say(released: Path, copy: Path, how: str) -> None:
    name, scales = GRANULARITIES[how]
    state = tensors(released)
    stored, wanted = dict(state), dict(state)
    for key in (key for key in state if key.startswith("model.transformer.blocks") and key.endswith(MATRICES)):
        scale = scales(state[key])
        stored[key] = quantised(state[key], scale)
        stored[key.removesuffix("weight") + name] = scale
        stored[key.removesuffix("weight") + "input_scale"] = torch.ones(1)
        wanted[key] = dequantised(stored[key], scale)
    save_file({key: tensor.contiguous() for key, tensor in stored.items()}, copy / "model.safetensors")
    with torch.device("meta"):
        model = MolmoAct(CheckpointFolder(copy).config)
    fill(model, read_headers(copy), "cpu", torch.float32)
    loaded = model.state_dict()
    assert loaded.keys() == state.keys()
    assert all(torch.equal(loaded[key], wanted[key]) for key in wanted)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda t: t.to(torch.float8_e4m3fn), r"is float8 and lacks its scale, .*att_proj.weight_scale"),
        (lambda t: t.to(torch.int8), r"att_proj\.weight is stored as I8, quantised by awq, which is not read"),
        (lambda t: t.to(torch.uint8), r"is stored as U8, quantised by awq, .*`quantization`"),
    ],
)  # fmt: skip
def test_weights_of_other_kinds_are_refused_by_name(
    released: Path, copy: Path, change: Callable[[Tensor], Tensor], why: str
) -> None:
    state = tensors(released)
    name = "model.transformer.blocks.3.self_attn.att_proj.weight"
    save_file({k: (change(t) if k == name else t).contiguous() for k, t in state.items()}, copy / "model.safetensors")
    config = json.loads((copy / "config.json").read_text()) | {"quantization_config": {"quant_method": "awq"}}
    (copy / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match=why) as error:
        read_headers(copy)
    assert "\n" not in str(error.value)
