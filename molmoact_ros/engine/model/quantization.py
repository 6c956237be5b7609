"""The decoder's weights in 8 or 4 bits, by torchao: a pass takes as long as its weights take to be read."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.checkpoint import CheckpointError
from molmoact_ros.engine.model.molmoact import MolmoAct

LEAST = {"fp8": (8, 9), "int4": (8, 0)}
"""The least compute capability of a GPU, whose kernels torchao calls."""
GROUP = 128
"""Weights of a row that share a scale, in int4."""
DIVISOR = {"fp8": 16, "int4": GROUP}
"""What the length of a matrix' rows must be a multiple of."""


def check(kind: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise CheckpointError where weights of a kind ("": as they are) cannot be used on a device."""
    if not kind:
        return
    if kind not in LEAST:
        raise CheckpointError(f"weights cannot be quantised to {kind!r}; choose one of: {', '.join(LEAST)}")
    gpu = device.type == "cuda" and torch.cuda.is_available()  # where there is none, loading says so
    if reason := misfit(kind, torch.cuda.get_device_capability(device) if gpu else None, dtype):
        raise CheckpointError(reason)


def misfit(kind: str, capability: tuple[int, int] | None, dtype: torch.dtype) -> str:
    """Why weights of a kind cannot be used by a GPU of a compute capability (None: a processor) that computes in
    `dtype`, and what to do; nothing where they can."""
    if capability is None:
        return "int4 weights need a GPU; on a processor choose fp8, or leave them as they are" if kind == "int4" else ""
    if capability < LEAST[kind]:
        least, has = (".".join(map(str, version)) for version in (LEAST[kind], capability))
        other = "choose int4" if kind == "fp8" and capability >= LEAST["int4"] else "leave them as they are"
        return f"{kind} weights need a GPU of compute capability {least} and this one has {has}; {other}"
    return "" if dtype == torch.bfloat16 else f"{kind} weights are computed with in bfloat16; choose that dtype"


def quantise(model: MolmoAct, kind: str) -> None:
    """Turn the matrices of the decoder's layers into a kind that was checked; all else stays as it is.

    fp8: a scale for each row. A GPU rounds what is multiplied by them too, and multiplies in float8; a processor turns
    them back. int4: a scale and a zero for each GROUP of a row, turned back while they are multiplied. Raises
    CheckpointError where torchao is not installed, and for a matrix that it would leave out without a word.
    """
    for name, module in model.model.transformer.blocks.named_modules():
        if isinstance(module, nn.Linear) and module.in_features % DIVISOR[kind]:
            raise CheckpointError(
                f"{name} has rows of {module.in_features} numbers, and {kind} wants a multiple of {DIVISOR[kind]}; "
                "leave the weights as they are"
            )
    try:
        from torchao.quantization import (
            Float8DynamicActivationFloat8WeightConfig,
            Float8WeightOnlyConfig,
            Int4WeightOnlyConfig,
            PerRow,
            quantize_,
        )
    except ImportError as error:
        raise CheckpointError(f"{error}; {kind} weights need: pip install 'molmoact_ros[quantization]'") from None
    # torchao's recommended settings would change the precision of float32 everywhere.
    if kind == "int4":
        config = Int4WeightOnlyConfig(GROUP, set_inductor_config=False, int4_packing_format="tile_packed_to_4d")
    elif model.lm_head.weight.device.type == "cuda":
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    else:
        config = Float8WeightOnlyConfig(set_inductor_config=False)
    for block in model.layers:
        quantize_(block, config)


def is_quantised(weight: Tensor) -> bool:
    """Whether a matrix [rows, columns] was made by `quantise`."""
    return type(weight) is not nn.Parameter


def stored(weight: Tensor) -> int:
    """Bytes of a tensor [...] in memory."""
    if not is_quantised(weight) or not hasattr(weight, "__tensor_flatten__"):
        return weight.numel() * weight.element_size()
    names, _ = weight.__tensor_flatten__()
    return sum(stored(getattr(weight, name)) for name in names)
