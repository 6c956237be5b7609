"""Where a camera that stands still is and how it projects: from its camera_info and /tf_static."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.cameras.static_frames import StaticFrames

_LENSES: Final = ("", "plumb_bob", "rational_polynomial", "equidistant")
"""Distortion models of sensor_msgs/CameraInfo that OpenCV has."""
_COEFFICIENTS: Final = (0, 4, 5, 8, 12, 14)
"""Numbers of distortion coefficients that OpenCV takes; equidistant has four."""
_MARGIN: Final = 0.5
"""Part of the image's size around it up to which a lens is believed: farther out, its polynomial may fold back."""


@dataclass(frozen=True)
class CameraView:
    """A calibrated camera that stands still.

    width, height: of the images that it is calibrated for, pixels. matrix: float [3, 3], pixels. distortion:
    coefficients of `model`, a distortion model of sensor_msgs/CameraInfo. poses: the optical frame (z forward, y down)
    in the base frame of each arm, float [4, 4] m.
    """

    width: int
    height: int
    matrix: np.ndarray
    distortion: tuple[float, ...]
    model: str
    poses: tuple[np.ndarray, ...]

    def project(self, points: np.ndarray, arm: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """Pixels float [n, 2] and depths float [n] m of `points` [n, 3] m in the base frame of an arm.

        Pixels of points behind the camera, or far outside of the image, are NaN.
        """
        inside = np.linalg.inv(self.poses[arm])
        local = np.asarray(points, np.float64) @ inside[:3, :3].T + inside[:3, 3]
        depth = local[:, 2]
        rays = local[:, :2] / np.where(depth > 0, depth, np.nan)[:, None]
        fractions = (rays @ self.matrix[:2, :2].T + self.matrix[:2, 2]) / (self.width, self.height)
        near = ((fractions > -_MARGIN) & (fractions < 1 + _MARGIN)).all(axis=1)
        pixels = np.full((len(local), 2), np.nan)
        if near.any():
            given, lens = local[near].reshape(-1, 1, 3), np.array(self.distortion, np.float64)
            if self.model == "equidistant":
                found = cv2.fisheye.projectPoints(given, np.zeros(3), np.zeros(3), self.matrix, lens[:4])[0]
            else:
                found = cv2.projectPoints(given, np.zeros(3), np.zeros(3), self.matrix, lens)[0]
            pixels[near] = found.reshape(-1, 2)
        return pixels, depth


def camera_view(info: Any, frames: StaticFrames, bases: Sequence[str], topic: str, frame: str = "") -> CameraView | str:
    """A camera's view from each arm, or why there is none, in one line.

    info: a sensor_msgs/CameraInfo that came on `topic`; None: none came. bases: names of the arms' base frames. frame:
    the camera's optical frame, where `info` names none.
    """
    if info is None or not np.any(info.k) or min(info.width, info.height) < 2:
        return f"there is no calibration on {topic}"
    if info.distortion_model not in _LENSES:
        return f"the distortion model {info.distortion_model!r} on {topic} is not known"
    count, numbers = len(info.d), np.concatenate([info.k, info.d])
    fits = count >= 4 if info.distortion_model == "equidistant" else count in _COEFFICIENTS
    if not fits or not np.isfinite(numbers).all():
        return f"the calibration on {topic} is damaged: {count} coefficients of distortion, or no finite numbers"
    frame = str(info.header.frame_id) or frame
    poses = [pose for base in bases if (pose := frames.pose(frame, base)) is not None]
    if len(poses) < len(bases):
        return f"/tf_static does not say where {frame or 'the front camera'} is from {' and '.join(bases)}"
    matrix, lens = np.asarray(info.k, np.float64).reshape(3, 3), tuple(np.asarray(info.d, np.float64).tolist())
    return CameraView(int(info.width), int(info.height), matrix, lens, str(info.distortion_model), tuple(poses))
