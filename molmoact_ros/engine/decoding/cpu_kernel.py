"""Runs the decoder of small models on a CPU: a forward pass is one call of compiled code (cpu_kernel.cpp).

A framework's calls cost more than a small model's arithmetic. Moreover, a token's numerical results do not depend on
the width of the pass here, so speculation leaves the answer unchanged by construction, not by luck of rounding.
"""

from __future__ import annotations

import ctypes
from array import array
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from molmoact_ros.engine.cpu_library import ADDRESS, COUNT, NativeArrays, aligned, fits, library
from molmoact_ros.engine.decoding.decoder import SequenceSlice
from molmoact_ros.engine.model.molmoact import DecoderBlock, MolmoAct, rope_tables

SLOTS = 64
"""Positions in a block of keys, as in cpu_kernel.cpp; a cache's length is a multiple of it."""
HEADS = 3
"""Most query heads that are computed together, as in cpu_kernel.cpp."""
MOST_HEAD = 256
"""Maximum width of an attention head, as in cpu_kernel.cpp."""


class _Layer(ctypes.Structure):
    _fields_ = [(name, ADDRESS) for name in
                ("attention_norm", "project", "project_bias", "output", "mlp_norm", "up_gate", "down")]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, COUNT) for name in ("layers", "width", "heads", "kv_heads", "head", "inner", "capacity")),
        ("epsilon", ctypes.c_float), ("layer", ctypes.POINTER(_Layer)),
        *((name, ADDRESS) for name in ("embedding", "final_norm", "cosines", "sines", "normed", "projected", "read",
                                       "opened", "activated", "scores", "path", "depths")),
    ]  # fmt: skip


class _Part(ctypes.Structure):
    _fields_ = [("tokens", COUNT), ("length", COUNT),
                *((name, ADDRESS) for name in ("ids", "parents", "keys", "values"))]  # fmt: skip


def can_run(model: MolmoAct) -> bool:
    """Whether the kernel can run a model's decoder: compiled, on the CPU in float32, small, of the Qwen2 family."""
    c = model.config.llm_config
    plain = not c.norm_after and not c.use_qk_norm and c.hidden_act == "silu" and c.head_dim <= MOST_HEAD
    weights = [p for block in model.layers for p in block.parameters()]
    return plain and fits(weights, [c.hidden_size, c.head_dim, c.intermediate_size])


@dataclass
class _Cache:
    """Keys [layers, kv_heads, slots / SLOTS, head_dim, SLOTS] and values [layers, kv_heads, slots, head_dim] of one
    sequence."""

    keys: np.ndarray
    values: np.ndarray

    def __post_init__(self) -> None:
        self.addresses = self.keys.ctypes.data, self.values.ctypes.data


def _share(part: SequenceSlice, parents: array[int]) -> _Part:
    ids = part.x.buffer_info()[0] if isinstance(part.x, array) else None
    return _Part(len(part.x), part.length, ids, parents.buffer_info()[0], *part.cache.addresses)


