"""What demonstrations store of camera images."""

from __future__ import annotations

import cv2
import numpy as np

from molmoact_ros.engine.model.image_processor import resize

DEPTH_VIEW = (80, 80)  # stored depth, upscaled to the VQ-VAE's input when encoded


def model_views(
    front: np.ndarray, wrist: np.ndarray, depth: np.ndarray, view: tuple[int, int]
) -> tuple[np.ndarray, np.ndarray]:
    """What is stored of camera images: uint8 [2, rows, columns, 3] of size `view`, and depth float16 [80, 80] m.

    front, wrist: uint8 [H, W, 3] RGB. depth: the front camera's, float32 [H, W] m.
    """
    small = cv2.resize(depth, DEPTH_VIEW[::-1], interpolation=cv2.INTER_NEAREST_EXACT).astype(np.float16)
    return np.stack([resize(front, view), resize(wrist, view)]), small
