"""How much of what stands on the table, or is held, decoded depth shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.benchmarks.depth_moments import DepthMoment
from molmoact_ros.evaluation.intervals import mean_interval

STANDS: Final = 0.015
"""m above the table from which on a point belongs to something that stands there."""
AROUND: Final = 10
"""Pixels round a thing whose table is compared with it."""
FEW: Final = 20
"""Pixels: a thing of which less is seen is not judged."""


@dataclass(frozen=True)
class DepthAgreement:
    """Decoded beside measured depth in one moment, where the arm would not be seen behind a thing.

    iou: intersection over union of the pixels that stand out, or are held. error_mm: mean difference of depth over
    those of the measured ones. contrast: by how much of its measured relief a thing on the table stands out (slope of
    the regression of decoded on measured relief, over things and the table round them); correlation: of the two. held:
    share of the held object's pixels that stand out. NaN: nothing of the kind is seen.
    """

    iou: float
    error_mm: float
    contrast: float
    correlation: float
    held: float


def agreement(moment: DepthMoment, decoded: np.ndarray) -> DepthAgreement:
    """Compare `decoded` depth, float [320, 320] m, with the moment's."""
    open_table = (moment.bare > 0) & (moment.above_table(moment.bare) < STANDS)
    held = open_table & moment.held
    things = open_table & ((moment.above_table(moment.depth) >= STANDS) | moment.held)
    shown = open_table & (moment.above_table(decoded) >= STANDS)
    union = int((things | shown).sum())
    enough = int(things.sum()) >= FEW
    contrast, correlation = _relief(moment, decoded, things & ~held, open_table & ~_widened(held))
    return DepthAgreement(
        iou=float((things & shown).sum() / union) if enough else np.nan,
        error_mm=float(np.abs(decoded - moment.depth)[things].mean() * 1e3) if enough else np.nan,
        contrast=contrast, correlation=correlation,
        held=float(shown[held].mean()) if held.sum() >= FEW else np.nan,
    )  # fmt: skip


def _relief(moment: DepthMoment, decoded: np.ndarray, things: np.ndarray, where: np.ndarray) -> tuple[float, float]:
    near = _widened(things) & where
    if things.sum() < FEW:
        return np.nan, np.nan
    measured, said = (moment.bare - moment.depth)[near], (moment.bare - decoded)[near]
    (variance, shared), (_, other) = np.cov(measured, said)
    return float(shared / variance), float(shared / np.sqrt(variance * other)) if other > 0 else 0.0


def _widened(pixels: np.ndarray) -> np.ndarray:
    side = 2 * AROUND + 1
    return cv2.dilate(pixels.astype(np.uint8), np.ones((side, side), np.uint8)) > 0


def summarised(rows: Sequence[DepthAgreement]) -> dict[str, dict[str, Any]]:
    """Of each figure the mean, its interval and the number of moments that have it."""
    return {field.name: summary([getattr(row, field.name) for row in rows]) for field in fields(DepthAgreement)}


def summary(values: Sequence[float]) -> dict[str, Any]:
    """Mean and 95 % interval of those `values` that are not NaN, and their number; None: too few."""
    known = [value for value in values if not np.isnan(value)]
    mean = float(np.mean(known)) if known else None
    return {"mean": mean, "interval": mean_interval(known), "moments": len(known)}


def perplexity(codes: np.ndarray) -> float:
    """Of how many codes, used equally often, the use of `codes`, integers [...], would have the entropy."""
    share = np.bincount(codes.ravel()) / codes.size
    share = share[share > 0]
    return float(np.exp(-(share * np.log(share)).sum()))