class CpuKernelRunner:
    """A ModelRunner for models that pass `can_run`."""

    def __init__(self, model: MolmoAct, capacity: int) -> None:
        """capacity: maximum sequence length, tokens."""
        self._library: Any = library()
        c, parts = model.config.llm_config, model.model.transformer
        self.capacity, self._slots = capacity, -(-capacity // SLOTS) * SLOTS
        self._arrays = NativeArrays()
        self._head, self._words = self._arrays.share(model.lm_head.weight), len(parts.wte.embedding)
        self._sets: dict[int, tuple[np.ndarray, int]] = {}  # addresses of allowed ids, by id() of the array
        cosines, sines = rope_tables(c, self._slots)
        heads, kv_heads = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        layers = (_Layer * c.num_hidden_layers)(*map(self._layer, model.layers))
        self._model = _Model(
            c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
            c.intermediate_size, self._slots, c.layer_norm_eps, layers,
            self._arrays.share(parts.wte.embedding), *map(self._arrays.keep, (parts.ln_f.weight, cosines, sines)),
            *map(self._room, (c.hidden_size, heads + 2 * kv_heads, heads, 2 * c.intermediate_size)),
            *map(self._room, (c.intermediate_size, HEADS, 1, 1)),
        )  # fmt: skip
        self._address = ctypes.addressof(self._model)
        self._cache_shape = (c.num_hidden_layers, c.num_key_value_heads, self._slots, c.head_dim)

    def _room(self, width: int) -> int:
        """Allocate a float32 buffer [slots, width]; return its address."""
        return self._arrays.keep(aligned((self._slots, width)))

    def _layer(self, block: DecoderBlock) -> _Layer:
        attention, mlp, keep, pack = block.self_attn, block.mlp, self._arrays.keep, self._arrays.pack
        bias = attention.att_proj.bias
        return _Layer(
            keep(block.attn_norm.weight), pack(attention.att_proj.weight), None if bias is None else keep(bias),
            pack(attention.attn_out.weight), keep(block.ff_norm.weight), pack(mlp.ff_proj.weight),
            pack(mlp.ff_out.weight),
        )  # fmt: skip

    def cache(self) -> _Cache:
        """A key-value cache for one sequence."""
        *outer, slots, head_dim = self._cache_shape
        shapes = (*outer, slots // SLOTS, head_dim, SLOTS), self._cache_shape
        return _Cache(*map(aligned, shapes))

    def embed(self, ids: Sequence[int]) -> array[int]:
        """Input for `run`: the ids of the vocabulary themselves, whose embeddings the pass reads.

        Raises ValueError for others.
        """
        if min(ids) < 0 or max(ids) >= self._words:
            raise ValueError(f"ids are from 0 to {self._words - 1}, not {list(ids)}")
        return array("i", ids)

    def given(self, x: Tensor) -> np.ndarray:
        """Input for `run` from embeddings [T, hidden]."""
        return x.numpy()

    def run(self, parts: Sequence[SequenceSlice]) -> list[np.ndarray]:
        """Run one pass, or several if the tokens exceed the capacity; return each slice's states [T - first, hidden].

        Raises ValueError for a sequence longer than the cache.
        """
        tokens = sum(len(part.x) for part in parts)
        if tokens > self.capacity and len(parts) > 1:
            half = len(parts) // 2
            return self.run(parts[:half]) + self.run(parts[half:])
        if any(part.length + len(part.x) > self.capacity for part in parts):
            raise ValueError(f"a sequence has {self.capacity} tokens at most")
        parents = [array("i", part.parents) for part in parts]
        table = (_Part * len(parts))(*map(_share, parts, parents))
        first = parts[0].first if len(parts) == 1 else 0
        states, found, end = np.empty((tokens, self._model.width), np.float32), [], 0
        for part in parts:
            if not isinstance(part.x, array):
                states[end : end + len(part.x)] = part.x
            found.append(states[end + part.first : end + len(part.x)])
            end += len(part.x)
        self._library.molmoact_pass(self._address, ctypes.addressof(table), len(parts), first, states.ctypes.data)
        return found

    def best(self, hidden: np.ndarray, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token; -1 if their scores are not finite."""
        known = self._sets.get(id(allowed))
        if known is None:
            known = self._sets[id(allowed)] = (allowed, allowed.ctypes.data)  # the reference keeps its id() unique
        best = self._library.molmoact_best(self._head, self._model.width, known[1], len(allowed), hidden.ctypes.data)
        return int(allowed[best]) if best >= 0 else -1

    def answering(self) -> AbstractContextManager[None]:
        """A context that does nothing here."""
        return nullcontext()

    def move(self, cache: _Cache, source: int, target: int) -> None:
        """Copy the keys and values at one position of a cache to another."""
        cache.keys[:, :, target // SLOTS, :, target % SLOTS] = cache.keys[:, :, source // SLOTS, :, source % SLOTS]
        cache.values[:, :, target] = cache.values[:, :, source]
