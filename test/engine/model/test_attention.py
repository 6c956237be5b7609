"""Attention by plain matrix products against torch's fused kernel."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional as F

from molmoact_ros.engine.model.attention import attention_by_products

SIZES = st.tuples(*(st.integers(1, n) for n in (3, 3, 3, 9, 9)))  # batch, kv heads, shared, queries, keys


def attended(
    fused: bool, inputs: list[torch.Tensor], mask: torch.Tensor | None, causal: bool, towards: torch.Tensor
) -> list[torch.Tensor]:
    q, k, v = (x.detach().requires_grad_() for x in inputs)
    if fused:
        out = F.scaled_dot_product_attention(q, k, v, attn_mask=mask, is_causal=causal, enable_gqa=True)
    else:
        out = attention_by_products(q, k, v, mask, causal)
    return [out, *torch.autograd.grad((out * towards).sum(), (q, k, v))]


@settings(max_examples=60, deadline=None)
@given(sizes=SIZES, kind=st.sampled_from(["none", "causal", "shared", "own"]), seed=st.integers(0, 2**31))
def test_values_and_gradients_are_those_of_the_fused_kernel(sizes: tuple[int, ...], kind: str, seed: int) -> None:
    batch, groups, shared, length, keys = sizes
    generator = torch.Generator().manual_seed(seed)
    shapes = [(batch, groups * shared, length, 8), (batch, groups, keys, 8), (batch, groups, keys, 8)]
    inputs = [torch.randn(shape, generator=generator, dtype=torch.float64) for shape in shapes]
    towards = torch.randn(shapes[0], generator=generator, dtype=torch.float64)
    mask = None
    if kind in ("shared", "own"):
        mask = torch.rand((batch, 1, length, keys) if kind == "own" else (length, keys), generator=generator) < 0.7
        mask[..., 0] = True  # a query that sees nothing has no answer
    causal = kind == "causal"
    ours, theirs = (attended(fused, inputs, mask, causal, towards) for fused in (False, True))
    for one, other in zip(ours, theirs, strict=True):
        torch.testing.assert_close(one, other, atol=1e-6, rtol=1e-5)  # scores are float32 at most


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_it_keeps_the_type_of_its_inputs(dtype: torch.dtype) -> None:
    q, k = torch.randn(1, 4, 3, 8, dtype=dtype), torch.randn(1, 2, 3, 8, dtype=dtype)
    assert attention_by_products(q, k, k, causal=True).dtype == dtype
