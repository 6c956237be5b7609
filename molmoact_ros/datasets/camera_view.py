"""Where the front camera of a recording is and how it projects: from its camera_info and /tf_static."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np

from molmoact_ros.bags.recording import Recording
from molmoact_ros.cameras.static_frames import StaticFrames

_LENSES: Final = ("", "plumb_bob", "rational_polynomial", "equidistant")
"""Distortion models of sensor_msgs/CameraInfo that OpenCV has."""
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


def front_view(recording: Recording, bases: Sequence[str]) -> CameraView | str:
    """The front camera's view of a recording, or why there is none, in one line.

    bases: names of the arms' base frames.
    """
    topic = f"/{recording.names.cameras[0]}/color/camera_info"
    infos = recording.decoded(topic)
    if not infos or not np.any(infos[-1][1].k):
        return f"there is no calibration on {topic}"
    info = infos[-1][1]
    if info.distortion_model not in _LENSES:
        return f"the distortion model {info.distortion_model!r} on {topic} is not known"
    frame, frames = str(info.header.frame_id), StaticFrames()
    for _, transforms in recording.decoded("/tf_static"):
        frames.add_transforms(transforms)
    poses = [pose for base in bases if (pose := frames.pose(frame, base)) is not None]
    if len(poses) < len(bases):
        return f"/tf_static does not say where {frame or 'the front camera'} is from {' and '.join(bases)}"
    matrix, lens = np.asarray(info.k, np.float64).reshape(3, 3), tuple(np.asarray(info.d, np.float64).tolist())
    return CameraView(int(info.width), int(info.height), matrix, lens, str(info.distortion_model), tuple(poses))
