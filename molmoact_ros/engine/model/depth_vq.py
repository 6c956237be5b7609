"""The depth VQ-VAE: encodes a relative depth map as 10x10 codes of 128, and decodes it (released layout, any width)."""

from __future__ import annotations

import cv2
import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from molmoact_ros.reasoning.observation import known_depth

INPUT = 320  # side length, pixels (released configuration)
GRID = 10


def relative_depth(depth: np.ndarray) -> np.ndarray:
    """Convert depth [H, W], m (0 or non-finite = invalid), to relative depth float32 [320, 320] in 0..1, nearer larger.

    It is the inverse depth, scaled by its minimum and maximum over valid pixels; invalid pixels count as farthest.
    """
    depth = cv2.resize(known_depth(depth.astype(np.float32)), (INPUT, INPUT), interpolation=cv2.INTER_NEAREST)
    valid = depth > 0
    if not valid.any():
        return np.zeros((INPUT, INPUT), np.float32)
    inverse = np.where(valid, 1.0 / np.where(valid, depth, 1.0), 0.0)
    low, high = inverse[valid].min(), inverse[valid].max()
    result: np.ndarray = (np.clip(inverse - low, 0.0, None) / max(high - low, 1e-6)).astype(np.float32)
    return result


class _ResBlock(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 3, padding=1), nn.ReLU(),
            nn.Conv2d(width, width, 1),
        )  # fmt: skip

    def forward(self, x: Tensor) -> Tensor:
        result: Tensor = x + self.net(x)
        return result


class _Codebook(nn.Module):
    _embedding: Tensor
    _ema_cluster_size: Tensor
    _ema_w: Tensor

    def __init__(self, codes: int, dim: int) -> None:
        super().__init__()
        self.register_buffer("_embedding", torch.randn(codes, dim))
        self.register_buffer("_ema_cluster_size", torch.ones(codes))
        self.register_buffer("_ema_w", torch.zeros(codes, dim))


class DepthVq(nn.Module):
    """Encoder, codebook and decoder. hidden: width of the first layer; dim: of a code (released: 16 and 512)."""

    def __init__(self, hidden: int = 16, dim: int = 512, codes: int = 128) -> None:
        super().__init__()
        widths = [hidden * 2**i for i in range(5)]
        down: list[nn.Module] = []
        for before, after in zip([1, *widths], widths, strict=False):
            down += [nn.Conv2d(before, after, 4, 2, 1), nn.ReLU()]
        top = widths[-1]
        self.encoder = nn.Sequential(*down, _ResBlock(top), _ResBlock(top), nn.Conv2d(top, dim, 1))
        up: list[nn.Module] = []
        for before, after in zip([top, *widths[::-1]], widths[::-1], strict=False):
            up += [nn.ConvTranspose2d(before, after, 4, 2, 1), nn.ReLU()]
        self.decoder = nn.Sequential(
            nn.Conv2d(dim, top, 1), nn.ReLU(), _ResBlock(top), _ResBlock(top), *up, nn.Conv2d(hidden, 1, 1)
        )
        self._vq_vae = _Codebook(codes, dim)

    def nearest(self, features: Tensor) -> Tensor:
        """Codes int64 [...] whose embeddings are nearest to features [..., dim]."""
        book = self._vq_vae._embedding
        return (book.square().sum(1) - 2 * features @ book.T).argmin(-1)

    @torch.inference_mode()
    def encode(self, depth: Tensor) -> Tensor:
        """Encode relative depth float [B, 1, 320, 320] in 0..1 to codes int64 [B, 10, 10]."""
        return self.nearest(self.encoder(depth).movedim(1, -1))

    def encode_depth(self, depth: np.ndarray) -> np.ndarray:
        """Encode measured depth [H, W], m (0 or non-finite = invalid), to codes int64 [10, 10]."""
        codes: np.ndarray = self.encode(torch.from_numpy(relative_depth(depth))[None, None])[0].numpy()
        return codes

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes int64 [B, 10, 10] to relative depth float [B, 1, 320, 320], unclamped."""
        result: Tensor = self.decoder(F.embedding(codes, self._vq_vae._embedding).movedim(-1, 1))
        return result

    def picture(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes, integers [10, 10], to relative depth float32 [320, 320], nearer larger, for display.

        It is scaled by its own minimum and maximum to 0..1, as in the released script.
        """
        depth = self.decode(torch.from_numpy(codes.astype(np.int64)).unsqueeze(0))[0, 0].numpy()
        picture: np.ndarray = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-8)
        return picture

    def training_loss(self, depth: Tensor, decay: float = 0.99, commitment: float = 0.25) -> Tensor:
        """Reconstruction and commitment loss of a batch [B, 1, 320, 320]; updates the codebook by moving average.

        Unused codes are reinitialised to features of this batch.
        """
        features = self.encoder(depth).movedim(1, -1)
        codes = self.nearest(features)
        self._update(features.detach().flatten(0, 2), codes.flatten(), decay)
        chosen = F.embedding(codes, self._vq_vae._embedding)
        straight = features + (chosen - features).detach()
        rebuilt = self.decoder(straight.movedim(-1, 1))
        return F.mse_loss(rebuilt, depth) + commitment * F.mse_loss(features, chosen)

    @torch.no_grad()
    def _update(self, features: Tensor, codes: Tensor, decay: float) -> None:
        book = self._vq_vae
        hot = F.one_hot(codes, len(book._embedding)).to(features.dtype)
        book._ema_cluster_size.lerp_(hot.sum(0), 1 - decay)
        book._ema_w.lerp_(hot.T @ features, 1 - decay)
        dead = book._ema_cluster_size < 0.03
        picks = features[torch.randint(len(features), (int(dead.sum()),))]
        book._ema_w[dead], book._ema_cluster_size[dead] = picks, 1.0
        book._embedding.copy_(book._ema_w / book._ema_cluster_size.clamp(min=1e-5).unsqueeze(1))
