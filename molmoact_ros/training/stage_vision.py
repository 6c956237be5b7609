"""First stage of training: image tokens say which thing is there, and where, in the language model's own terms.

A released tower was trained on pictures with words before MolmoAct saw it, and demonstrations rest on that. Here the
same is done for the workcell: the token of the window in which a thing's centre lies comes to resemble the thing's
name, and to give its place as the coordinates of a trace.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import count

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.engine.model.image_processor import pooled_grid, pooled_indices
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.reasoning.trace import MAX_COORDINATE
from molmoact_ros.training.data_loader import BatchMaker, pointing_loss
from molmoact_ros.training.demonstrations import THINGS, Demonstrations
from molmoact_ros.training.nano_model import view_patches

NAMING_WEIGHT = 10.0  # most windows hold nothing and cost next to nothing
PRESENT_WEIGHT = 5.0  # against the many windows where a thing is not
MEAN_WEIGHT = 0.01  # what all image tokens share tells attention nothing; it would drown the rest


class VisionHead(nn.Module):
    """What the words do not give: something for the hand, which has no name, to look like; and a bias. Thrown away."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hand = nn.Parameter(0.3 * torch.randn(1, width))
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.scale = 0.5

    def forward(self, tokens: Tensor, names: Tensor) -> Tensor:
        """Image tokens [N, T, width] and names [15, width] to scores [N, T, 16] of each thing and the hand there."""
        return self.scale * tokens @ torch.cat([names, self.hand]).T + self.bias


def vision_batches(data: Demonstrations, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Front views as patches float32 [B, 1, P, patch_dim], and where each of THINGS and the hand is in them, float32
    [B, 16, 2] in 0..1 (NaN: nowhere), without end. first: the batch to begin with."""
    hand = data.trace[:, 0, :1] / np.float32(MAX_COORDINATE + 1)
    places = np.concatenate([data.places, hand], axis=1)
    places[((places < 0) | (places >= 1)).any(-1)] = np.nan
    for number in count(first):
        rng = np.random.default_rng((seed, number))
        rows = rng.integers(0, len(data.images), size)
        crops = view_patches(data.images[rows, 0]) * rng.uniform(0.85, 1.15, (size, 1, 1))
        yield torch.from_numpy(crops.astype(np.float32)).unsqueeze(1), torch.from_numpy(places[rows])


def vision_loss(model: MolmoAct, head: VisionHead, maker: BatchMaker, batch: tuple[Tensor, Tensor]) -> Tensor:
    """How badly image tokens name and place what is in their windows: a scalar.

    batch: patches float32 [B, 1, P, patch_dim] and places float32 [B, 16, 2], as `vision_batches` gives them.
    """
    crops, places = (t.to(model.lm_head.weight.device) for t in batch)
    transformer, grid = model.model.transformer, model.config.vit_config.grid
    pooled = torch.from_numpy(pooled_indices(np.arange(grid[0] * grid[1]).reshape(grid)))
    pooled = pooled.to(crops.device).expand(len(crops), -1, -1)
    features = model.image_features(crops, pooled)
    patch, names = transformer.wte(torch.tensor(model.config.image_patch_id)), transformer.wte(maker.things)
    tokens = transformer.ln_f(features + patch.detach())

    row, thing = (~places.isnan().any(-1)).nonzero(as_tuple=True)
    found = places[row, thing]
    rows, columns = pooled_grid(grid)
    window = (found[:, 1] * rows).long() * columns + (found[:, 0] * columns).long()
    there = torch.zeros(*tokens.shape[:2], len(THINGS) + 1, device=tokens.device)
    there[row, window, thing] = 1.0
    weight = torch.tensor(PRESENT_WEIGHT, device=tokens.device)
    naming = F.binary_cross_entropy_with_logits(head(tokens, names.detach()), there, pos_weight=weight)
    placing = pointing_loss(model.logits(tokens[row, window])[:, maker.coordinates], found)
    return NAMING_WEIGHT * naming + placing + MEAN_WEIGHT * features.mean((0, 1)).square().sum()
