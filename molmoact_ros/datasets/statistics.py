"""Statistics of a dataset's features, as LeRobot has them: of each episode, and of all of them together."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Final

import numpy as np

QUANTILES: Final = {"q01": 0.01, "q10": 0.1, "q50": 0.5, "q90": 0.9, "q99": 0.99}
"""LeRobot's quantiles, by their names."""
_PIXEL_STEP: Final = 8

Statistics = dict[str, Any]
"""min, max, mean, std and quantiles, as nested lists, and count."""


def statistics(values: np.ndarray) -> Statistics:
    """Statistics of values [n] or [n, D] over their rows: lists of 1 or D numbers."""
    rows = values.reshape(len(values), -1).astype(np.float64)
    kinds = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    kinds |= dict(zip(QUANTILES, np.quantile(rows, list(QUANTILES.values()), axis=0), strict=True))
    return {name: value.tolist() for name, value in kinds.items()} | {"count": [len(values)]}


def thinned(image: np.ndarray) -> np.ndarray:
    """The pixels of an image [H, W, 3] that its statistics count: every eighth of every eighth row."""
    return image[::_PIXEL_STEP, ::_PIXEL_STEP]


def image_statistics(images: Sequence[np.ndarray]) -> Statistics:
    """Statistics of each colour channel, 0..1, of thinned images, in the format's shape [3, 1, 1]."""
    out = statistics(np.concatenate([image.reshape(-1, 3) for image in images]) / 255)
    return {name: [[[value]] for value in of] if name != "count" else [len(images)] for name, of in out.items()}


def together(episodes: Sequence[Statistics]) -> Statistics:
    """The statistics of all episodes from those of each.

    Quantiles are averages weighted by the frames, as LeRobot aggregates them; those of states and actions are computed
    from all of the values instead (`statistics`).
    """
    counts = np.array([of["count"][0] for of in episodes], np.float64)

    def weighted(values: list[np.ndarray]) -> np.ndarray:
        return np.asarray(np.average(values, axis=0, weights=counts))

    of = {name: [np.asarray(episode[name]) for episode in episodes] for name in episodes[0] if name != "count"}
    mean = weighted(of["mean"])
    variance = weighted([std**2 + (m - mean) ** 2 for std, m in zip(of["std"], of["mean"], strict=True)])
    kinds = {"min": np.min(of["min"], axis=0), "max": np.max(of["max"], axis=0), "mean": mean, "std": np.sqrt(variance)}
    kinds |= {name: weighted(of[name]) for name in QUANTILES}
    return {name: value.tolist() for name, value in kinds.items()} | {"count": [int(counts.sum())]}
