"""Trains the depth VQ-VAE on the front camera's depth, and encodes the demonstrations with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from tqdm import trange

from molmoact_ros.engine.model.checkpoint import DEPTH, load_depth_vq
from molmoact_ros.engine.model.depth_vq import DepthVq, relative_depth
from molmoact_ros.training.demonstrations import Demonstrations

HIDDEN, DIM = 4, 64  # width of the first layer and of a code in the nano's VQ-VAE
STEPS, BATCH, RATE = 500, 8, 3e-3


def _pictures(data: Demonstrations, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([relative_depth(data.depth[i]) for i in rows])).unsqueeze(1)


def train_depth_vq(data: Demonstrations, seed: int) -> DepthVq:
    """Train a VQ-VAE on the demonstrations' depth."""
    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    model = DepthVq(HIDDEN, DIM)
    optimiser = torch.optim.AdamW(model.parameters(), lr=RATE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimiser, RATE, STEPS)
    bar = trange(STEPS, desc="depth VQ-VAE", unit="step", mininterval=5)
    for _ in bar:
        loss = model.training_loss(_pictures(data, rng.integers(0, len(data.depth), BATCH)))
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        schedule.step()
        bar.set_postfix(loss=f"{float(loss):.5f}")
    return model.eval()


def depth_vq(data: Demonstrations, folder: Path, seed: int) -> DepthVq:
    """Load the VQ-VAE in `folder`; train and save it first if it is missing."""
    weights = folder / DEPTH
    if not weights.exists():
        save_file(train_depth_vq(data, seed).state_dict(), weights)
    return load_depth_vq(weights)


def depth_codes(model: DepthVq, data: Demonstrations, rows: np.ndarray) -> np.ndarray:
    """Depth codes int64 [len(rows), 10, 10] of the samples `rows`."""
    return model.encode(_pictures(data, rows)).numpy()
