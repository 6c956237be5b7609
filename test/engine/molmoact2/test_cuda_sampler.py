"""The buffers that a CUDA graph would read and write, on a processor: they change nothing."""

from __future__ import annotations

import pytest
import torch

from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpoint
from molmoact_ros.engine.molmoact2.cuda_sampler import BLOCK, MOST, GraphSampler
from molmoact_ros.engine.molmoact2.expert import ActionExpert, Context
from molmoact_ros.engine.molmoact2.sampler import FlowSampler, noise_of


@pytest.fixture(scope="module")
def expert(wide: RobotCheckpoint) -> ActionExpert:
    return wide.model.action_expert


def context(expert: ActionExpert, tokens: int) -> list[Context]:
    generator = torch.Generator().manual_seed(tokens)
    return expert.context(*(torch.randn(3, 1, tokens, 64, generator=generator) for _ in range(2)))


@torch.inference_mode()
def test_padding_and_what_a_buffer_held_before_change_nothing(expert: ActionExpert) -> None:
    plain = FlowSampler(expert, 8)
    sampler = GraphSampler(plain)
    spoilt = [(keys * torch.nan, values * torch.nan) for keys, values in context(expert, BLOCK)]
    assert sampler.sample(noise_of(0, 15, 32), spoilt, 4).isnan().any()
    for seed, tokens in enumerate((BLOCK, BLOCK - 1, BLOCK + 1, 5, BLOCK)):
        read, noise = context(expert, tokens), noise_of(seed, 15, 32)
        torch.testing.assert_close(sampler.sample(noise, read, 4), plain.sample(noise, read, 4), rtol=0, atol=1e-5)
    first = sampler.sample(noise_of(1, 15, 32), context(expert, 5), 4)
    kept = first.clone()
    sampler.sample(noise_of(2, 15, 32), context(expert, 6), 4)
    torch.testing.assert_close(first, kept, rtol=0, atol=0)  # an answer is not overwritten by the next


@torch.inference_mode()
def test_one_set_of_buffers_serves_lengths_of_a_block_and_few_are_kept(expert: ActionExpert) -> None:
    sampler = GraphSampler(FlowSampler(expert, 8))
    for tokens in (1, BLOCK, 2 * BLOCK, 3 * BLOCK, 4 * BLOCK, 5 * BLOCK, 3 * BLOCK - 1):
        sampler.sample(noise_of(0, 15, 32), context(expert, tokens), 2)
    kept = list(sampler._flows)
    assert len(kept) == MOST and kept[-1] == (15, 3 * BLOCK, 2) and (15, BLOCK, 2) not in kept
