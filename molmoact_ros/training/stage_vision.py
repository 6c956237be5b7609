"""First stage of training: vision-language alignment; image tokens identify and locate objects in the decoder's terms.

A released tower was pre-trained on image-text pairs before MolmoAct, which learning from demonstrations relies on. This
stage does the same for the workcell: the token of the window that contains an object's centre learns to resemble the
object's name, and to predict its position as trace coordinates.
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
from molmoact_ros.training.data_loader import BatchMaker
from molmoact_ros.training.demonstrations import Demonstrations
from molmoact_ros.training.nano_model import FEATURE_SIZE, restraint, view_patches
from molmoact_ros.training.soft_targets import pointing_loss

NAMING_WEIGHT = 10.0  # most windows are empty and contribute little loss
PRESENT_WEIGHT = 5.0  # balances the many windows without an object
MEAN_WEIGHT = 1.0  # of the shared mean's part in image tokens: it carries no information and would dominate attention


class VisionHead(nn.Module):
    """Auxiliary head: an embedding for the gripper, which has no name token, and a bias. Discarded after training."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.hand = nn.Parameter(0.3 * torch.randn(1, width))
        self.bias = nn.Parameter(torch.tensor(-4.0))
        self.scale = 0.5

    def forward(self, tokens: Tensor, names: Tensor) -> Tensor:
        """Scores [N, T, K + 1] of each of K things and the gripper for image tokens [N, T, width] and names
        [K, width]."""
        return self.scale * tokens @ torch.cat([names, self.hand]).T + self.bias


def vision_batches(data: Demonstrations, size: int, seed: int, first: int) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield batches of front views endlessly: patches float32 [B, 1, P, patch_dim], and the image positions of each of
    K things and the gripper, float32 [B, K + 1, 2] in 0..1 (NaN: not in view). first: number of the first batch."""
    hand = data.trace[:, 0, :1] / np.float32(MAX_COORDINATE + 1)
    places = np.concatenate([data.places, hand], axis=1)
    places[((places < 0) | (places >= 1)).any(-1)] = np.nan
    for number in count(first):
        rng = np.random.default_rng((seed, number))
        rows = rng.integers(0, len(data.images), size)
        crops = view_patches(data.images[rows, 0]) * rng.uniform(0.85, 1.15, (size, 1, 1))
        yield torch.from_numpy(crops.astype(np.float32)).unsqueeze(1), torch.from_numpy(places[rows])


def vision_loss(
    model: MolmoAct, head: VisionHead, maker: BatchMaker, batch: tuple[Tensor, Tensor], size: float = FEATURE_SIZE
) -> Tensor:
    """Classification and localisation loss of the image tokens for the objects in their windows: a scalar.

    batch: patches float32 [B, 1, P, patch_dim] and places float32 [B, K + 1, 2], from `vision_batches`. size: see
    `restraint`.
    """
    device = model.lm_head.weight.device
    crops, places = (t.to(device) for t in batch)
    transformer, grid = model.model.transformer, model.config.vit_config.grid
    pooled = torch.from_numpy(pooled_indices(np.arange(grid[0] * grid[1]).reshape(grid)))
    pooled = pooled.to(device).expand(len(crops), -1, -1)
    features = model.image_features(crops, pooled)
    patch = transformer.wte(torch.tensor(model.config.image_patch_id, device=device))
    names = transformer.wte(maker.things.to(device))
    tokens = transformer.ln_f(features + patch.detach())

    row, thing = (~places.isnan().any(-1)).nonzero(as_tuple=True)
    found = places[row, thing]
    rows, columns = pooled_grid(grid)
    window = (found[:, 1] * rows).long() * columns + (found[:, 0] * columns).long()
    there = torch.zeros(*tokens.shape[:2], len(names) + 1, device=tokens.device)
    there[row, window, thing] = 1.0
    weight = torch.tensor(PRESENT_WEIGHT, device=tokens.device)
    naming = F.binary_cross_entropy_with_logits(head(tokens, names.detach()), there, pos_weight=weight)
    placing = pointing_loss(model.logits(tokens[row, window])[:, maker.coordinates], found)
    shared = features.mean((0, 1)).square().mean() / features.square().mean()
    return NAMING_WEIGHT * naming + placing + MEAN_WEIGHT * shared + restraint(features, size)
