"""Preprocesses camera images into the vision tower's patches, exactly as the released image processor does."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from pathlib import Path

import cv2
import numpy as np
import torch
from PIL import Image, ImageOps
from torch.nn import functional as F

from molmoact_ros.engine.model.config import ProcessorConfig
from molmoact_ros.reasoning.tokens import Grid

Size = tuple[int, int]
"""Rows and columns, in pixels."""
POOLING = 2  # side length of the pooling window that becomes one token, patches
# Mean and standard deviation of each colour channel: SigLIP's and CLIP's.
_COLOURS = {
    "siglip": ((0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    "openai": ((0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)),
}


@dataclass(frozen=True)
class ImageInputs:
    """The model's input for some images.

    crops: float32 [C, P, patch_dim], normalised, without duplicates. crop_of: int64 [N], the index into `crops` of each
    crop of the released layout. pooled_idx: int64 [T, 4], the four patches of each image token among the N * P, -1
    missing. grids: for each image the grid (rows, columns) of each of its views, the global view first.
    """

    crops: np.ndarray
    crop_of: np.ndarray
    pooled_idx: np.ndarray
    grids: tuple[tuple[Grid, ...], ...]

    @property
    def indices(self) -> np.ndarray:
        """`pooled_idx` mapped to the C * P patches of `crops`, int64 [T, 4]."""
        patches = self.crops.shape[1]
        index = np.maximum(self.pooled_idx, 0)
        return np.where(self.pooled_idx >= 0, self.crop_of[index // patches] * patches + index % patches, -1)


@dataclass(frozen=True)
class _Tiling:
    """The tiling of images of one size.

    size: of the scaled image. corners: upper left corners of the crops, pixels. patches: int64 [rows, columns], for
    each patch of the scaled image the index of the crop's patch that shows it.
    """

    size: Size
    corners: tuple[Size, ...]
    patches: np.ndarray


class ImageProcessor:
    """Converts images to crops and indices, as configured by a checkpoint's `preprocessor_config.json`."""

    def __init__(self, config: ProcessorConfig) -> None:
        """Raises ValueError for sizes that do not fit each other."""
        self.config = config
        self.base, self.patch = config.base_image_input_size, config.image_patch_size
        self.grid: Grid = (self.base[0] // self.patch, self.base[1] // self.patch)
        self.margin = sum(config.overlap_margins)
        if self.base[0] % self.patch or self.base[1] % self.patch:
            raise ValueError(f"base_image_input_size {self.base} is no multiple of image_patch_size {self.patch}")
        if config.crop_mode != "resize" and (self.base[0] != self.base[1] or self.grid[0] <= self.margin):
            raise ValueError(f"{config.crop_mode} needs square crops larger than its overlap_margins")
        self._tiling = lru_cache(maxsize=16)(self._find_tiling)

    def __call__(self, images: Sequence[np.ndarray]) -> ImageInputs:
        """Process images uint8 [H, W, 3] RGB, one per camera."""
        most = self.config.max_crops if len(images) == 1 else self.config.max_multi_image_crops
        parts = [self._one(image, most) for image in images]
        crops: list[np.ndarray] = []
        crop_of, pooled = [], []
        seen, patches = 0, self.grid[0] * self.grid[1]
        for part in parts:
            # The released processor also shifts the missing patches (-1) of later images, so that each becomes the last
            # patch of the previous image. The model was trained like that.
            pooled.append(part.pooled_idx + seen * patches if seen else part.pooled_idx)
            crop_of.append(part.crop_of + sum(len(c) for c in crops))
            crops.append(part.crops)
            seen += len(part.crop_of)
        grids = tuple(grids for part in parts for grids in part.grids)
        return ImageInputs(np.concatenate(crops), np.concatenate(crop_of), np.concatenate(pooled), grids)

    def _one(self, image: np.ndarray, most: int) -> ImageInputs:
        globally = self._patches(self._resize(image, self.base)[None])
        patches = np.arange(self.grid[0] * self.grid[1]).reshape(self.grid)
        whole = pooled_indices(patches)
        if self.config.crop_mode == "resize":
            return ImageInputs(globally, np.zeros(1, np.int64), whole, ((pooled_grid(self.grid),),))
        tiling = self._tiling(image.shape[:2], most)
        grids = ((pooled_grid(self.grid), pooled_grid(tiling.patches.shape)),)
        shifted = pooled_indices(tiling.patches)
        pooled = np.concatenate([whole, np.where(shifted >= 0, shifted + patches.size, -1)])
        if tiling.size == self.base:  # the only tile equals the global view
            return ImageInputs(globally, np.zeros(2, np.int64), pooled, grids)
        large, (rows, columns) = self._resize(image, tiling.size), self.base
        crops = self._patches(np.stack([large[y : y + rows, x : x + columns] for y, x in tiling.corners]))
        return ImageInputs(np.concatenate([globally, crops]), np.arange(1 + len(crops)), pooled, grids)

    def _find_tiling(self, size: Size, most: int) -> _Tiling:
        before, after = self.config.overlap_margins
        window = self.grid[0] - self.margin  # side length of a crop without its margins, patches
        rows, columns = _tiles(
            (size[0] - self.margin * self.patch, size[1] - self.margin * self.patch), window * self.patch, most
        )
        index = np.full((rows * window + self.margin, columns * window + self.margin), -1)
        corners = []
        for number, (i, j) in enumerate(product(range(rows), range(columns))):
            y, x = i * window, j * window
            corners.append((y * self.patch, x * self.patch))
            crop = number * self.grid[0] * self.grid[1] + np.arange(self.grid[0] * self.grid[1]).reshape(self.grid)
            # A crop keeps its margin at the image border; elsewhere the neighbouring crop covers it.
            top, left = before if i else 0, before if j else 0
            bottom = self.grid[0] - (after if i < rows - 1 else 0)
            right = self.grid[1] - (after if j < columns - 1 else 0)
            index[y + top : y + bottom, x + left : x + right] = crop[top:bottom, left:right]
        return _Tiling((len(index) * self.patch, index.shape[1] * self.patch), tuple(corners), index)

    def _resize(self, image: np.ndarray, size: Size) -> np.ndarray:
        """Resize uint8 [H, W, 3] to float32 [rows, columns, 3] in 0..1."""
        if self.config.resize_mode == "area":
            return resize(image, size).astype(np.float32) / 255
        if self.config.resize_mode == "siglip":  # resized as uint8, with rounding
            return stretch(image, size).round() / np.float32(255)
        scale = min(np.float32(size[0]) / np.float32(image.shape[0]), np.float32(size[1]) / np.float32(image.shape[1]))
        rows, columns = (max(1, int(np.float32(n) * scale)) for n in image.shape[:2])
        pixels = torch.tensor(image).permute(2, 0, 1).unsqueeze(0) / 255
        scaled = F.interpolate(pixels, (rows, columns), mode="bilinear", antialias=True)[0]
        top, left = (size[0] - rows) // 2, (size[1] - columns) // 2
        padding = ((top, size[0] - rows - top), (left, size[1] - columns - left), (0, 0))
        return np.pad(scaled.permute(1, 2, 0).clip(0, 1).numpy(), padding, constant_values=self.config.pad_value)

    def _patches(self, images: np.ndarray) -> np.ndarray:
        return patches(normalise(images, self.config.normalize_mode), self.patch)


def stretch(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize uint8 [H, W, 3] to float32 [rows, columns, 3], bilinear, without antialiasing.

    It is bit-identical to torch's `interpolate` in the released processor. It does not call `interpolate`: with one
    thread torch takes another code path, whose rounding changes one byte in ten thousand by one.
    """
    (top, bottom), down = neighbours(image.shape[0], size[0])
    (left, right), across = neighbours(image.shape[1], size[1])
    lines = _mix(image[:, left], image[:, right], across[None, :, None])
    return _mix(lines[top], lines[bottom], down[:, None, None])


def neighbours(length: int, wanted: int) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """For each of `wanted` output pixels along an axis: its two of `length` input pixels int64 [wanted], and the second
    one's weight float32 [wanted]."""
    step = np.float32(length) / np.float32(wanted)
    place = np.maximum(_once(step * (np.arange(wanted) + np.float64(0.5)) - 0.5), np.float32(0))
    first = place.astype(np.int64)
    return (first, np.minimum(first + 1, length - 1)), place - first.astype(np.float32)


def _mix(first: np.ndarray, second: np.ndarray, share: np.ndarray) -> np.ndarray:
    """(1 - share) * first + share * second in float32, with a single rounding of the first product and the sum."""
    first, second = first.astype(np.float32), second.astype(np.float32)
    return _once(np.multiply(first, np.float32(1) - share, dtype=np.float64) + second * share)


def _once(exact: np.ndarray) -> np.ndarray:
    """Round a fused multiply-add to float32. It is computed in float64, where a product of two float32 is exact."""
    return exact.astype(np.float32)


def _tiles(size: Size, window: int, most: int) -> tuple[int, int]:
    """Rows and columns of the best tiling with at most `most` tiles for an image of `size` pixels without its margins.

    The tiling with the least enlargement wins; if all of them shrink the image, the one that shrinks it least. The
    smaller tiling wins a tie.
    """
    tilings = [(i, j) for i, j in product(range(1, most + 1), repeat=2) if i * j <= most]
    tilings.sort(key=lambda tiling: (tiling[0] * tiling[1], tiling[0]))
    with np.errstate(divide="ignore"):  # an image as small as its margins: the other side decides
        scales = np.min(np.array(tilings, np.float32) * window / np.array(size, np.float32), axis=1)
    best = np.argmax(scales) if (scales < 1).all() else np.argmin(np.where(scales < 1, np.inf, scales))
    return tilings[int(best)]


def scale_frame(image: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """Scale a frame uint8 [H, W, 3] to `size` (width, height) by Pillow's bilinear filter, as in robot training."""
    if size is None or image.shape[1::-1] == size:
        return image
    return np.asarray(Image.fromarray(image).resize(size, Image.Resampling.BILINEAR))


def resize(image: np.ndarray, size: Size) -> np.ndarray:
    """Resize RGB uint8 [H, W, 3] to `size` (rows, columns) by area averaging, without keeping the aspect ratio."""
    result: np.ndarray = cv2.resize(image, size[::-1], interpolation=cv2.INTER_AREA)
    return result


def normalise(images: np.ndarray, mode: str = "siglip") -> np.ndarray:
    """Normalise float32 [..., 3] in 0..1 as in the tower's training; `mode`: siglip (-1..1) or openai."""
    if mode == "siglip":
        return images * np.float32(2) - np.float32(1)
    mean, std = (np.array(values, np.float32) for values in _COLOURS[mode])
    return (images - mean) / std


def denormalise(crops: np.ndarray, mode: str) -> np.ndarray:
    """Convert normalised crops float32 [N, P, patch_dim] back to pixel values in 0..1."""
    mean, std = (np.tile(np.array(values, np.float32), crops.shape[-1] // 3) for values in _COLOURS[mode])
    return crops * std + mean


def patches(images: np.ndarray, patch: int) -> np.ndarray:
    """Cut [N, H, W, 3] into patches [N, P, patch*patch*3] of the same dtype; row-major, inside a patch too."""
    n, height, width, _ = images.shape
    grid = images.reshape(n, height // patch, patch, width // patch, patch, 3).transpose(0, 1, 3, 2, 4, 5)
    return grid.reshape(n, -1, patch * patch * 3)


def pooled_indices(index: np.ndarray) -> np.ndarray:
    """The four indices of each 2x2 window of `index` int [rows, columns]: int64 [T, 4], row-major.

    An odd grid is padded with -1 at the bottom and right.
    """
    rows, columns = index.shape
    index = np.pad(index, ((0, rows % POOLING), (0, columns % POOLING)), constant_values=-1)
    windows = index.reshape(index.shape[0] // POOLING, POOLING, -1, POOLING).transpose(0, 2, 1, 3)
    return windows.reshape(-1, POOLING * POOLING).astype(np.int64)


def pooled_grid(grid: Grid) -> Grid:
    """The grid (rows, columns) of image tokens for a patch grid."""
    return -(-grid[0] // POOLING), -(-grid[1] // POOLING)


def read_picture(path: Path) -> np.ndarray:
    """Read an image file as uint8 [H, W, 3] RGB, upright by its EXIF data.

    Raises ValueError, in one line, for what is no image, is too large, or has more than 8 bits a channel.
    """
    try:
        with Image.open(path) as picture:
            if picture.mode.startswith(("I", "F")):
                raise ValueError(f"it has more than 8 bits a channel, mode {picture.mode}; save it with 8")
            return np.asarray(ImageOps.exif_transpose(picture).convert("RGB"))
    except Exception as error:  # corrupt bytes, or a size that fills the memory, can raise anything
        raise ValueError(f"{path} is not an image that can be read ({error})") from None
