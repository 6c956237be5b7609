"""Stretches images and cuts them into patches in compiled code (cpu_patches.cpp)."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import numpy as np

from molmoact_ros.engine.cpu_library import ADDRESS, COUNT, library
from molmoact_ros.engine.model.image_processor import Size, neighbours, normalise


class _Axis(ctypes.Structure):
    _fields_ = [("length", COUNT), *((name, ADDRESS) for name in ("first", "second", "share"))]


class CpuPatches:
    """Images to the patches of one size, bit for bit as `stretch`, rounding, `normalise` and `patches` make them."""

    def __init__(self, size: Size, patch: int) -> None:
        """size: rows and columns of a crop, multiples of `patch`, pixels. Raises RuntimeError without the library."""
        self._library = library()
        if self._library is None:
            raise RuntimeError("the CPU kernels were not compiled; run `make setup`")
        self.size, self.patch = size, patch
        self._values = normalise(np.arange(256, dtype=np.float32) / np.float32(255))
        self._axis = lru_cache(maxsize=16)(self._find_axis)

    def _find_axis(self, length: int, wanted: int) -> tuple[_Axis, tuple[np.ndarray, ...]]:
        (first, second), share = neighbours(length, wanted)
        arrays = first, second, np.ascontiguousarray(share, np.float32)
        return _Axis(wanted, *(array.ctypes.data for array in arrays)), arrays

    def __call__(self, image: np.ndarray) -> np.ndarray:
        """Patches float32 [P, patch * patch * 3] of an image uint8 [H, W, 3] RGB."""
        image = np.ascontiguousarray(image)
        (down, _), (across, _) = (self._axis(*lengths) for lengths in zip(image.shape[:2], self.size, strict=True))
        count = (self.size[0] // self.patch) * (self.size[1] // self.patch)
        out = np.empty((count, self.patch * self.patch * 3), np.float32)
        assert self._library is not None
        self._library.molmoact_patches(
            image.ctypes.data, image.shape[1], ctypes.addressof(down), ctypes.addressof(across), self.patch,
            self._values.ctypes.data, out.ctypes.data,
        )  # fmt: skip
        return out
