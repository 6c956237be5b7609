"""The noise of a stereo depth camera."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

NOISE: Final = 0.08 / (460.0 * 0.05)
"""Of inverse depth, 1/m: 0.08 px of disparity (assumed for a surface with texture) at a focal length of 460 px and
50 mm between the imagers, which a D435 has at 848x480 (Intel D400 datasheet, 337029). At 0.85 m that is 2.5 mm."""
ALIKE: Final = 1 / 320
"""Standard deviation of the blur by which neighbours' noise is alike, as a share of the width: two pixels of 640."""


def with_sensor_noise(depth: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """`depth`, float [H, W] m (0: not known), with `NOISE`, which neighbours share, as by stereo matching."""
    noise = rng.standard_normal(depth.shape).astype(np.float32)
    noise = cv2.GaussianBlur(noise, (0, 0), ALIKE * depth.shape[1])
    inverse = 1.0 / np.where(depth > 0, depth, 1.0) + noise * NOISE / noise.std()
    return np.where(depth > 0, 1.0 / inverse, 0.0)
