"""Turns camera images to the tower's patches, exactly as MolmoAct 2's image processor does for robots."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molmoact_ros.engine.cpu_library import library
from molmoact_ros.engine.model.image_processor import (
    ImageInputs,
    normalise,
    patches,
    pooled_grid,
    pooled_indices,
    stretch,
)
from molmoact_ros.engine.molmoact2.config import RobotImageConfig
from molmoact_ros.engine.vision.cpu_patches import CpuPatches


class RobotImageProcessor:
    """Each image is stretched to one crop, whatever its size and aspect.

    inputs = RobotImageProcessor(config)([front, wrist])  # images uint8 [H, W, 3] RGB
    inputs.crops  # float32 [2, 729, 588], -1..1
    """

    def __init__(self, config: RobotImageConfig) -> None:
        self.patch, self.size = config.patch_size, (config.size.height, config.size.width)
        grid = self.size[0] // self.patch, self.size[1] // self.patch
        self.grid, self._count = pooled_grid(grid), grid[0] * grid[1]
        self._windows = pooled_indices(np.arange(self._count).reshape(grid))
        self._patches = self.plain_patches if library() is None else CpuPatches(self.size, self.patch)

    @property
    def tokens(self) -> int:
        """Image tokens of one image."""
        return self.grid[0] * self.grid[1]

    def __call__(self, images: Sequence[np.ndarray]) -> ImageInputs:
        """Process images uint8 [H, W, 3] RGB, one per camera. A missing patch is -1, in every image."""
        index = np.concatenate(
            [np.where(self._windows >= 0, self._windows + number * self._count, -1) for number in range(len(images))]
        )
        return ImageInputs(
            np.stack([self._patches(image) for image in images]),
            np.arange(len(images)),
            index,
            ((self.grid,),) * len(images),
        )

    def plain_patches(self, image: np.ndarray) -> np.ndarray:
        """Patches float32 [P, patch * patch * 3] of an image uint8 [H, W, 3], where the kernels were not compiled."""
        pixels = stretch(image, self.size).round()[None] / np.float32(255)
        made: np.ndarray = patches(normalise(pixels), self.patch)[0]
        return made
