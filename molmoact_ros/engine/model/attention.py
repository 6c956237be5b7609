"""Attention by plain matrix products, for training on a CPU."""

from __future__ import annotations

import torch
from torch import Tensor


def attention_by_products(q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None = None, causal: bool = False) -> Tensor:
    """Grouped-query attention by plain matrix products, equal to torch's fused kernel up to rounding.

    Queries [B, heads, S, head_dim] over keys and values [B, kv_heads, K, head_dim] to [B, heads, S, head_dim]. mask:
    bool [S, K] or [B, 1, S, K], True where a key may be attended to. causal: a query attends to the keys up to its own
    number.
    """
    groups, (length, width) = k.shape[1], q.shape[-2:]
    if causal:
        mask = torch.ones(length, k.shape[-2], dtype=torch.bool, device=q.device).tril()
    rows = (q * width**-0.5).unflatten(1, (groups, -1)).flatten(2, 3)
    scores = (rows @ k.transpose(-2, -1)).float().unflatten(2, (-1, length))  # [B, kv_heads, shared, S, K]
    if mask is not None:
        scores = scores.masked_fill(~mask.unsqueeze(-3), -torch.inf)
    weights = scores.softmax(dim=-1).to(v.dtype).flatten(2, 3)
    result: Tensor = (weights @ v).unflatten(2, (-1, length)).flatten(1, 2)
    return result
