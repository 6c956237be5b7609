"""Weights that are stored in float8, each matrix with its scale: what is stored is weight / scale.

Scales are read as the usual writers name them: `<weight>_scale` of one number (vLLM, ModelOpt) or one a row
(compressed-tensors, FBGEMM), and `<weight>_scale_inv` of one for each block of 128 x 128 (DeepSeek, transformers'
"fp8"). All of them are multiplied with, also those that are called inverse.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

import torch
from torch import Tensor

BLOCK: Final = 128
"""Rows and columns of a block with a scale of its own."""
_SUFFIXES: Final = ("_scale", "_scale_inv")
_OF_ACTIVATIONS: Final = ("input_scale", "activation_scale", "input_global_scale", "k_scale", "v_scale")
"""Scales of what flows through the matrix or into the cache, by which only a float8 kernel computes."""


def scales_of(dtypes: dict[str, str]) -> dict[str, str]:
    """The name of the scale of each float8 tensor that has one; dtypes: by tensor, such as "F8_E4M3"."""
    found = {}
    for name in (name for name, dtype in dtypes.items() if is_float8(dtype)):
        scale = next((name + suffix for suffix in _SUFFIXES if name + suffix in dtypes), None)
        if scale is not None:
            found[name] = scale
    return found


def is_float8(dtype: str) -> bool:
    """Whether a safetensors dtype is float8."""
    return dtype.startswith("F8_")


def only_for_kernels(names: Iterable[str]) -> list[str]:
    """Those of `names` that only a float8 kernel needs."""
    return [name for name in names if name.rpartition(".")[2] in _OF_ACTIVATIONS]


def dequantised(stored: Tensor, scale: Tensor) -> Tensor:
    """float32 [rows, columns] of a float8 matrix. scale: one number, [rows], [rows, 1], or one a block [n, m].

    Raises ValueError for a scale of another shape.
    """
    weight, factors = stored.to(torch.float32), scale.to(torch.float32)
    if factors.numel() == 1:
        return weight * factors.reshape(())
    rows, columns = weight.shape if weight.dim() == 2 else (len(weight), 1)
    if factors.shape in ((rows,), (rows, 1)):
        return weight * factors.reshape(rows, *(1,) * (weight.dim() - 1))
    if factors.shape == (-(-rows // BLOCK), -(-columns // BLOCK)):
        spread = factors.repeat_interleave(BLOCK, 0)[:rows].repeat_interleave(BLOCK, 1)[:, :columns]
        return weight * spread
    raise ValueError(f"a scale of the shape {list(scale.shape)} does not fit a matrix of {list(stored.shape)}")
