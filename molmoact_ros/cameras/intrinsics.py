"""How a camera maps directions to pixels."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class CameraIntrinsics:
    """Pinhole intrinsics in pixels for an image of `width` x `height`, and what the lens does to it.

    nearest, farthest: m; outside them a depth pixel is 0 (invalid).
    distortion: coefficients of `model`, which sensor_msgs/CameraInfo names: plumb_bob has k1, k2, p1, p2, k3 and
    equidistant (fisheye) has k1 to k4.
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
        """Vertical field of view in degrees, as MuJoCo wants it."""
        return float(np.degrees(2 * np.arctan(self.height / (2 * self.fy))))

    def scaled(self, width: int, height: int) -> CameraIntrinsics:
        """The same view at another resolution."""
        sx, sy = width / self.width, height / self.height
        return CameraIntrinsics(
            width, height, self.fx * sx, self.fy * sy, self.cx * sx, self.cy * sy, self.nearest, self.farthest,
            self.model, self.distortion,
        )  # fmt: skip
