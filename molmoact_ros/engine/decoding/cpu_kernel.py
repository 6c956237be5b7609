"""Runs the decoder of small models on a CPU: a forward pass is one call of compiled code (cpu_kernel.cpp).

A framework's calls cost more than a small model's arithmetic. Moreover, a token's numerical results do not depend on
the width of the pass here, so speculation leaves the answer unchanged by construction, not by luck of rounding.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.decoding.decoder import SequenceSlice
from molmoact_ros.engine.model.molmoact import DecoderBlock, MolmoAct, rope_tables
from molmoact_ros.engine.model.quantization import is_quantised

SLOTS = 64
"""Attention scores computed at once, as in cpu_kernel.cpp; a cache's length is a multiple of it."""
LARGEST = 64_000_000
"""Maximum parameters of a decoder run here. Matrices are copied, and a larger decoder gains little from fewer calls."""
MOST_HEAD = 256
"""Maximum width of an attention head, as in cpu_kernel.cpp."""
_WHOLE, _FLOAT, _POINTER = ctypes.c_int32, ctypes.c_float, ctypes.c_void_p


class _Layer(ctypes.Structure):
    _fields_ = [(name, _POINTER) for name in
                ("attention_norm", "project", "project_bias", "output", "mlp_norm", "up_gate", "down")]  # fmt: skip


class _Model(ctypes.Structure):
    _fields_ = [
        *((name, _WHOLE) for name in ("layers", "width", "heads", "kv_heads", "head", "inner", "capacity")),
        ("epsilon", _FLOAT), ("layer", ctypes.POINTER(_Layer)),
        *((name, _POINTER) for name in ("final_norm", "cosines", "sines", "normed", "projected", "read", "opened",
                                        "activated", "scores", "path")),
    ]  # fmt: skip


class _Part(ctypes.Structure):
    _fields_ = [("tokens", _WHOLE), ("length", _WHOLE),
                *((name, _POINTER) for name in ("parents", "keys", "values"))]  # fmt: skip


@cache
def _library() -> Any | None:
    file = Path(__file__).with_name("libmolmoact_native.so")
    return ctypes.CDLL(str(file)) if file.exists() else None


def _lanes() -> int:
    """Rows of a packed matrix's panel: the number of outputs that this CPU computes at once (SIMD lanes)."""
    library = _library()
    assert library is not None
    return int(library.molmoact_lanes())


def can_run(model: MolmoAct) -> bool:
    """Whether the kernel can run a model's decoder: compiled, on the CPU in float32, small, of the Qwen2 family."""
    if _library() is None:
        return False
    c, weight = model.config.llm_config, model.lm_head.weight
    weights = [p for block in model.layers for p in block.parameters()]
    small, usual = sum(p.numel() for p in weights) <= LARGEST, not any(map(is_quantised, weights))
    plain = not c.norm_after and not c.use_qk_norm and c.hidden_act == "silu"
    even = all(n % _lanes() == 0 for n in (c.hidden_size, c.head_dim, c.intermediate_size))
    even = even and c.head_dim <= MOST_HEAD
    host = weight.device.type == "cpu" and weight.dtype == torch.float32
    return host and small and usual and plain and even


def _pack(matrix: Tensor) -> np.ndarray:
    """Pack a matrix [outputs, width] into panels [outputs / lanes, width, lanes]."""
    array = matrix.detach().numpy()
    return np.ascontiguousarray(array.reshape(-1, _lanes(), array.shape[1]).transpose(0, 2, 1))


@dataclass
class _Cache:
    """Keys [layers, kv_heads, head_dim, slots] and values [layers, kv_heads, slots, head_dim] of one sequence."""

    keys: np.ndarray
    values: np.ndarray


def _share(part: SequenceSlice, parents: np.ndarray) -> _Part:
    places = (array.ctypes.data for array in (parents, part.cache.keys, part.cache.values))
    return _Part(len(part.x), part.length, *places)


