"""Where the front camera of a recording is and how it projects: from its camera_info and /tf_static."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.bags.recording import Recording

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
    poses = _poses(recording, str(info.header.frame_id), bases)
    if poses is None:
        return f"/tf_static does not say where {info.header.frame_id or 'the camera'} is from {bases[0]}"
    matrix = np.asarray(info.k, np.float64).reshape(3, 3)
    return CameraView(
        int(info.width), int(info.height), matrix, tuple(np.asarray(info.d).tolist()), str(info.distortion_model), poses
    )


def _poses(recording: Recording, frame: str, bases: Sequence[str]) -> tuple[np.ndarray, ...] | None:
    """The pose [4, 4] of a frame in each of `bases`; None where no static transforms join them."""
    parents: dict[str, tuple[str, np.ndarray]] = {}
    for _, message in recording.decoded("/tf_static"):
        for of in message.transforms:
            t, q = of.transform.translation, of.transform.rotation
            turn = np.array([q.x, q.y, q.z, q.w])
            if np.isfinite([t.x, t.y, t.z, *turn]).all() and np.linalg.norm(turn) > 1e-3:
                pose = np.eye(4)
                pose[:3, :3], pose[:3, 3] = Rotation.from_quat(turn).as_matrix(), (t.x, t.y, t.z)
                parents[str(of.child_frame_id)] = str(of.header.frame_id), pose
    above, found = _above(frame, parents), []
    for base in bases:
        of_base = _above(base, parents)
        common = next((name for name in of_base if name in above), None)
        if common is None:
            return None
        found.append(np.linalg.inv(of_base[common]) @ above[common])
    return tuple(found)


def _above(frame: str, parents: dict[str, tuple[str, np.ndarray]]) -> dict[str, np.ndarray]:
    """The pose [4, 4] of a frame in itself and in each frame above it, nearest first."""
    pose, out = np.eye(4), {frame: np.eye(4)}
    while frame in parents and parents[frame][0] not in out:
        frame, step = parents[frame]
        pose = step @ pose
        out[frame] = pose
    return out
