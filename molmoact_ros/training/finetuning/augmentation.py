"""Image augmentation of the released fine-tuning code: a random crop and random colours, each image on its own."""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np

from molmoact_ros.reasoning.trace import MAX_COORDINATE

CROP, ROBOT_CROP = 0.9, 0.95  # of the area: MolmoAct, MolmoAct 2
ROTATION, BLUR = 5.0, 0.2  # degrees either way; share of the images (MolmoAct 2)
BRIGHTNESS, CONTRAST, SATURATION, HUE = 0.2, 0.2, 0.2, 0.05
_GREY = np.array([0.299, 0.587, 0.114], np.float32)


@dataclass(frozen=True)
class Crop:
    """A crop's corner and size as fractions of the image: left and top in 0..1, side of both axes."""

    left: float
    top: float
    side: float

    @classmethod
    def draw(cls, rng: np.random.Generator, area: float = CROP) -> Crop:
        """A random crop of `area` of the area, of the image's own aspect."""
        side = float(np.sqrt(area))
        left, top = rng.uniform(0, 1 - side, 2)
        return cls(float(left), float(top), side)

    def image(self, image: np.ndarray) -> np.ndarray:
        """The crop of an image uint8 [H, W, 3], enlarged to the image's size."""
        height, width = image.shape[:2]
        x, y = round(self.left * width), round(self.top * height)
        part = image[y : y + round(self.side * height), x : x + round(self.side * width)]
        return np.asarray(cv2.resize(part, (width, height), interpolation=cv2.INTER_LINEAR))

    def trace(self, trace: np.ndarray) -> np.ndarray:
        """Where the points of a trace, int [n, 2] in 0..255, are in the crop; those outside move to its border.

        The released code leaves the numbers as they were.
        """
        moved = (np.asarray(trace) - np.array([self.left, self.top]) * MAX_COORDINATE) / self.side
        return np.clip(np.round(moved), 0, MAX_COORDINATE).astype(np.int64)


def augment_robot_image(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image uint8 [H, W, 3] RGB as MolmoAct 2 is trained on: cropped, turned, recoloured, sometimes blurred.

    How strongly colours change is not documented for it; they change as in MolmoAct's training.
    """
    height, width = image.shape[:2]
    image = Crop.draw(rng, ROBOT_CROP).image(image)
    turn = cv2.getRotationMatrix2D(((width - 1) / 2, (height - 1) / 2), rng.uniform(-ROTATION, ROTATION), 1.0)
    image = np.asarray(cv2.warpAffine(image, turn, (width, height), borderMode=cv2.BORDER_REFLECT_101))
    image = jitter_colours(image, rng)
    return np.asarray(cv2.GaussianBlur(image, (0, 0), rng.uniform(0.3, 1.5))) if rng.random() < BLUR else image


def jitter_colours(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """An image uint8 [H, W, 3] RGB with random brightness, contrast, saturation and hue, in a random order."""
    for which in rng.permutation(4):
        image = _CHANGES[which](image, rng)
    return image


def _brightness(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _blend(image, np.zeros(3, np.float32), rng.uniform(1 - BRIGHTNESS, 1 + BRIGHTNESS))


def _contrast(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _blend(image, (image @ _GREY).mean(), rng.uniform(1 - CONTRAST, 1 + CONTRAST))


def _saturation(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    return _blend(image, (image @ _GREY)[..., None], rng.uniform(1 - SATURATION, 1 + SATURATION))


def _hue(image: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    colours = cv2.cvtColor(image.astype(np.float32) / 255, cv2.COLOR_RGB2HSV)  # hue in degrees
    colours[..., 0] = (colours[..., 0] + 360 * rng.uniform(-HUE, HUE)) % 360
    return _bytes(cv2.cvtColor(colours, cv2.COLOR_HSV2RGB) * 255)


def _blend(image: np.ndarray, other: np.ndarray, share: float) -> np.ndarray:
    return _bytes(np.float32(share) * image + np.float32(1 - share) * other)


def _bytes(image: np.ndarray) -> np.ndarray:
    return np.asarray(np.clip(np.round(image), 0, 255), np.uint8)


_CHANGES = (_brightness, _contrast, _saturation, _hue)
