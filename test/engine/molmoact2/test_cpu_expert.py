"""The compiled kernels of MolmoAct 2 against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from molmoact_ros.engine.cpu_library import library
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpoint
from molmoact_ros.engine.molmoact2.cpu_expert import CpuSampler, can_sample
from molmoact_ros.engine.molmoact2.images import RobotImageProcessor
from molmoact_ros.engine.molmoact2.sampler import FlowSampler, noise_of
from molmoact_ros.engine.vision.cpu_patches import CpuPatches
from molmoact_ros.engine.vision.cpu_tower import CpuTower, can_encode

pytestmark = pytest.mark.skipif(library() is None, reason="the kernels were not compiled")


@pytest.mark.parametrize(("rows", "steps", "tokens", "dimensions"), [(15, 10, 203, 8), (1, 1, 16, 32), (70, 3, 1, 7)])
@torch.inference_mode()
def test_a_chunk_is_the_same(wide: RobotCheckpoint, rows: int, steps: int, tokens: int, dimensions: int) -> None:
    expert, generator = wide.model.action_expert, torch.Generator().manual_seed(rows)
    assert can_sample(expert)
    context = expert.context(*(torch.randn(3, 1, tokens, 64, generator=generator) for _ in range(2)))
    noise = noise_of(5, rows, 32)
    wanted = FlowSampler(expert, dimensions).sample(noise, context, steps)
    sampler = CpuSampler(expert, dimensions)
    for _ in range(2):  # the second call finds the room of the first
        found = sampler.sample(noise, context, steps)
        assert (found[..., dimensions:] == 0).all()
        assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())
    assert float(noise[..., dimensions:].abs().sum()) > 0 or dimensions == 32  # the noise itself was left alone


@torch.inference_mode()
def test_missing_patches_are_masked(wide: RobotCheckpoint) -> None:
    assert can_encode(wide.model)
    generator = np.random.default_rng(1)
    images = [generator.integers(0, 256, (40, 50, 3), dtype=np.uint8) for _ in range(2)]
    inputs = RobotImageProcessor(wide.processor.image_processor)(images)
    assert (inputs.pooled_idx < 0).any()
    wanted = wide.model.image_features(torch.from_numpy(inputs.crops)[None], torch.from_numpy(inputs.indices)[None])
    found = CpuTower(wide.model)(inputs)
    assert float((found - wanted).abs().max()) < 1e-5 * float(wanted.abs().max())


@pytest.mark.parametrize("size", [(480, 640), (1, 1), (378, 378), (240, 424), (1000, 17)])
def test_patches_are_the_same_to_the_bit(wide: RobotCheckpoint, size: tuple[int, int]) -> None:
    images, generator = RobotImageProcessor(wide.processor.image_processor), np.random.default_rng(size[0])
    image = generator.integers(0, 256, (*size, 3), dtype=np.uint8)
    compiled = CpuPatches(images.size, images.patch)
    np.testing.assert_array_equal(compiled(image), images.plain_patches(image))
    np.testing.assert_array_equal(compiled(image[:, ::-1]), images.plain_patches(image[:, ::-1]))
