"""Runs the action expert of small models on a CPU: a chunk is one call of compiled code (cpu_expert.cpp)."""

from __future__ import annotations

import ctypes
from functools import lru_cache

import torch
from torch import Tensor, nn

from molmoact_ros.engine.cpu_library import ADDRESS, COUNT, NativeArrays, fits, library
from molmoact_ros.engine.molmoact2.expert import ActionExpert, Context, ExpertBlock
from molmoact_ros.engine.molmoact2.sampler import flow_times


class _Block(ctypes.Structure):
    _fields_ = [(name, ADDRESS) for name in
                ("project", "project_bias", "output", "output_bias", "query", "query_bias", "read", "read_bias",
                 "up_gate", "up_gate_bias", "down", "down_bias")]  # fmt: skip


class _Expert(ctypes.Structure):
    _fields_ = [
        *((name, COUNT) for name in ("layers", "width", "heads", "head", "inner", "actions")),
        ("epsilon", ctypes.c_float), ("block", ctypes.POINTER(_Block)),
        *((name, ADDRESS) for name in ("embed", "embed_bias", "last", "last_bias")),
    ]  # fmt: skip


class _Flow(ctypes.Structure):
    _fields_ = [
        *((name, COUNT) for name in ("rows", "dimensions", "steps", "tokens")),
        *((name, ADDRESS) for name in ("blocks", "last", "cosines", "sines", "keys", "values")),
    ]  # fmt: skip


def can_sample(expert: ActionExpert) -> bool:
    """Whether the kernel can run an expert: compiled, on the CPU in float32, small, of widths that fill vectors."""
    c, weights = expert.config, list(expert.parameters())
    return fits(weights, [c.hidden_size, c.head_dim, c.inner_size, expert.action_embed.in_features])


class CpuSampler:
    """A FlowSampler for experts that pass `can_sample`."""

    def __init__(self, expert: ActionExpert, dimensions: int) -> None:
        """dimensions: of an action; the others stay zero."""
        self.expert, self.dimensions = expert, dimensions
        self._arrays, self._library = NativeArrays(), library()
        c, final = expert.config, expert.final_layer
        self._expert = _Expert(
            c.num_layers, c.hidden_size, c.num_heads, c.head_dim, c.inner_size, expert.action_embed.in_features,
            c.qk_norm_eps, (_Block * c.num_layers)(*map(self._block, expert.layers)),
            *self._linear(expert.action_embed), *self._linear(final.linear),
        )  # fmt: skip
        self._flow_of = lru_cache(maxsize=4)(self._flow)

    def _block(self, block: ExpertBlock) -> _Block:
        own, other, mlp = block.self_attn, block.cross_attn, block.mlp
        return _Block(
            *self._linear(own.qkv), *self._linear(own.out_proj), *self._linear(other.q_proj),
            *self._linear(other.out_proj), *self._linear(mlp.up_proj, mlp.gate_proj), *self._linear(mlp.down_proj),
        )  # fmt: skip

    def _linear(self, *layers: nn.Linear) -> tuple[int, int]:
        """The addresses of the weights and biases of layers over the same input, as one layer."""
        biases = torch.cat([layer.bias.detach() for layer in layers])
        return self._arrays.pack(*(layer.weight for layer in layers)), self._arrays.keep(biases)

    def _flow(self, steps: int, rows: int) -> _Flow:
        """What depends on the numbers of steps and rows alone."""
        every = self.expert.modulations(flow_times(steps))
        parts = (every.blocks, every.final, *self.expert.rope(rows))
        return _Flow(rows, self.dimensions, steps, 0, *map(self._arrays.keep, parts), None, None)

    def sample(self, noise: Tensor, context: list[Context], steps: int) -> Tensor:
        """Normalised actions [1, H, A] from noise [1, H, A]; see FlowSampler.sample."""
        x = noise.to(torch.float32).clone().contiguous()
        x[..., self.dimensions :] = 0
        keys, values = (torch.stack([layer[part][0] for layer in context]).contiguous() for part in (0, 1))
        flow = self._flow_of(steps, x.shape[1])
        flow.tokens, flow.keys, flow.values = keys.shape[2], keys.data_ptr(), values.data_ptr()
        assert self._library is not None
        self._library.molmoact_sample(ctypes.addressof(self._expert), ctypes.addressof(flow), x.data_ptr())
        return x
