"""A gripper's path in the images of a calibrated camera."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np

from molmoact_ros.cameras.camera_view import CameraView
from molmoact_ros.reasoning.trace import MAX_POINTS, trace_from_pixels

OUTSIDE: Final = "the gripper is outside of the image"


@dataclass(frozen=True)
class ImagePath:
    """Where the gripper is in each of n images.

    points: float [n, 2], pixels of images of `width` x `height`; NaN where unknown. reasons: why, for each frame; empty
    where it is known.
    """

    points: np.ndarray
    reasons: list[str]
    width: int
    height: int

    def trace(self, frame: int) -> np.ndarray | None:
        """The trace from a frame on, int64 [k, 2] with k 1..5 in 0..255; None where no point is known from there on.

        The known points to the end; of more than five those at even distances (the released script).
        """
        known = frame + np.flatnonzero(np.isfinite(self.points[frame:]).all(axis=1))
        if len(known) > MAX_POINTS:
            known = known[np.linspace(0, len(known) - 1, MAX_POINTS).astype(int)]
        return self.trace_through(known)

    def trace_through(self, frames: Sequence[int] | np.ndarray) -> np.ndarray | None:
        """The points of some frames as a trace, int64 [k, 2] in 0..255; unknown ones are left out, None without any."""
        points = self.points[np.asarray(frames, int)]
        known = points[np.isfinite(points).all(axis=1)]
        return trace_from_pixels(known, self.width, self.height) if len(known) else None

    def halfway(self, begin: int, end: int) -> int:
        """The frame in begin..end by which half of the way between them in the image is done."""
        steps = np.nan_to_num(np.linalg.norm(np.diff(self.points[begin : end + 1], axis=0), axis=1))
        way = np.concatenate([[0.0], np.cumsum(steps)])
        return begin + int(np.searchsorted(way, way[-1] / 2))


def path_in_image(view: CameraView, hands: Sequence[np.ndarray]) -> tuple[ImagePath, np.ndarray]:
    """The path of hands [n, 3] m, of each arm in its base frame, and its distance from the camera, float [n] m.

    A point outside of the image is left out. Of two arms it is the path of the one that moves farther.
    """
    arm = int(np.argmax([np.linalg.norm(np.diff(hand, axis=0), axis=1).sum() for hand in hands]))
    pixels, distances = view.project(hands[arm], arm)
    inside = np.all((pixels >= 0) & (pixels <= (view.width - 1, view.height - 1)), axis=1)  # False for NaN
    pixels[~inside] = np.nan
    reasons = ["" if there else OUTSIDE for there in inside.tolist()]
    return ImagePath(pixels, reasons, view.width, view.height), distances
