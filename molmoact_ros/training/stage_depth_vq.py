"""Trains the depth VQ-VAE on the front camera's depth, and encodes the demonstrations with it.

The codebook comes first: clusters of patches of the relief above the table. The encoder learns to tell them apart, the
decoder to draw depth from the codes that the encoder gives, first at a quarter of the size, which costs little.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from itertools import count
from pathlib import Path
from typing import Final

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.cameras.depth_noise import with_sensor_noise
from molmoact_ros.engine.model.checkpoint import DEPTH, load_depth_vq
from molmoact_ros.engine.model.depth_vq import INPUT, DepthVq, Span, relative_depth
from molmoact_ros.training.demonstrations import Demonstrations
from molmoact_ros.training.patch_codebook import (
    HIGH,
    THING,
    flat_relief,
    nearest_patches,
    patch_codebook,
    patches,
)
from molmoact_ros.training.table_relief import SIDE, draw_planes, fit_planes
from molmoact_ros.training.training_run import Stage, StageConfig, TrainingRun, TrainingRunConfig

CODES: Final = 128
SPAN: Final = (0.002, 0.97)
"""Quantiles of the demonstrations' inverse depth that relative depth 0 and 1 stand for: the arm is nearer."""
COARSE: Final = 10
"""Layers of the decoder until its features have `SIDE` pixels."""
SHARPNESS: Final = 8.0
"""Of the encoder's choice: by it odds fall with the mean squared difference from a code, whose variance is 1."""


class DepthVqConfig(TrainingRunConfig):
    """Hyperparameters. hidden: width of the first layer; dim: of a code. frames: demonstrations to learn from.

    near: how much more pixels of things on the table count. relief: weight of the flat relief beside that of depth.
    """

    weight_decay: float = 1e-4
    hidden: int = 4
    dim: int = 64
    frames: int = 4000
    near: float = 10.0
    relief: float = 0.1
    encoder: StageConfig = StageConfig(steps=2500, batch=8, rate=3e-3)
    coarse: StageConfig = StageConfig(steps=4000, batch=8, rate=3e-3)
    fine: StageConfig = StageConfig(steps=1500, batch=8, rate=2e-3)


@dataclass
class DepthFrames:
    """depth: float16 [n, 80, 80] m. planes: float32 [n, 3], the table's. codes: int64 [n, 10, 10] of the patches."""

    depth: np.ndarray
    planes: np.ndarray
    codes: np.ndarray
    span: Span

    def batches(self, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, ...]]:
        """Batches from number `first` on: relative depth with a sensor's noise, without, the table, and the codes.

        float32 [size, 1, 320, 320] three times, and int64 [size, 10, 10].
        """
        for number in count(first):
            rng = np.random.default_rng((seed, number))
            rows = rng.integers(0, len(self.depth), size)
            depth = [self.depth[row].astype(np.float32) for row in rows]
            noisy = [with_sensor_noise(frame, rng) for frame in depth]
            images = [np.stack([relative_depth(frame, self.span) for frame in frames]) for frames in (noisy, depth)]
            drawn = [*images, draw_planes(self.planes[rows], INPUT)]
            yield *(torch.from_numpy(array).unsqueeze(1) for array in drawn), torch.from_numpy(self.codes[rows])


