"""Depth tokens: the 10x10 grid of vector-quantised depth codes that the model generates before the trace."""

from __future__ import annotations

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep

GRID = (10, 10)
"""Rows and columns of the code grid (MolmoAct: a 320x320 depth map, down-sampled 32 times)."""
N_DEPTH_CODES = 128
"""Size of the codebook (MolmoAct)."""
DEPTH_START = "<DEPTH_START>"
DEPTH_END = "<DEPTH_END>"
DEPTH_TOKENS = tuple(f"<DEPTH_{code}>" for code in range(N_DEPTH_CODES))
"""Token name of each code; code k is `DEPTH_TOKENS[k]`."""


def checked_depth_codes(codes: np.ndarray) -> np.ndarray:
    """`codes`, integers [10, 10] or [100] in 0..127, as uint8 [10, 10]; raises RefusedStep for anything else."""
    array = np.asarray(codes)
    if array.dtype.kind not in "iu" or array.shape not in (GRID, (GRID[0] * GRID[1],)):
        raise RefusedStep(f"depth codes must be integers [10, 10]; got {array.dtype} {list(array.shape)}")
    if array.min() < 0 or array.max() >= N_DEPTH_CODES:
        raise RefusedStep(f"depth codes must lie in 0..{N_DEPTH_CODES - 1}; got {array.min()}..{array.max()}")
    return array.reshape(GRID).astype(np.uint8)
