"""The pinhole model of a camera."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole intrinsics in pixels for an image of `width` x `height`, and the lens distortion.

    fx, fy: focal lengths, pixels; cx, cy: principal point, pixels. nearest, farthest: m; outside them a depth pixel is
    0 (invalid). distortion: coefficients of `model`, a distortion model of sensor_msgs/CameraInfo: plumb_bob has k1,
    k2, p1, p2, k3 and equidistant (fisheye) has k1 to k4.
    """

    width: int
    height: int
    fx: float
    fy: float
    cx: float
    cy: float
    nearest: float
    farthest: float
    model: str = "plumb_bob"
    distortion: tuple[float, ...] = (0.0,) * 5

    @property
    def fovy_deg(self) -> float:
        """Vertical field of view in degrees, as MuJoCo takes it."""
        return float(np.degrees(2 * np.arctan(self.height / (2 * self.fy))))

    def scaled(self, width: int, height: int) -> CameraIntrinsics:
        """The intrinsics of the same view at another resolution."""
        sx, sy = width / self.width, height / self.height
        return CameraIntrinsics(
            width, height, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, self.nearest, self.farthest,
            self.model, self.distortion,
        )  # fmt: skip