class DepthVqLearner(nn.Module):
    """The VQ-VAE with what its training needs: losses by a batch of `DepthFrames.batches`."""

    weights: Tensor

    def __init__(self, centres: np.ndarray, codes: np.ndarray, config: DepthVqConfig, span: Span) -> None:
        """centres: float32 [codes, 64] of the patches, which become the codebook. codes: of the frames, to count."""
        super().__init__()
        self.config = config
        self.vq = DepthVq(config.hidden, config.dim, len(centres), span)
        self.vq.apply(_initialise)
        last = self.vq.encoder[-1]
        coarse = self.vq.decoder[COARSE]
        assert isinstance(last, nn.Conv2d) and isinstance(coarse, nn.Conv2d | nn.ConvTranspose2d)
        nn.init.normal_(last.weight, std=0.1 * last.in_channels**-0.5)  # begin undecided, between all codes
        self.head = nn.Conv2d(coarse.in_channels, 1, 1)
        share = torch.bincount(torch.from_numpy(codes).flatten(), minlength=len(centres)) / codes.size
        self.vq.set_codebook(_principal(torch.from_numpy(centres), config.dim), share)
        # Nearly all cells are of empty table: by its square root a rare code counts more.
        self.register_buffer("weights", (share + 1e-4).rsqrt() / (share * (share + 1e-4).rsqrt()).sum())

    @torch.autocast("cpu", enabled=False)
    def encoder_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Cross-entropy of each cell's code, by the distance of its features [B, 10, 10, dim], and that distance.

        Alone, the one is slow to begin and the other blind to how near codes are to each other.
        """
        noisy, _, _, codes = batch
        features, book = self.vq.encoder(noisy).movedim(1, -1), self.vq.codebook
        nearness = (2 * features @ book.T - book.square().sum(1)) * (SHARPNESS / self.config.dim)
        told_apart = F.cross_entropy(nearness.flatten(0, 2), codes.flatten(), self.weights)
        return told_apart + F.mse_loss(features, book[codes])

    @torch.autocast("cpu", enabled=False)
    def coarse_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Loss of what is drawn with [80, 80] pixels."""
        drawn = self.head(self.vq.decoder[:COARSE](self._embedded(batch[0])))
        return self._drawn_loss(drawn, *(F.avg_pool2d(image, INPUT // SIDE) for image in batch[1:3]))

    @torch.autocast("cpu", enabled=False)
    def fine_loss(self, batch: tuple[Tensor, ...]) -> Tensor:
        """Loss of what is drawn whole, [320, 320]."""
        return self._drawn_loss(self.vq.decoder(self._embedded(batch[0])), batch[1], batch[2])

    @torch.no_grad()
    def _embedded(self, images: Tensor) -> Tensor:
        codes = self.vq.nearest(self.vq.encoder(images).movedim(1, -1))
        return F.embedding(codes, self.vq.codebook).movedim(-1, 1)

    def _drawn_loss(self, drawn: Tensor, wanted: Tensor, table: Tensor) -> Tensor:
        relief = wanted - table
        near = 1 + self.config.near * ((relief > THING[0]) & (relief < THING[1]))
        flat = (((drawn - table) / HIGH).tanh() - (relief / HIGH).tanh()).square()
        return F.mse_loss(drawn, wanted) + self.config.relief * (near * flat).mean()


def _initialise(layer: nn.Module) -> None:
    """He's initialisation, by the inputs that a value of a layer's output sums up; torch's own is far too small."""
    if isinstance(layer, nn.Conv2d | nn.ConvTranspose2d):
        rows, columns = layer.kernel_size
        inputs = layer.in_channels * rows * columns / (4 if isinstance(layer, nn.ConvTranspose2d) else 1)
        nn.init.normal_(layer.weight, std=(2 / inputs) ** 0.5)
        assert layer.bias is not None
        nn.init.zeros_(layer.bias)


def _principal(centres: Tensor, dim: int) -> Tensor:
    """Coordinates [codes, dim] of `centres` along their principal axes, of unit variance together."""
    left, size, _ = torch.linalg.svd(centres - centres.mean(0), full_matrices=False)
    coordinates = (left * size)[:, :dim]
    return F.pad(coordinates / coordinates.std(), (0, dim - coordinates.shape[1]))


def _span(depth: np.ndarray) -> Span:
    inverse = 1.0 / depth[depth > 0].astype(np.float32)
    low, high = np.quantile(inverse, SPAN)
    return float(low), float(high)


def _learner(data: Demonstrations, config: DepthVqConfig) -> tuple[DepthVqLearner, DepthFrames]:
    depth = data.depth[: config.frames]
    span = _span(depth)
    relative = np.stack([relative_depth(frame, span) for frame in depth])[:, 2 :: INPUT // SIDE, 2 :: INPUT // SIDE]
    planes = fit_planes(relative)
    relief = relative - draw_planes(planes, SIDE)
    centres = patch_codebook(relief, CODES, config.seed)
    codes = nearest_patches(patches(flat_relief(relief)), centres)
    torch.manual_seed(config.seed)
    return DepthVqLearner(centres, codes, config, span), DepthFrames(depth, planes, codes, span)


def train_depth_vq(data: Demonstrations, folder: Path, config: DepthVqConfig) -> DepthVq:
    """Train a VQ-VAE on the demonstrations' depth; goes on where a run in `folder` was interrupted."""
    learner, frames = _learner(data, config)
    vq, batches = learner.vq, lambda stage: partial(frames.batches, stage.batch, config.seed)
    coarse = nn.ModuleList([vq.decoder[:COARSE], learner.head])
    stages = {
        "depth encoder": Stage(config.encoder, vq.encoder, batches(config.encoder), learner.encoder_loss),
        "depth decoder, coarse": Stage(config.coarse, coarse, batches(config.coarse), learner.coarse_loss),
        "depth decoder": Stage(config.fine, vq.decoder, batches(config.fine), learner.fine_loss),
    }
    run = TrainingRun(folder, config, {"learner": learner}, stages)
    run.resume()
    run.run()
    return vq.eval()


def depth_vq(data: Demonstrations, folder: Path, config: DepthVqConfig) -> DepthVq:
    """Load the VQ-VAE in `folder`; train and save it first if it is missing."""
    weights = folder / DEPTH
    if not weights.exists():
        save_file(train_depth_vq(data, folder / "depth", config).state_dict(), weights)
    return load_depth_vq(weights)


def depth_codes(model: DepthVq, data: Demonstrations, rows: np.ndarray) -> np.ndarray:
    """Depth codes int64 [len(rows), 10, 10] of the samples `rows`."""
    images = np.stack([relative_depth(data.depth[row], model.span) for row in rows])
    return model.encode(torch.from_numpy(images).unsqueeze(1)).numpy()
