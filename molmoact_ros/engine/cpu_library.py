"""The library of the CPU kernels (decoding/cpu_kernel.cpp, vision/cpu_tower.cpp, vision/cpu_patches.cpp,
molmoact2/cpu_expert.cpp), and how weights are given to it."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.model.quantization import is_quantised

LARGEST = 64_000_000
"""Maximum parameters of a network run here. Matrices are copied, and a larger one gains little from fewer calls."""
ALIGNMENT = 64
"""Bytes of a line of the CPU's cache, and of its widest vector."""
ADDRESS, COUNT = ctypes.c_void_p, ctypes.c_int32


@cache
def library() -> Any | None:
    """The library; None where it was not compiled."""
    file = Path(__file__).with_name("libmolmoact_native.so")
    if not file.exists():
        return None
    found = ctypes.CDLL(str(file))
    found.molmoact_pass.argtypes = [ADDRESS, ADDRESS, COUNT, COUNT, ADDRESS]
    found.molmoact_best.argtypes = [ADDRESS, COUNT, ADDRESS, COUNT, ADDRESS]
    found.molmoact_tower.argtypes = [ADDRESS, ADDRESS, COUNT, COUNT, ADDRESS, COUNT, ADDRESS]
    found.molmoact_patches.argtypes = [ADDRESS, COUNT, ADDRESS, ADDRESS, COUNT, ADDRESS, ADDRESS]
    found.molmoact_sample.argtypes = [ADDRESS, ADDRESS, ADDRESS]
    return found


def lanes() -> int:
    """Rows of a packed matrix's panel: the number of outputs that this CPU computes at once (SIMD lanes)."""
    found = library()
    assert found is not None
    return int(found.molmoact_lanes())


def fits(weights: Sequence[Tensor], widths: Sequence[int]) -> bool:
    """Whether the library is there and can compute with `weights`: few, in float32 on the CPU, not quantised.

    weights: of a network's layers, [...]. widths: of what it computes; each must fill whole vectors.
    """
    if library() is None or sum(w.numel() for w in weights) > LARGEST or any(map(is_quantised, weights)):
        return False
    host = all(w.device.type == "cpu" and w.dtype == torch.float32 for w in weights)
    return host and all(width % lanes() == 0 for width in widths)


def aligned(shape: tuple[int, ...], dtype: type[np.generic] = np.float32) -> np.ndarray:
    """Zeros [*shape] that begin with a cache line, so that no vector lies across two."""
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    room = np.zeros(size + ALIGNMENT, np.uint8)
    start = -room.ctypes.data % ALIGNMENT
    return room[start : start + size].view(dtype).reshape(shape)


class NativeArrays:
    """Arrays [...] that structures of the library point to; they stay alive as long as this object."""

    def __init__(self) -> None:
        self._arrays: list[np.ndarray] = []

    def share(self, table: Tensor) -> int:
        """The address of a contiguous tensor itself, which may be large."""
        self._arrays.append(table.detach().contiguous().numpy())
        return self._arrays[-1].ctypes.data

    def keep(self, numbers: Tensor | np.ndarray) -> int:
        """The address of an aligned copy of an array of any shape."""
        array = numbers.detach().numpy() if isinstance(numbers, Tensor) else numbers
        copy = aligned(array.shape, array.dtype.type)
        copy[:] = array
        self._arrays.append(copy)
        return copy.ctypes.data

    def pack(self, *matrices: Tensor) -> int:
        """The address of matrices [outputs, width], one below the other, in panels [outputs / lanes, width, lanes]."""
        array = torch.cat([matrix.detach() for matrix in matrices]).numpy()
        return self.keep(array.reshape(-1, lanes(), array.shape[1]).transpose(0, 2, 1))
