"""The depth codebook: trains the VQ-VAE on the front camera's depth and encodes the demonstrations with it."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_file, save_file
from tqdm import trange

from molmoact_ros.engine.depth_vq import DepthVq, relative_depth
from molmoact_ros.learn.demonstrations import Demonstrations

HIDDEN, DIM = 8, 64  # first width and code width of the nano's VQ-VAE
STEPS, BATCH, RATE = 700, 16, 2e-3


def _pictures(data: Demonstrations, rows: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.stack([relative_depth(data.depth[i]) for i in rows])).unsqueeze(1)


def train_depth_vq(data: Demonstrations, seed: int) -> DepthVq:
    """A VQ-VAE trained on the demonstrations' depth."""
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


def depth_codes(data: Demonstrations, folder: Path, seed: int) -> np.ndarray:
    """Codes uint8 [n, 10, 10] of every sample; trains and keeps `depth_vq.safetensors` and the codes in `folder`."""
    weights, encoded = folder / "depth_vq.safetensors", folder / "depth_codes.npy"
    if encoded.exists():
        return np.load(encoded)
    if weights.exists():
        model = DepthVq(HIDDEN, DIM)
        model.load_state_dict(load_file(weights))
    else:
        model = train_depth_vq(data, seed)
        save_file(model.state_dict(), weights)
    codes = np.empty((len(data.depth), 10, 10), np.uint8)
    for start in trange(0, len(codes), 64, desc="encoding depth", mininterval=5):
        rows = np.arange(start, min(start + 64, len(codes)))
        codes[rows] = model.encode(_pictures(data, rows)).numpy()
    np.save(encoded, codes)
    return codes
