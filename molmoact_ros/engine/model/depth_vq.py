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
Span = tuple[float, float]
"""Two inverse depths, 1/m: those that relative depth 0 and 1 stand for."""


def inverse_span(depth: np.ndarray) -> Span:
    """The least and the greatest inverse of what is valid in depth [H, W], m (0 = invalid); (0, 0) if nothing is."""
    inverse = 1.0 / depth[depth > 0]
    return (float(inverse.min()), float(inverse.max())) if len(inverse) else (0.0, 0.0)


def relative_depth(depth: np.ndarray, span: Span | None = None) -> np.ndarray:
    """Convert depth [H, W], m (0 or non-finite = invalid), to relative depth float32 [320, 320] in 0..1, nearer larger.

    It is the inverse depth, scaled by `span`; None: by its minimum and maximum over valid pixels, as the released
    models have it. What is nearer than the span counts as 1, farther or invalid as 0.
    """
    depth = known_depth(depth.astype(np.float32))
    depth = cv2.resize(depth, (INPUT, INPUT), interpolation=cv2.INTER_NEAREST)
    low, high = np.array(inverse_span(depth) if span is None else span, np.float32)
    inverse = np.where(depth > 0, 1.0 / np.where(depth > 0, depth, 1.0), 0.0)
    result: np.ndarray = np.clip((inverse - low) / max(float(high - low), 1e-6), 0.0, 1.0).astype(np.float32)
    return result


def depth_in_metres(relative: np.ndarray, span: Span) -> np.ndarray:
    """The depth float32 [320, 320], m, that relative depth means by `span`; what lies outside of it is its border."""
    low, high = span
    inverse: np.ndarray = low + np.clip(relative, 0.0, 1.0) * (high - low)
    return np.asarray(1.0 / np.maximum(inverse, 1e-6, dtype=np.float32))


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
    """Encoder, codebook and decoder. hidden: width of the first layer; dim: of a code (released: 16 and 512).

    span: what relative depth 0 and 1 stand for, where all images share that: the tensor `_span` of its file. None: each
    image's own range, as with the released models.
    """

    _span: Tensor | None

    def __init__(self, hidden: int = 16, dim: int = 512, codes: int = 128, span: Span | None = None) -> None:
        super().__init__()
        self.register_buffer("_span", None if span is None else torch.tensor(span))
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

    @property
    def span(self) -> Span | None:
        """What relative depth 0 and 1 stand for, 1/m; None: each image's own range."""
        if self._span is None:
            return None
        low, high = self._span.tolist()
        return low, high

    @property
    def codebook(self) -> Tensor:
        """The embeddings of the codes, float [codes, dim]."""
        return self._vq_vae._embedding

    def set_codebook(self, embedding: Tensor, share: Tensor) -> None:
        """Take `embedding`, float [codes, dim], with each code's share of use, float [codes]."""
        book = self._vq_vae
        book._embedding.copy_(embedding)
        book._ema_cluster_size.copy_(share)
        book._ema_w.copy_(embedding * share.unsqueeze(1))

    def nearest(self, features: Tensor) -> Tensor:
        """Codes int64 [...] whose embeddings are nearest to features [..., dim]."""
        book = self.codebook
        return (book.square().sum(1) - 2 * features @ book.T).argmin(-1)

    @torch.inference_mode()
    def encode(self, depth: Tensor) -> Tensor:
        """Encode relative depth float [B, 1, 320, 320] in 0..1 to codes int64 [B, 10, 10]."""
        return self.nearest(self.encoder(depth).movedim(1, -1))

    def encode_depth(self, depth: np.ndarray) -> np.ndarray:
        """Encode measured depth [H, W], m (0 or non-finite = invalid), to codes int64 [10, 10]."""
        relative = torch.from_numpy(relative_depth(depth, self.span))
        codes: np.ndarray = self.encode(relative[None, None])[0].numpy()
        return codes

    @torch.inference_mode()
    def decode(self, codes: Tensor) -> Tensor:
        """Decode codes int64 [B, 10, 10] to relative depth float [B, 1, 320, 320], unclamped."""
        result: Tensor = self.decoder(F.embedding(codes, self.codebook).movedim(-1, 1))
        return result

    def decode_codes(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes, integers [10, 10], to relative depth float32 [320, 320], unclamped."""
        decoded: np.ndarray = self.decode(torch.from_numpy(codes.astype(np.int64)).unsqueeze(0))[0, 0].numpy()
        return decoded

    def picture(self, codes: np.ndarray) -> np.ndarray:
        """Decode codes, integers [10, 10], to relative depth float32 [320, 320], nearer larger, for display.

        It is scaled by its own minimum and maximum to 0..1, as in the released script; with a span it is 0..1 already.
        """
        depth = self.decode_codes(codes)
        if self._span is not None:
            return np.asarray(np.clip(depth, 0.0, 1.0))
        picture: np.ndarray = (depth - depth.min()) / max(float(np.ptp(depth)), 1e-8)
        return picture
