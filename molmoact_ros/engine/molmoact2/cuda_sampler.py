"""The Euler steps of a chunk as one CUDA graph: a GPU computes them faster than a host launches their kernels.

Ten steps of 36 blocks are some thousands of small kernels. Noise and context go into buffers that stay in place, and
the context is padded to a multiple of BLOCK tokens, so that instructions of about one length share a graph. On a CPU
the same code runs without capture.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor

from molmoact_ros.engine.decoding.cuda_graphs import CapturedRun, capture
from molmoact_ros.engine.molmoact2.expert import Context, Modulations
from molmoact_ros.engine.molmoact2.sampler import FlowSampler

BLOCK: Final = 64
MOST: Final = 4
"""Graphs that are kept, the last used ones: of the released size, one's context takes 56 MB in bfloat16."""
Shape = tuple[int, int, int]
"""Rows of a chunk, tokens of the padded context, and Euler steps."""


@dataclass
class _StaticFlow:
    """Buffers of one shape: noise [1, H, A], keys and values [L, 1, heads, S, head_dim].

    mask: bool [1, 1, 1, S], what is no padding. modulations: a graph reads them, so they live as long.
    """

    noise: Tensor
    keys: Tensor
    values: Tensor
    mask: Tensor
    modulations: tuple[Modulations, ...]
    captured: CapturedRun | None = None

    def send(self, noise: Tensor, context: list[Context]) -> None:
        """Fill the buffers. Padding is zeroed: a NaN of an earlier answer would spread even from masked positions."""
        length = context[0][0].shape[2]
        self.noise.copy_(noise)
        self.mask.fill_(False)[..., :length] = True
        for part, buffer in enumerate((self.keys, self.values)):
            buffer[:, :, :, :length] = torch.stack([layer[part] for layer in context])
            buffer[:, :, :, length:] = 0


class GraphSampler:
    """A FlowSampler whose steps are captured at the first use of a shape. Not thread-safe."""

    def __init__(self, plain: FlowSampler) -> None:
        self._plain, self._flows = plain, OrderedDict[Shape, _StaticFlow]()

    def sample(self, noise: Tensor, context: list[Context], steps: int) -> Tensor:
        """Normalised actions [1, H, A] from noise [1, H, A], with `steps` Euler steps; see FlowSampler.sample."""
        length = -(-context[0][0].shape[2] // BLOCK) * BLOCK
        shape = noise.shape[1], length, steps
        flow = self._flows.get(shape)
        fresh = flow is None
        if flow is None:
            flow = self._flows[shape] = self._buffers(noise, context, length, steps)
            if len(self._flows) > MOST:
                self._flows.popitem(last=False)
        self._flows.move_to_end(shape)
        flow.send(noise, context)
        if fresh and noise.is_cuda:
            flow.captured = capture(lambda: self._run(flow, steps), noise.device)
        if flow.captured is None:
            return self._run(flow, steps)
        flow.captured.graph.replay()
        return flow.captured.output.clone()

    def _run(self, flow: _StaticFlow, steps: int) -> Tensor:
        context = list(zip(flow.keys.unbind(0), flow.values.unbind(0), strict=True))
        return self._plain.sample(flow.noise, context, steps, flow.mask)

    def _buffers(self, noise: Tensor, context: list[Context], length: int, steps: int) -> _StaticFlow:
        (keys, _), layers = context[0], len(context)
        keys, values = (keys.new_zeros(layers, *keys.shape[:2], length, keys.shape[3]) for _ in range(2))
        mask = torch.zeros(1, 1, 1, length, dtype=torch.bool, device=keys.device)
        weight = self._plain.expert.action_embed.weight
        return _StaticFlow(
            torch.zeros_like(noise, dtype=weight.dtype), keys, values, mask, self._plain.modulations(steps)
        )
