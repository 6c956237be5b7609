"""What the released evaluation of MolmoAct on LIBERO does to an image before the model gets it."""

from __future__ import annotations

from typing import Final

import cv2
import numpy as np

JPEG_QUALITY: Final = 95
CROP_AREA: Final = 0.9
"""Share of an image's area that is left: the training's random crops are as large."""


def released_image(image: np.ndarray) -> np.ndarray:
    """An image uint8 [H, W, 3] RGB as the released evaluation gives it to the model, of the same shape.

    It is compressed as a JPEG, and its middle, CROP_AREA of it, is stretched to its size, bilinearly between the
    middles of the corner pixels (tf.image.crop_and_resize).
    """
    _, data = cv2.imencode(".jpg", image[:, :, ::-1], [cv2.IMWRITE_JPEG_QUALITY, JPEG_QUALITY])
    decoded = np.asarray(cv2.imdecode(data, cv2.IMREAD_COLOR))[:, :, ::-1].astype(np.float32)
    rows, columns = (_sampled(size) for size in image.shape[:2])
    across, down = np.meshgrid(columns, rows)
    cropped = cv2.remap(decoded, across, down, cv2.INTER_LINEAR)
    return np.clip(np.rint(cropped), 0, 255).astype(np.uint8)


def _sampled(size: int) -> np.ndarray:
    """Where the pixels of a cropped side are in the whole one, float32 [size]."""
    edge = (1.0 - np.sqrt(CROP_AREA)) / 2.0
    return (np.linspace(edge, 1.0 - edge, size) * (size - 1)).astype(np.float32)
