"""The board: printed at its size, found in images, and where it is not, one line says why."""

from __future__ import annotations

import re
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from molmoact_ros.cameras.board_page import INCH, board_page, draw_board, print_board
from molmoact_ros.cameras.charuco import DICTIONARIES, BoardNotFoundError, CharucoBoard

BOARD = CharucoBoard()


def scene(board: CharucoBoard, square: int = 40, size: tuple[int, int] = (480, 640)) -> np.ndarray:
    """A board held before a camera: tilted a little, on grey, and not quite sharp; uint8 [H, W, 3]."""
    drawn = np.pad(draw_board(board, 4 * square), 2 * square, constant_values=255)
    height, width = drawn.shape
    corners = np.array([[0, 0], [width, 0], [width, height], [0, height]], np.float32)
    middle = np.array(size[::-1]) / 2
    shape = np.array([[-1, -0.95], [0.96, -1], [1, 1], [-0.93, 0.97]]) * [width / 8, height / 8]
    warp = cv2.getPerspectiveTransform(corners, (shape + middle).astype(np.float32))
    image = np.full((*size, 1), 120, np.uint8)
    image = cv2.warpPerspective(drawn, warp, size[::-1], image, cv2.INTER_AREA, cv2.BORDER_TRANSPARENT)
    return np.repeat(cv2.GaussianBlur(image, (3, 3), 0.7).reshape(*size, 1), 3, axis=2)


@pytest.mark.parametrize(
    "board",
    [
        BOARD, CharucoBoard(7, 9, 0.025, 0.018), CharucoBoard(5, 7, 0.03, 0.022, "5X5_100"),
        CharucoBoard(6, 8, 0.03, 0.02, "APRILTAG_36H11"), CharucoBoard(6, 8, 0.03, 0.022, "6X6_250", legacy=True),
    ],
)  # fmt: skip
def test_a_board_is_found_with_all_its_corners(board: CharucoBoard) -> None:
    sighting = board.find(scene(board))
    assert len(sighting.pixels) == len(sighting.points) == (board.columns - 1) * (board.rows - 1)
    assert np.allclose(
        sighting.points.max(axis=0), [(board.columns - 1) * board.square, (board.rows - 1) * board.square, 0]
    )
    ways = np.diff(sighting.pixels[: board.columns - 1], axis=0)
    assert (ways[:, 0] > 20).all(), "the columns go to the right in an upright image"


WRONG = {
    "a blank wall": (BOARD, np.full((480, 640, 3), 120, np.uint8), "no marker is seen"),
    "another dictionary": (BOARD, scene(CharucoBoard(dictionary="5X5_100")), "try --dictionary 5X5_50"),
    "AprilTags": (BOARD, scene(CharucoBoard(dictionary="APRILTAG_36H11")), "try --dictionary APRILTAG_36H11"),
    "a larger board": (BOARD, scene(CharucoBoard(7, 9, 0.025, 0.018)), "--board"),
    "columns and rows confused": (CharucoBoard(7, 5), scene(CharucoBoard(5, 7)), "--board 5x7 fits"),
    "the pattern of before 4.6": (CharucoBoard(5, 8), scene(CharucoBoard(5, 8, legacy=True), 35), "--legacy fits"),
    "a corner of it": (BOARD, scene(BOARD)[:170, :330], "show more of it|no marker"),
}


@pytest.mark.parametrize("name", WRONG)
def test_why_a_board_is_not_found_is_said_in_one_line(name: str) -> None:
    board, image, words = WRONG[name]
    with pytest.raises(BoardNotFoundError):
        board.find(image)
    assert re.search(words, said := board.explain(image)) and "\n" not in said, said


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"dictionary": "9X9_1"}, "there are.*4X4_50"), ({"columns": 2}, "3 to 40"), ({"marker": 0.04}, "do not fit"),
        ({"square": -0.01}, "do not fit"), ({"columns": 12, "rows": 12}, "only 50"), ({"square": 35.0}, "do not fit"),
    ],
)  # fmt: skip
def test_a_board_that_cannot_be_made_is_refused(wrong: dict[str, float], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        CharucoBoard(**wrong)  # type: ignore[arg-type]


@settings(max_examples=15, deadline=None)
@given(
    st.integers(3, 9), st.integers(3, 9), st.floats(10, 40), st.floats(0.5, 0.9),
    st.sampled_from([name for name in DICTIONARIES if name.endswith(("250", "H11"))]),
)  # fmt: skip
def test_any_board_is_drawn_as_it_is_found(
    columns: int, rows: int, square: float, part: float, dictionary: str
) -> None:
    board = CharucoBoard(columns, rows, 1e-3 * square, 1e-3 * square * part, dictionary)
    image = np.pad(draw_board(board, 100), 50, constant_values=255)
    if (columns - 1) * (rows - 1) < 6:
        return
    sighting = board.find(image)
    assert len(sighting.points) == (columns - 1) * (rows - 1)
    pixels = 50 + sighting.points[:, :2] / board.square * 100 - 0.5
    assert np.abs(pixels - sighting.pixels).max() < 1.0


@pytest.mark.parametrize(("size", "paper"), [(35.0, "A4"), (25.4, "A4"), (50.0, "A3"), (33.3, "A4")])
def test_the_printed_board_has_its_size(size: float, paper: str, tmp_path: Path) -> None:
    board = CharucoBoard(square=1e-3 * size, marker=0.75e-3 * size)
    page, resolution, name = board_page(board)
    assert name == paper
    sighting = board.find(page)
    width = np.ptp(sighting.pixels, axis=0) / resolution * INCH
    assert np.abs(width - np.array([3, 5]) * size).max() < 0.02, "mm, of the corners"
    assert "100 %" in print_board(board, tmp_path / "board.png")
    with Image.open(tmp_path / "board.png") as image:
        assert abs(image.width / image.info["dpi"][0] * INCH - page.shape[1] / resolution * INCH) < 0.1
    print_board(board, tmp_path / "board.pdf")
    box = re.search(rb"/MediaBox\s*\[\s*([\d. ]+)\]", (tmp_path / "board.pdf").read_bytes())
    assert box is not None
    points = np.array(box[1].split(), float)[2:]
    assert np.abs(points / 72 * INCH - np.array(page.shape[::-1]) / resolution * INCH).max() < 0.1


def test_a_board_larger_than_paper_and_another_file_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="fits on no sheet"):
        board_page(CharucoBoard(30, 3, 0.05, 0.03))
    with pytest.raises(ValueError, match=r"neither \.pdf nor \.png"):
        print_board(BOARD, tmp_path / "board.jpg")
