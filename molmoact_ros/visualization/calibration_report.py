"""A calibration for people: every view with the corners that were seen and where the calibration puts them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import cv2
import numpy as np

from molmoact_ros.cameras.calibration import Calibration, CalibrationView

WIDTH: Final = 400
"""Pixels of a view in the report."""
COLUMNS: Final = 4
"""Views side by side."""
TIMES: Final = 10.0
"""Factor by which a corner's error is drawn longer than it is."""
LINE: Final = 22
"""Pixels of a line of text."""
SEEN: Final = (0, 210, 90)
"""RGB of a corner as it was seen."""
ERROR: Final = (230, 40, 140)
"""RGB of its error."""


def draw_calibration(
    views: Sequence[CalibrationView], images: Mapping[str, np.ndarray], found: Calibration, lines: Sequence[str]
) -> np.ndarray:
    """A contact sheet, uint8 [H, W, 3] RGB. images: of the views by name, uint8 [h, w, 3] RGB. lines: above them."""
    tiles = [_tile(view, images[view.name], found) for view in views]
    height = max(tile.shape[0] for tile in tiles)
    tiles = [np.pad(tile, ((0, height - len(tile)), (0, 0), (0, 0))) for tile in tiles]
    columns = min(COLUMNS, len(tiles))
    tiles += [np.zeros_like(tiles[0])] * (-len(tiles) % columns)
    rows = [np.hstack(tiles[k : k + columns]) for k in range(0, len(tiles), columns)]
    head = np.full((LINE * (len(lines) + 1), rows[0].shape[1], 3), 255, np.uint8)
    for number, line in enumerate(lines, start=1):
        _write(head, line, (8, LINE * number), (20, 20, 20))
    return np.vstack([head, *rows])


def _tile(view: CalibrationView, image: np.ndarray, found: Calibration) -> np.ndarray:
    scale = WIDTH / image.shape[1]
    tile: np.ndarray = cv2.resize(image, (WIDTH, round(image.shape[0] * scale)), interpolation=cv2.INTER_AREA)
    errors = found.residuals.get(view.name)
    for number, pixel in enumerate(view.sighting.pixels):
        at = _point(scale * pixel)
        cv2.circle(tile, at, 3, SEEN, 1, cv2.LINE_AA)
        if errors is not None:
            cv2.line(tile, at, _point(scale * (pixel + TIMES * errors[number])), ERROR, 1, cv2.LINE_AA)
    if errors is None:
        text = f"{view.name}: left out, {found.left_out[view.name]:.1f} px"
    else:
        text = f"{view.name}: {np.sqrt(np.mean(np.sum(errors**2, axis=1))):.2f} px, {len(errors)} corners"
    cv2.rectangle(tile, (0, 0), (WIDTH, LINE), (0, 0, 0), -1)
    _write(tile, text, (6, LINE - 6), (255, 255, 255))
    return tile


def _point(pixel: np.ndarray) -> tuple[int, int]:
    x, y = np.clip(np.round(pixel), -(2**15), 2**15).astype(int).tolist()
    return x, y


def _write(image: np.ndarray, text: str, at: tuple[int, int], colour: tuple[int, int, int]) -> None:
    cv2.putText(image, text, at, cv2.FONT_HERSHEY_SIMPLEX, 0.5, colour, 1, cv2.LINE_AA)
