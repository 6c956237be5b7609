"""From camera images to the patches that the vision tower reads."""

from __future__ import annotations

import cv2
import numpy as np

from molmoact_ros.engine.config import VitConfig


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """RGB uint8 [H, W, 3] scaled to `size` (rows, columns) by area averaging; the aspect ratio is not kept."""
    return cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)


def patches(images: np.ndarray, patch: int) -> np.ndarray:
    """uint8 [N, H, W, 3] to float32 [N, P, patch*patch*3] in -1..1; row-major, (row, column, channel) inside."""
    n, height, width, _ = images.shape
    grid = images.reshape(n, height // patch, patch, width // patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, -1, patch * patch * 3).astype(np.float32) / 127.5 - 1.0


def pooled_indices(grid: tuple[int, int]) -> np.ndarray:
    """For each 2x2 window of a patch grid (rows, columns) the four patch indices, int64 [T, 4], row-major.

    An odd grid is padded at the bottom and right; what is missing there is -1.
    """
    rows, columns = grid
    index = np.arange(rows * columns).reshape(rows, columns)
    index = np.pad(index, ((0, rows % 2), (0, columns % 2)), constant_values=-1)
    windows = index.reshape(index.shape[0] // 2, 2, -1, 2).transpose(0, 2, 1, 3)
    return windows.reshape(-1, 4).astype(np.int64)


def pooled_grid(grid: tuple[int, int]) -> tuple[int, int]:
    """Rows and columns of image tokens for a patch grid."""
    return (grid[0] + 1) // 2, (grid[1] + 1) // 2


def view_inputs(images: np.ndarray, config: VitConfig) -> tuple[np.ndarray, np.ndarray]:
    """N resized images uint8 [N, H, W, 3] to crops float32 [N, P, patch_dim] and pooled indices int64 [N*T, 4]."""
    crops = patches(images, config.image_patch_size)
    single = pooled_indices(config.grid)
    offsets = (np.arange(len(images)) * crops.shape[1])[:, None, None]
    return crops, np.where(single >= 0, single + offsets, -1).reshape(-1, 4)
