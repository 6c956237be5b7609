"""A codebook made of what cells of a depth image look like: k-means over patches of the relief above the table."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.engine.model.depth_vq import GRID
from molmoact_ros.training.table_relief import SIDE

HIGH: Final = 0.06
"""Relative depth above the table over which relief is told apart: what stands higher looks alike (tanh)."""
THING: Final = (0.01, 0.15)
"""Least and greatest relief of things on the table, in relative depth."""
FEW: Final = 2
"""Pixels of a patch."""
EMPHASIS: Final = 12.0
"""How much more often a patch with a thing and without the arm is drawn."""
DRAWN: Final = 24_000
"""Patches that the clusters are made of."""
ROUNDS: Final = 25


def flat_relief(relief: np.ndarray) -> np.ndarray:
    """Relief [...], in relative depth, in -1..1: differences of what is far above or below the table vanish."""
    flat: np.ndarray = np.tanh(relief / HIGH)
    return flat


def patches(images: np.ndarray) -> np.ndarray:
    """Images [n, 80, 80] as the pixels of their cells, [n, 10, 10, 64]."""
    step = SIDE // GRID
    return images.reshape(-1, GRID, step, GRID, step).swapaxes(2, 3).reshape(-1, GRID, GRID, step * step)


def patch_codebook(relief: np.ndarray, codes: int, seed: int) -> np.ndarray:
    """Cluster the patches of relief, float32 [n, 80, 80], by their flat relief: centres float32 [codes, 64].

    The start is k-means++ (Arthur and Vassilvitskii, 2007). Centres that look alike are not near in the list.
    """
    rng = np.random.default_rng(seed)
    looks, raw = patches(flat_relief(relief)).reshape(-1, 64), patches(relief).reshape(-1, 64)
    thing = ((raw > THING[0]) & (raw < THING[1])).sum(1) > FEW
    odds = 1 + EMPHASIS * (thing & ((raw >= THING[1]).sum(1) < FEW))
    drawn = looks[rng.choice(len(looks), DRAWN, p=odds / odds.sum())]
    centres = _spread(drawn, codes, rng)
    for _ in range(ROUNDS):
        chosen = np.eye(codes, dtype=np.float32)[nearest_patches(drawn, centres)]
        sizes = chosen.sum(0)[:, None]
        centres = np.where(sizes > 0, chosen.T @ drawn / np.maximum(sizes, 1), centres)
    return centres


def _spread(drawn: np.ndarray, count: int, rng: np.random.Generator) -> np.ndarray:
    centres = [drawn[rng.integers(len(drawn))]]
    away = ((drawn - centres[0]) ** 2).sum(1)
    while len(centres) < count:
        odds = away + 1e-9
        centres.append(drawn[rng.choice(len(drawn), p=odds / odds.sum(dtype=np.float64))])
        away = np.minimum(away, ((drawn - centres[-1]) ** 2).sum(1))
    return np.stack(centres)


def nearest_patches(looks: np.ndarray, centres: np.ndarray) -> np.ndarray:
    """The nearest of `centres` [codes, 64] to each of `looks` [..., 64], int64 [...]."""
    nearest: np.ndarray = ((centres**2).sum(1) - 2 * looks @ centres.T).argmin(-1)
    return nearest
