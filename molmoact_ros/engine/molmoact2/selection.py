"""Chooses what runs MolmoAct 2's vision tower and action expert, and compares it with torch before it is used."""

from __future__ import annotations

from collections.abc import Callable
from typing import Final, Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.cpu_expert import CpuSampler, can_sample
from molmoact_ros.engine.molmoact2.cuda_sampler import GraphSampler
from molmoact_ros.engine.molmoact2.expert import Context
from molmoact_ros.engine.molmoact2.images import RobotImageProcessor
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.engine.molmoact2.sampler import FlowSampler, noise_of
from molmoact_ros.engine.vision.cpu_tower import CpuTower, can_encode

Tower = Callable[[ImageInputs], Tensor]
"""From images to features [1, T, hidden]."""
LIMIT: Final = 1e-4
"""Largest difference to torch, as a share of the largest number."""


class ActionSampler(Protocol):
    """Interface of what turns noise to actions."""

    def sample(self, noise: Tensor, context: list[Context], steps: int) -> Tensor:
        """Normalised actions [1, H, A] from noise [1, H, A], with `steps` Euler steps; see FlowSampler."""
        ...


@torch.inference_mode()
def open_robot_tower(vision: str, model: MolmoAct2, torchs: Tower, images: RobotImageProcessor) -> tuple[str, Tower]:
    """What runs the tower: its name, compiled or torch, and from images to features.

    vision: auto, compiled or torch. Raises CheckpointError for another, or if the compiled tower cannot run this model
    or differs from `torchs`.
    """
    if vision == "onnx":
        raise CheckpointError("MolmoAct 2's tower is not exported to ONNX; choose the vision auto, compiled or torch")
    if vision == "torch" or (vision == "auto" and not can_encode(model)):
        return "torch", torchs
    if not can_encode(model):
        raise CheckpointError("the compiled vision tower is for small models in float32 on a CPU; see with torch")
    tower, pixels = CpuTower(model), np.random.default_rng(0).integers(0, 256, (2, *images.size, 3), np.uint8)
    inputs = images(list(pixels))
    _compare("vision tower", tower(inputs), torchs(inputs))
    return "compiled", tower


@torch.inference_mode()
def open_sampler(model: MolmoAct2, dimensions: int, horizon: int) -> ActionSampler:
    """What turns noise to actions of `dimensions` values: on a GPU a CUDA graph, on a CPU compiled code or torch.

    horizon: actions of a chunk. Raises CheckpointError if the compiled one differs from torch's.
    """
    expert, plain = model.action_expert, FlowSampler(model.action_expert, dimensions)
    if expert.action_embed.weight.is_cuda:
        return GraphSampler(plain)
    if not can_sample(expert):
        return plain
    compiled, generator = CpuSampler(expert, dimensions), torch.Generator().manual_seed(0)
    shape = (expert.config.num_layers, 1, horizon, expert.context_k_proj.in_features)
    context = expert.context(*(torch.randn(shape, generator=generator) for _ in range(2)))
    noise = noise_of(0, horizon, expert.action_embed.in_features)
    _compare("action expert", compiled.sample(noise, context, 1), plain.sample(noise, context, 1))
    return compiled


def _compare(what: str, found: Tensor, wanted: Tensor) -> None:
    error = float((found - wanted).abs().max() / wanted.abs().max().clamp(min=1e-12))
    if not error <= LIMIT:
        raise CheckpointError(
            f"the compiled {what} differs from torch's by {error:.1e} of the largest number, more than {LIMIT:.0e}; "
            "compile it again (`make setup`)"
        )
