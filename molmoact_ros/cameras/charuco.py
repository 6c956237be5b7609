"""The ChArUco board that calibrations look at: how it is found in an image, and why it is not."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, Final

import cv2
import numpy as np

DICTIONARIES: Final = {
    name.removeprefix("DICT_"): int(getattr(cv2.aruco, name))
    for name in sorted(dir(cv2.aruco))
    if name.startswith("DICT_") and name == name.upper()
}
"""OpenCV's dictionaries of markers by name, such as 4X4_50."""
FAMILIES: Final = (
    "4X4_1000", "5X5_1000", "6X6_1000", "7X7_1000", "APRILTAG_36H11", "ARUCO_ORIGINAL", "ARUCO_MIP_36H12",
)  # fmt: skip
"""The largest dictionary of each kind, of which a smaller one is the beginning; not those with many false markers."""
FEWEST: Final = 6
"""Corners of a view at least."""
FEW: Final = "only {count} corners of the board are seen; show more of it, closer, and without glare"


class BoardNotFoundError(ValueError):
    """The board is not in the image; `CharucoBoard.explain` says why, and what to do."""


@dataclass(frozen=True)
class BoardSighting:
    """Corners of the board that one image shows.

    pixels: float64 [n, 2], right and down. points: float64 [n, 3] m, the same corners in the board's frame, whose
    origin is the corner of the first square, x along the columns, y along the rows, z into the board.
    """

    pixels: np.ndarray
    points: np.ndarray


@dataclass(frozen=True)
class CharucoBoard:
    """A printed ChArUco board.

    Args of `__init__`:
        columns, rows: number of squares.
        square, marker: sides of a square and of a marker, m.
        dictionary: a name of DICTIONARIES.
        legacy: the pattern of OpenCV before 4.6, which differs where the number of rows is even.

    Raises:
        ValueError: in one line, for a board that cannot be made.

    Example:
        sighting = CharucoBoard().find(image)  # uint8 [H, W] or [H, W, 3]; raises BoardNotFoundError
    """

    columns: int = 5
    rows: int = 7
    square: float = 0.035
    marker: float = 0.026
    dictionary: str = "4X4_50"
    legacy: bool = False

    def __post_init__(self) -> None:
        if self.dictionary not in DICTIONARIES:
            raise ValueError(f"no dictionary is called {self.dictionary!r}; there are {', '.join(DICTIONARIES)}")
        if not (3 <= self.columns <= 40 and 3 <= self.rows <= 40):
            raise ValueError(f"a board has 3 to 40 columns and rows, not {self.columns}x{self.rows}")
        if not 0 < self.marker < self.square <= 1.0:
            raise ValueError(
                f"markers of {1e3 * self.marker:g} mm do not fit into squares of {1e3 * self.square:g} mm; "
                "give both in mm, the marker the smaller one"
            )
        there = len(_dictionary(self.dictionary).bytesList)
        if self.markers > there:
            raise ValueError(
                f"a board of {self.columns}x{self.rows} has {self.markers} markers, and {self.dictionary} only {there}"
            )

    def __str__(self) -> str:
        old = ", legacy pattern" if self.legacy else ""
        return (
            f"ChArUco {self.columns}x{self.rows}, squares {1e3 * self.square:g} mm, markers {1e3 * self.marker:g} mm, "
            f"{self.dictionary}{old}"
        )

    @property
    def markers(self) -> int:
        """Number of markers: one in each white square."""
        return self.columns * self.rows // 2

    @cached_property
    def pattern(self) -> Any:
        """The board as OpenCV's aruco module has it."""
        made = cv2.aruco.CharucoBoard((self.columns, self.rows), self.square, self.marker, _dictionary(self.dictionary))
        made.setLegacyPattern(self.legacy)
        return made

    @cached_property
    def _detector(self) -> Any:
        parameters = cv2.aruco.CharucoParameters()
        parameters.tryRefineMarkers = True
        return cv2.aruco.CharucoDetector(self.pattern, parameters)

    def find(self, image: np.ndarray) -> BoardSighting:
        """The board's corners in an image, uint8 [H, W] or [H, W, 3]. Raises BoardNotFoundError."""
        ids, pixels = self._corners(image)
        if len(ids) < FEWEST or self.pattern.checkCharucoCornersCollinear(ids.reshape(-1, 1)):
            raise BoardNotFoundError(FEW.format(count=len(ids)) if len(ids) else f"{self} is not seen")
        return BoardSighting(pixels, np.asarray(self.pattern.getChessboardCorners(), np.float64)[ids])

    def _corners(self, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        corners, ids, _, _ = self._detector.detectBoard(grey(image))
        if ids is None or corners is None:
            return np.zeros(0, np.int32), np.zeros((0, 2))
        return np.asarray(ids, np.int32).ravel(), np.asarray(corners, np.float64).reshape(-1, 2)

    def explain(self, image: np.ndarray) -> str:
        """Why the image does not show this board, in one line: what else it shows, or what to change.

        This tries other boards, which takes a second.
        """
        if count := len(self._corners(image)[0]):
            return FEW.format(count=count)
        ids = _marker_ids(self.dictionary, image)
        if len(ids) >= 3:
            if max(ids) >= self.markers:
                return (
                    f"marker {max(ids)} is seen, and a board of {self.columns}x{self.rows} squares has {self.markers}: "
                    "give the right number of columns and rows (--board)"
                )
            for other in (replace(self, legacy=not self.legacy), replace(self, columns=self.rows, rows=self.columns)):
                if len(other._corners(image)[0]) >= FEWEST:
                    flags = f"--board {other.columns}x{other.rows}{' --legacy' if other.legacy else ''}"
                    return f"the image shows another board than {self}; {flags} fits"
            return f"markers of {self.dictionary} are seen, but not arranged as on {self}; check --board and --legacy"
        return _other_dictionary(self.dictionary, image) or (
            "no marker is seen; show the whole board, well lit and sharp, and large enough in the image"
        )


def grey(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W] or [H, W, 3] RGB as uint8 [H, W]."""
    result: np.ndarray = image if image.ndim == 2 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return result


def _dictionary(name: str) -> Any:
    return cv2.aruco.getPredefinedDictionary(DICTIONARIES[name])


def _marker_ids(dictionary: str, image: np.ndarray) -> list[int]:
    _, ids, _ = cv2.aruco.ArucoDetector(_dictionary(dictionary)).detectMarkers(grey(image))
    return [] if ids is None else sorted(int(number) for number in np.ravel(ids))


def _other_dictionary(own: str, image: np.ndarray) -> str:
    """One line about the dictionary of the markers in the image; empty where there are too few of any other."""
    found = {name: _marker_ids(name, image) for name in FAMILIES}
    family = max(found, key=lambda name: len(found[name]))
    if len(found[family]) < 4:
        return ""
    kind, size = family.rpartition("_")[0], max(found[family])
    fits = [name for name in DICTIONARIES if name.rpartition("_")[0] == kind and name[-1].isdigit()]
    fits = [name for name in fits if len(_dictionary(name).bytesList) > size] or [family]
    name = min(fits, key=lambda name: len(_dictionary(name).bytesList)) if kind[0].isdigit() else family
    if name == own:
        return ""
    return f"no marker of {own} is seen, but {len(found[family])} of another dictionary; try --dictionary {name}"
