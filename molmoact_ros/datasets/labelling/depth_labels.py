"""Depth tokens of a frame: by the checkpoint's VQ-VAE from measured depth, or from what a depth network guesses."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final, Protocol

import cv2
import numpy as np
import torch
from PIL import Image

from molmoact_ros.engine.model.depth_vq import INPUT, DepthVq
from molmoact_ros.reasoning.observation import known_depth

LARGEST_HOLE: Final = 0.01
"""Share of the image up to which a hole is filled; larger ones are out of the camera's range."""
MOST_UNKNOWN: Final = 0.5
"""Share of the image without depth from which on it has no tokens."""
NO_DEPTH: Final = "there is no depth image near it"
UNKNOWN: Final = "more than half of its depth image is unknown"
DEPTH_ANYTHING: Final = "depth-anything/Depth-Anything-V2-Base-hf"
"""The network of the released script (ViT-B), as transformers has it."""


@dataclass(frozen=True)
class FilledDepth:
    """depth: float32 [H, W] m. filled, unknown: shares of the image that were filled, and that stay unknown (0)."""

    depth: np.ndarray
    filled: float
    unknown: float


def fill_holes(depth: np.ndarray) -> FilledDepth:
    """Fill the small holes of depth [H, W] m (0 or not finite: unknown), each with the farthest depth around it.

    A stereo camera does not see the ground beside an edge with both eyes: what is missing there lies behind.
    """
    measured = known_depth(np.asarray(depth, np.float32))
    hole = measured == 0
    _, parts, about, _ = cv2.connectedComponentsWithStats(hole.astype(np.uint8), connectivity=4)
    rows, columns = np.nonzero(hole)
    padded, around = np.pad(measured, 1), np.zeros(len(about), np.float32)
    for row, column in ((0, 1), (2, 1), (1, 0), (1, 2)):  # above, below, left and right of each pixel
        np.maximum.at(around, parts[hole], padded[rows + row, columns + column])
    small = hole & (about[:, cv2.CC_STAT_AREA] <= LARGEST_HOLE * hole.size)[parts]
    measured[small] = around[parts[small]]
    return FilledDepth(measured, float(small.mean()), float((measured == 0).mean()))


class DepthLabeller(Protocol):
    """Makes the depth codes of frames."""

    def label(self, image: np.ndarray, depth: np.ndarray | None) -> np.ndarray | str:
        """Codes uint8 [10, 10] of an image, uint8 [H, W, 3] RGB, or why it has none. depth: [H, W] m, if measured."""

    def summary(self) -> str:
        """How the codes so far were made, in one line."""


class MeasuredDepth:
    """By measured depth, as the engine encodes it. filled: share of each labelled frame's pixels that were filled."""

    def __init__(self, vq: DepthVq) -> None:
        self._vq = vq
        self.filled: list[float] = []

    def label(self, image: np.ndarray, depth: np.ndarray | None) -> np.ndarray | str:
        """Codes uint8 [10, 10] of depth [H, W] m, or why there are none; see `DepthLabeller`."""
        if depth is None:
            return NO_DEPTH
        filled = fill_holes(depth)
        if filled.unknown > MOST_UNKNOWN:
            return UNKNOWN
        self.filled.append(filled.filled)
        return self._vq.encode_depth(filled.depth).astype(np.uint8)

    def summary(self) -> str:
        """See `DepthLabeller`."""
        holes = [share for share in self.filled if share]
        text = f"depth tokens of {len(self.filled)} frames from measured depth"
        if not holes:
            return f"{text}; there were no holes to fill"
        return (
            f"{text}; holes were filled in {len(holes)} of them: {np.mean(holes):.2%} of their pixels, "
            f"at most {max(holes):.2%}"
        )


class GuessedDepth:
    """By Depth Anything V2 through transformers, as the released script: relative depth, scaled by its own range.

    Where depth is measured too, `agreement` has the share of equal codes of each such frame. It was written by
    transformers' documentation, and has not been run with the network's weights.
    """

    def __init__(self, vq: DepthVq, model: str = DEPTH_ANYTHING, device: str = "cpu") -> None:
        """model: of Hugging Face's hub, or a folder. device: of torch.

        Raises ValueError for a decoder of metres, RuntimeError, with how to install it, without transformers, OSError
        where there is no such model.
        """
        if vq.span is not None:
            raise ValueError(
                "this checkpoint's depth tokens mean metres, which a depth network does not guess; use --depth measured"
            )
        try:
            from transformers import pipeline
        except ImportError:
            raise RuntimeError(
                "Depth Anything needs Hugging Face's transformers: pip install 'molmoact_ros[depth-anything]'"
            ) from None
        self._vq, self._model, self._measured = vq, model, MeasuredDepth(vq)
        self._network: Any = pipeline("depth-estimation", model=model, device=device)
        self.agreement, self._count = list[float](), 0

    def label(self, image: np.ndarray, depth: np.ndarray | None) -> np.ndarray | str:
        """Codes uint8 [10, 10] of an image, uint8 [H, W, 3] RGB; depth [H, W] m is only compared with."""
        guess = np.asarray(self._network(Image.fromarray(image))["predicted_depth"], np.float32).squeeze()
        codes = self._vq.encode(torch.from_numpy(relative_picture(guess))[None, None])[0].numpy().astype(np.uint8)
        measured = self._measured.label(image, depth)
        if not isinstance(measured, str):
            self.agreement.append(float((codes == measured).mean()))
        self._count += 1
        return codes

    def summary(self) -> str:
        """See `DepthLabeller`."""
        text = f"depth tokens of {self._count} frames by {self._model}"
        if not self.agreement:
            return text
        share = float(np.mean(self.agreement))
        return f"{text}; in {len(self.agreement)} with measured depth, {share:.0%} of the codes equal those of it"


def relative_picture(guess: np.ndarray) -> np.ndarray:
    """Relative depth [H, W], nearer larger, as the released script gives it to the VQ-VAE: float32 [320, 320] in 0..1.

    It is scaled by its minimum and maximum to 8 bits, and then to the VQ-VAE's size, as PIL and torchvision do it.
    """
    low, high = float(guess.min()), float(guess.max())
    grey = ((guess - low) / (high - low + 1e-8) * 255).astype(np.uint8)
    small = Image.fromarray(grey).resize((INPUT, INPUT), Image.Resampling.BILINEAR)
    return np.asarray(small, np.float32) / 255
