"""The board on a sheet of paper, at its exact size."""

from __future__ import annotations

from pathlib import Path
from typing import Final

import cv2
import numpy as np
from PIL import Image

from molmoact_ros.cameras.charuco import CharucoBoard

INCH: Final = 25.4
"""mm"""
RESOLUTION: Final = 300.0
"""Pixels per inch at least; it is raised so that a square has a whole number of pixels."""
PAPERS: Final = {"A4": (210, 297), "A3": (297, 420), "A2": (420, 594), "A1": (594, 841), "A0": (841, 1189)}
"""mm, upright."""
EDGE: Final = 8.0
"""mm of the sheet that printers leave white, and the room for the line of text."""
RULER: Final = 100.0
"""mm: length of the line that tells whether the sheet was printed at its size."""


def draw_board(board: CharucoBoard, pixels: int) -> np.ndarray:
    """The board without an edge, uint8 [rows * pixels, columns * pixels] grey; pixels: side of a square.

    OpenCV's own drawing fails for some sizes (5.0).
    """
    image = np.zeros((board.rows * pixels, board.columns * pixels), np.uint8)
    side = round(board.marker / board.square * pixels)
    edge = (pixels - side) // 2
    dictionary = board.pattern.getDictionary()
    for number, corners in zip(np.ravel(board.pattern.getIds()), board.pattern.getObjPoints(), strict=True):
        column, row = np.floor(np.mean(corners, axis=0)[:2] / board.square).astype(int).tolist()
        square = image[row * pixels : (row + 1) * pixels, column * pixels : (column + 1) * pixels]
        square[:] = 255
        marker = cv2.aruco.generateImageMarker(dictionary, int(number), side)
        square[edge : edge + side, edge : edge + side] = marker
    return image


def board_page(board: CharucoBoard) -> tuple[np.ndarray, float, str]:
    """The sheet, uint8 [H, W] grey, its resolution in pixels per inch, and the name of its paper.

    Raises ValueError for a board that fits on no sheet of PAPERS.
    """
    square = 1e3 * board.square  # mm
    pixels = int(np.ceil(square / INCH * RESOLUTION))
    per_mm = pixels / square
    size = np.array([board.columns, board.rows]) * square
    name, paper = _paper(size, board)
    width, height = (round(side * per_mm) for side in paper)
    page = np.full((height, width), 255, np.uint8)
    drawn = draw_board(board, pixels)
    left, top = (width - drawn.shape[1]) // 2, max((height - drawn.shape[0]) // 2, round(EDGE * per_mm))
    page[top : top + drawn.shape[0], left : left + drawn.shape[1]] = drawn
    below = min(top + drawn.shape[0] + round(6 * per_mm), height - round(4 * per_mm))
    text = f"{board} | print at 100 %: the line is {RULER:g} mm"
    cv2.putText(page, text, (left, below), cv2.FONT_HERSHEY_SIMPLEX, 0.08 * per_mm, 0, max(1, round(0.15 * per_mm)))
    line = below + round(2 * per_mm)
    page[line : line + max(2, round(0.3 * per_mm)), left : left + round(RULER * per_mm)] = 0
    return page, per_mm * INCH, name


def _paper(size: np.ndarray, board: CharucoBoard) -> tuple[str, tuple[float, float]]:
    for name, (short, long) in PAPERS.items():
        for paper in ((short, long), (long, short)):
            if size[0] + 2 * EDGE <= paper[0] and size[1] + 3 * EDGE <= paper[1]:
                return name, paper
    raise ValueError(f"{board} fits on no sheet up to A0; make its squares smaller")


def print_board(board: CharucoBoard, file: Path) -> str:
    """Write the sheet as PDF or PNG, by the file's ending; returns one line about it. Raises ValueError and OSError."""
    if file.suffix.lower() not in (".pdf", ".png"):
        raise ValueError(f"{file} is neither .pdf nor .png; name one of them")
    page, resolution, paper = board_page(board)
    image = Image.fromarray(page)
    if file.suffix.lower() == ".pdf":
        image.convert("1").save(file, "PDF", resolution=resolution)
    else:
        image.save(file, dpi=(resolution, resolution))
    return (
        f"{file}: {board}, on {paper}; print it at 100 % (no fitting to the page), measure a square, and glue it onto "
        "something flat and stiff"
    )
