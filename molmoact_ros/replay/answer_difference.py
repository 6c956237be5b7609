"""Difference between a recorded answer and a new one to the same step."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

import numpy as np

from molmoact_ros.bags.plans import RecordedAnswer
from molmoact_ros.reasoning.trace import pixels_from_trace

PICTURE: Final = (640, 480)
"""Image size in px to which distances between traces refer, whatever the camera's resolution."""
DIMENSIONS: Final = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
SAMPLED: Final = 1e-4
"""Difference of a value, rad, m or of the gripper's way, up to which actions of one seed are equal: sums of float32 in
another order differ by less."""
_POINTS: Final = 32  # samples of each trace, evenly along it


@dataclass(frozen=True)
class Difference:
    """Difference between two answers to one step; nan if a part is missing on either side.

    tokens: number of unequal tokens, None if they cannot be compared. depth: fraction of equal depth codes. trace:
    discrete Fréchet distance, px of PICTURE. actions: mean absolute difference of each dimension, float64 [D]. first:
    description of the first difference; empty: none. farthest: greatest difference of a value of the actions. sampled:
    whether the actions were sampled from the noise of a seed.
    """

    stamp: float
    plan_id: int
    tokens: int | None
    depth: float
    trace: float
    actions: np.ndarray
    first: str
    farthest: float = float("nan")
    sampled: bool = False


def difference(then: RecordedAnswer, now: RecordedAnswer) -> Difference:
    """Compare the recorded and the new answer to one step."""
    unequal = None
    if then.tokens is not None and now.tokens is not None:
        longest = max(len(then.tokens), len(now.tokens))
        unequal = longest - sum(a == b for a, b in zip(then.tokens, now.tokens, strict=False))
    nothing = float("nan")
    depth = trace = nothing
    if then.depth is not None and now.depth is not None:
        depth = float((then.depth == now.depth).mean())
    if then.trace is not None and now.trace is not None:
        trace = frechet(pixels_from_trace(then.trace, *PICTURE), pixels_from_trace(now.trace, *PICTURE))
    mean, farthest = _actions(then, now)
    first, sampled = _first(then, now, unequal), now.seed is not None
    return Difference(now.stamp, now.plan_id, unequal, depth, trace, mean, first, farthest, sampled)


def by_noise(
    pairs: Iterable[tuple[RecordedAnswer, RecordedAnswer]],
) -> tuple[list[tuple[RecordedAnswer, RecordedAnswer]], int]:
    """The pairs whose new answer was not sampled from other noise than the recorded one, and how many others there are.

    Other noise gives other actions, and says nothing about code or checkpoint.
    """
    every = list(pairs)
    same = [(then, now) for then, now in every if now.seed is None or now.seed == then.seed]
    return same, len(every) - len(same)


def frechet(a: np.ndarray, b: np.ndarray) -> float:
    """Discrete Fréchet distance between two polylines [n, 2] and [m, 2], resampled evenly along each."""
    p, q = _along(a), _along(b)
    apart = np.linalg.norm(p[:, None] - q[None], axis=2)
    reach = np.full_like(apart, np.inf)
    for i in range(len(p)):
        for j in range(len(q)):
            before = 0.0 if i == j == 0 else np.inf
            if i:
                before = min(before, reach[i - 1, j])
            if j:
                before = min(before, reach[i, j - 1])
            if i and j:
                before = min(before, reach[i - 1, j - 1])
            reach[i, j] = max(before, apart[i, j])
    return float(reach[-1, -1])


def _along(points: np.ndarray) -> np.ndarray:
    points = np.asarray(points, np.float64)
    way = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    at = np.linspace(0, way[-1], _POINTS)
    return np.stack([np.interp(at, way, points[:, k]) for k in range(2)], axis=1)


def _actions(then: RecordedAnswer, now: RecordedAnswer) -> tuple[np.ndarray, float]:
    """Over the steps that both have: mean absolute difference of each dimension [D], and the greatest of any value."""
    if then.actions is None or now.actions is None or then.actions.shape[1] != now.actions.shape[1]:
        width = 7 if now.actions is None else now.actions.shape[1]
        return np.full(width, np.nan), float("nan")
    steps = min(len(then.actions), len(now.actions))
    apart = np.abs(then.actions[:steps] - now.actions[:steps])
    return np.asarray(apart.mean(axis=0)), float(apart.max())


def _first(then: RecordedAnswer, now: RecordedAnswer, unequal: int | None) -> str:
    """Description of the first difference, in the order in which the parts are generated."""
    if now.refused:
        return f"it is refused: {now.refused}"
    if unequal == 0 and now.seed is None:
        return ""
    where = ""
    if unequal and then.tokens is not None and now.tokens is not None:
        pairs = zip(then.tokens, now.tokens, strict=False)
        shared = min(len(then.tokens), len(now.tokens))
        at = next((k for k, (a, b) in enumerate(pairs) if a != b), shared)
        where = f"token {at + 1} of {len(then.tokens)}: "
    for name, before, after in (("depth", then.depth, now.depth), ("trace", then.trace, now.trace)):
        if before is None or after is None or np.array_equal(before, after):
            continue
        if before.shape != after.shape:
            return f"{where}the {name} has {len(after)} points instead of {len(before)}"
        row, column = np.argwhere(before != after)[0].tolist()
        what = f"depth code in row {row + 1}, column {column + 1}" if name == "depth" else (
            f"{'xy'[column]} of the trace's point {row + 1}"
        )  # fmt: skip
        return f"{where}{what} is {after[row, column]} instead of {before[row, column]}"
    if then.actions is not None and now.actions is not None:
        if then.actions.shape != now.actions.shape:
            return f"{where}the chunk is {list(now.actions.shape)} instead of {list(then.actions.shape)}"
        apart = np.abs(then.actions - now.actions) > (SAMPLED if now.seed is not None else 0.0)
        for row, column in np.argwhere(apart)[:1].tolist():
            name = DIMENSIONS[column] if now.actions.shape[1] == len(DIMENSIONS) else f"value {column + 1}"
            return (
                f"{where}{name} of action {row + 1} is {now.actions[row, column]:.5f} "
                f"instead of {then.actions[row, column]:.5f}"
            )
    return where.removesuffix(": ") + " differs" if where else ""
