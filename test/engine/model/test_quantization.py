"""Weights in fewer bits: they are smaller, answers keep their form, and what cannot be had is refused in one line."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from molmoact_ros.cli.main import main
from molmoact_ros.engine.decoding.cuda_graphs import CudaGraphRunner
from molmoact_ros.engine.decoding.decoder import CachedDecoder, TorchModelRunner
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.quantization import misfit, quantise, stored
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.paths import default_checkpoint

from ..decoding.test_decoder import model


def weights(engine: TorchEngine) -> list[torch.Tensor]:
    return [m.weight for block in engine.model.layers for m in block.modules() if isinstance(m, nn.Linear)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_answers_keep_their_form_with_a_quarter_of_the_weights(dtype: torch.dtype) -> None:
    usual = TorchEngine.load(default_checkpoint(), threads=1, dtype=dtype)
    small = TorchEngine.load(default_checkpoint(), threads=1, dtype=dtype, quantization="fp8")
    scales = sum(w.shape[0] for w in weights(usual)) * 4
    assert sum(map(stored, weights(usual))) == sum(w.numel() for w in weights(usual)) * dtype.itemsize
    assert sum(map(stored, weights(small))) == sum(w.numel() for w in weights(usual)) + scales
    assert stored(small.model.lm_head.weight) == stored(usual.model.lm_head.weight)
    assert isinstance(small.decoder.passes, TorchModelRunner)  # what is compiled knows only whole numbers
    rng = np.random.default_rng(0)
    pictures = tuple(rng.integers(0, 256, (96, 128, 3), dtype=np.uint8) for _ in range(2))
    *_, said = small.reason(Observation(pictures, "put the red cube in the bowl", 0.0))
    assert said.complete and said.actions is not None and said.actions.shape == (8, 7)
    ids = np.union1d(*(grammar.ids for grammar in small.grammars.values()))
    tokens, small.decoder = small.tokens, CachedDecoder(CudaGraphRunner(small.model, 512, ids))
    small.forget()
    *_, same = small.reason(Observation(pictures, "put the red cube in the bowl", 0.0))
    if dtype is torch.float32:  # in bfloat16 two scores are equal now and then
        assert small.tokens == tokens
    assert same.complete


@pytest.mark.parametrize(
    ("kind", "capability", "dtype", "why"),
    [
        ("int4", None, torch.bfloat16, "need a GPU; on a processor choose fp8"),
        ("fp8", (8, 0), torch.bfloat16, "capability 8.9 and this one has 8.0; choose int4"),
        ("fp8", (7, 5), torch.bfloat16, "capability 8.9 and this one has 7.5; leave them as they are"),
        ("int4", (7, 5), torch.bfloat16, "capability 8.0 and this one has 7.5; leave"),
        ("fp8", (9, 0), torch.float16, "in bfloat16"),
        ("int4", (8, 6), torch.float32, "in bfloat16"),
        ("fp8", None, torch.float32, ""),
        ("fp8", (8, 9), torch.bfloat16, ""),
        ("fp8", (12, 0), torch.bfloat16, ""),
        ("int4", (8, 0), torch.bfloat16, ""),
    ],
)
def test_what_a_device_cannot_do_is_said(
    kind: str, capability: tuple[int, int] | None, dtype: torch.dtype, why: str
) -> None:
    reason = misfit(kind, capability, dtype)
    assert why in reason and (why or not reason) and "\n" not in reason


@pytest.mark.parametrize(("kind", "why"), [("int4", "need a GPU"), ("int3", "choose one of: fp8, int4")])
def test_the_command_refuses_in_one_line(
    tmp_path: Path, kind: str, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["infer", "--image", "none.png", "--instruction", "go", "--quantization", kind]) == 1
    said = capsys.readouterr().err
    assert why in said and said.count("\n") == 1


def test_the_policys_parameter_reaches_the_engine() -> None:
    with pytest.raises(CheckpointError, match="need a GPU"):
        open_engine(EngineOptions(quantization="int4"), default_checkpoint())


def test_a_matrix_that_does_not_divide_is_named() -> None:
    with pytest.raises(CheckpointError, match=r"0.mlp.ff_out has rows of 60 numbers, and fp8 wants a multiple of 16"):
        quantise(model(intermediate_size=60), "fp8")