class CpuKernelRunner:
    """A ModelRunner for models that pass `can_run`."""

    def __init__(self, model: MolmoAct, capacity: int) -> None:
        """capacity: maximum sequence length, tokens."""
        self._library: Any = _library()
        c, parts = model.config.llm_config, model.model.transformer
        self.capacity, self._slots = capacity, -(-capacity // SLOTS) * SLOTS
        self._arrays: list[np.ndarray] = []  # keeps the arrays alive that the structures point to
        self._embedding, self._head = parts.wte.embedding.detach().numpy(), model.lm_head.weight.detach().numpy()
        cosines, sines = rope_tables(c, self._slots)
        heads, kv_heads = c.num_attention_heads * c.head_dim, c.num_key_value_heads * c.head_dim
        layers = (_Layer * c.num_hidden_layers)(*map(self._layer, model.layers))
        self._model = _Model(
            c.num_hidden_layers, c.hidden_size, c.num_attention_heads, c.num_key_value_heads, c.head_dim,
            c.intermediate_size, self._slots, c.layer_norm_eps, layers,
            *map(self._keep, (parts.ln_f.weight, cosines, sines)),
            *map(self._room, (c.hidden_size, heads + 2 * kv_heads, heads, 2 * c.intermediate_size)),
            *map(self._room, (c.intermediate_size, 1, 1)),
        )  # fmt: skip
        self._cache_shape = (c.num_hidden_layers, c.num_key_value_heads, c.head_dim, self._slots)

    def _keep(self, numbers: Tensor | np.ndarray) -> int:
        """The address of an array, which stays alive as long as this object."""
        array = numbers.detach().numpy() if isinstance(numbers, Tensor) else numbers
        self._arrays.append(np.ascontiguousarray(array))
        return self._arrays[-1].ctypes.data

    def _room(self, width: int) -> int:
        """Allocate a float32 buffer [slots, width]; return its address."""
        return self._keep(np.zeros((self._slots, width), np.float32))

    def _layer(self, block: DecoderBlock) -> _Layer:
        attention, mlp = block.self_attn, block.mlp
        bias = attention.att_proj.bias
        return _Layer(
            self._keep(block.attn_norm.weight), self._keep(_pack(attention.att_proj.weight)),
            None if bias is None else self._keep(bias), self._keep(_pack(attention.attn_out.weight)),
            self._keep(block.ff_norm.weight), self._keep(_pack(mlp.ff_proj.weight)),
            self._keep(_pack(mlp.ff_out.weight)),
        )  # fmt: skip

    def cache(self) -> _Cache:
        """A key-value cache for one sequence."""
        *outer, head_dim, slots = self._cache_shape
        shapes = (*outer, head_dim, slots), (*outer, slots, head_dim)
        return _Cache(*(np.zeros(shape, np.float32) for shape in shapes))

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """Embeddings [T, hidden] of ids of the vocabulary."""
        return self._embedding[ids]

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
        parents = [np.array(part.parents, np.int32) for part in parts]
        table = (_Part * len(parts))(*map(_share, parts, parents))
        first = parts[0].first if len(parts) == 1 else 0
        x = np.concatenate([part.x for part in parts])  # a copy: the states overwrite the embeddings
        self._library.molmoact_pass(ctypes.byref(self._model), table, len(parts), first, _POINTER(x.ctypes.data))
        ends = np.cumsum([len(part.x) for part in parts])
        return [x[end - len(part.x) + part.first : end] for part, end in zip(parts, ends, strict=True)]

    def best(self, hidden: np.ndarray, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token; -1 if their scores are not finite."""
        best = self._library.molmoact_best(
            _POINTER(self._head.ctypes.data), self._head.shape[1], _POINTER(allowed.ctypes.data), len(allowed),
            _POINTER(hidden.ctypes.data),
        )  # fmt: skip
        return int(allowed[best]) if best >= 0 else -1

    def answering(self) -> AbstractContextManager[None]:
        """A context that does nothing here."""
        return nullcontext()

    def move(self, cache: _Cache, source: int, target: int) -> None:
        """Copy the keys and values at one position of a cache to another."""
        cache.keys[..., target] = cache.keys[..., source]
        cache.values[:, :, target] = cache.values[:, :, source]
