"""Deprojects a trace to 3D with the camera's depth and intrinsics."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.reasoning.trace import pixels_from_trace

SPACING: Final = 8.0
"""Distance between samples along the trace, pixels."""
WINDOW: Final = 2
"""Half-width of the window around a sample, pixels; its depth is the median of the valid pixels there."""


def lift(trace: np.ndarray, depth: np.ndarray, k: np.ndarray) -> np.ndarray:
    """Deproject `trace`, int [n, 2] in 0..255, to the visible surface: points float64 [m, 3], m, in the optical frame.

    depth: float [H, W] m along the optical axis, 0 where invalid. k: float [3, 3], the camera matrix of that image.
    Samples without depth are interpolated linearly from their neighbours along the trace; if none has depth, the result
    is [0, 3].
    """
    pixels = _samples(pixels_from_trace(trace, depth.shape[1], depth.shape[0]).astype(float))
    z = np.array([_depth_at(depth, *pixel) for pixel in np.round(pixels).astype(int)])
    known = np.isfinite(z)
    if not known.any():
        return np.zeros((0, 3))
    z = np.interp(np.arange(len(z)), np.flatnonzero(known), z[known])
    rays = np.column_stack([pixels, np.ones(len(pixels))]) @ np.linalg.inv(k).T
    points: np.ndarray = rays * z[:, None]
    return points


def _samples(pixels: np.ndarray) -> np.ndarray:
    lengths = np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(pixels, axis=0), axis=1))])
    where = np.union1d(np.arange(0.0, lengths[-1], SPACING), lengths)
    return np.column_stack([np.interp(where, lengths, pixels[:, axis]) for axis in (0, 1)])


def _depth_at(depth: np.ndarray, column: int, row: int) -> float:
    around = depth[max(0, row - WINDOW) : row + WINDOW + 1, max(0, column - WINDOW) : column + WINDOW + 1]
    valid = around[np.isfinite(around) & (around > 0)]
    return float(np.median(valid)) if len(valid) else np.nan
