"""What stands out of the table in images of relative depth, whatever the camera's pose.

The inverse depth of a plane is an affine function of the pixel. So the table is found by fitting one to each image.
"""

from __future__ import annotations

from typing import Final

import numpy as np

SIDE: Final = 80
"""Side length in pixels at which planes are fitted and patches are compared."""
TOLERANCES: Final = (0.3, 0.15, 0.08, 0.04, 0.02, 0.015, 0.01, 0.01)
"""Largest distance of a pixel from the plane, in relative depth, to count in the next fit."""


def _places(side: int) -> np.ndarray:
    """Centres of `side` pixels that span the image, float32 [side] in -1..1."""
    return ((np.arange(side, dtype=np.float32) + 0.5) / side) * 2 - 1


def fit_planes(relative: np.ndarray) -> np.ndarray:
    """The table's plane in each image of relative depth, float32 [n, 80, 80]: float32 [n, 3], by column, row and 1.

    Repeated least squares over the pixels that lie ever nearer; those at the range's ends (0 and 1) never count.
    """
    places = _places(SIDE)
    basis = np.stack([np.tile(places, SIDE), np.repeat(places, SIDE), np.ones(SIDE * SIDE, np.float32)], axis=1)
    products = (basis[:, :, None] * basis[:, None]).reshape(-1, 9)
    pixels = relative.reshape(len(relative), -1).astype(np.float32)
    inside = (pixels > 0) & (pixels < 1)
    counts, planes = inside, np.zeros((len(pixels), 3), np.float32)
    for tolerance in TOLERANCES:
        matrix = (counts.astype(np.float32) @ products).reshape(-1, 3, 3) + 1e-3 * np.eye(3, dtype=np.float32)
        planes = np.linalg.solve(matrix, ((counts * pixels) @ basis)[..., None])[..., 0]
        counts = inside & (np.abs(pixels - planes @ basis.T) < tolerance)
    return planes


def draw_planes(planes: np.ndarray, side: int) -> np.ndarray:
    """Planes float32 [n, 3] as images of relative depth, float32 [n, side, side]."""
    places = _places(side)
    across, down, level = planes.T[:, :, None, None]
    drawn: np.ndarray = across * places + down * places[:, None] + level
    return drawn
