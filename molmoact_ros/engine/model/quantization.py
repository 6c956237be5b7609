"""Quantises the decoder's weights to 8 or 4 bits with torchao: reading weights dominates the time of a forward pass."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.model import MolmoAct2

LEAST = {"fp8": (8, 9), "int4": (8, 0)}
"""Minimum compute capability of a GPU for torchao's kernels."""
GROUP = 128
"""Group size of int4: consecutive weights of a row that share a scale."""
DIVISOR = {"fp8": 16, "int4": GROUP}
"""Divisor that the row length of each matrix must be a multiple of."""


def check(kind: str, device: torch.device, dtype: torch.dtype) -> None:
    """Raise CheckpointError if weights of this kind ("": not quantised) cannot run on `device` in `dtype`."""
    if not kind:
        return
    if kind not in LEAST:
        raise CheckpointError(f"weights cannot be quantised to {kind!r}; choose one of: {', '.join(LEAST)}")
    gpu = device.type == "cuda" and torch.cuda.is_available()  # without one, loading raises
    if reason := misfit(kind, torch.cuda.get_device_capability(device) if gpu else None, dtype):
        raise CheckpointError(reason)


def misfit(kind: str, capability: tuple[int, int] | None, dtype: torch.dtype) -> str:
    """Why weights of this kind cannot run on a GPU of this compute capability (None: a CPU) in `dtype`, and what to do.

    Empty if they can.
    """
    if capability is None:
        return "int4 weights need a GPU; on a processor choose fp8, or leave them as they are" if kind == "int4" else ""
    if capability < LEAST[kind]:
        least, has = (".".join(map(str, version)) for version in (LEAST[kind], capability))
        other = "choose int4" if kind == "fp8" and capability >= LEAST["int4"] else "leave them as they are"
        return f"{kind} weights need a GPU of compute capability {least} and this one has {has}; {other}"
    return "" if dtype == torch.bfloat16 else f"{kind} weights are computed with in bfloat16; choose that dtype"


def quantise(model: MolmoAct | MolmoAct2, kind: str) -> None:
    """Quantise the matrices of the decoder's layers to a kind that passed `check`; other weights stay unchanged.

    fp8: one scale per row. A GPU also quantises the activations and multiplies in float8; a CPU dequantises the
    weights. int4: one scale and zero point per GROUP of a row, dequantised inside the matrix multiplication. Raises
    CheckpointError without torchao, and for a matrix that torchao would silently skip.
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
    # torchao's recommended inductor settings would change the precision of float32 globally.
    if kind == "int4":
        config = Int4WeightOnlyConfig(GROUP, set_inductor_config=False, int4_packing_format="tile_packed_to_4d")
    elif model.lm_head.weight.device.type == "cuda":
        config = Float8DynamicActivationFloat8WeightConfig(granularity=PerRow(), set_inductor_config=False)
    else:
        config = Float8WeightOnlyConfig(set_inductor_config=False)
    for block in model.layers:
        quantize_(block, config)


def is_quantised(weight: Tensor) -> bool:
    """Whether a matrix [rows, columns] was quantised by `quantise`."""
    return type(weight) is not nn.Parameter


def stored(weight: Tensor) -> int:
    """Size of a tensor [...] in memory, bytes."""
    if not is_quantised(weight) or not hasattr(weight, "__tensor_flatten__"):
        return weight.numel() * weight.element_size()
    names, _ = weight.__tensor_flatten__()
    return sum(stored(getattr(weight, name)) for name in names)
