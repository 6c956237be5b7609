"""Forward passes through the decoder, and the sequence that they extend in a static key-value cache.

Running passes (here in torch; cpu_kernel.py for small models on a CPU; cuda_graphs.py for a GPU) is separate from the
sequence being decoded: several sequences may share one pass (batching.py).
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import partial
from math import isfinite
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.decoding.speculative import Tree, parents_mask
from molmoact_ros.engine.model.molmoact import DecoderAttention, MolmoAct, rope_tables
from molmoact_ros.engine.molmoact2.model import MolmoAct2
from molmoact_ros.reasoning.answer import RefusedStep


@dataclass(frozen=True)
class SequenceSlice:
    """One sequence's part of a pass: embeddings x [T, hidden] after the `length` tokens in its cache.

    parents: for each token the index of its predecessor in this slice; -1: the last token in the cache. first: index of
    the first token whose hidden state is wanted. cache, x: as made by the `ModelRunner` that runs the slice.
    """

    cache: Any
    length: int
    x: Any
    parents: Sequence[int]
    first: int = 0


class ModelRunner(Protocol):
    """Interface for running forward passes through one model's decoder.

    A new kind of hardware implements it. The types of caches, inputs and outputs are its own; callers only pass them
    on.
    """

    capacity: int  # maximum sequence length, tokens

    def cache(self) -> Any:
        """A cache for the keys and values of one sequence."""

    def embed(self, ids: Sequence[int]) -> Any:
        """Embeddings [T, hidden] of ids of the vocabulary (an answer holds no others)."""

    def given(self, x: Tensor) -> Any:
        """Input for `run` from embeddings [T, hidden] computed elsewhere."""

    def run(self, parts: Sequence[SequenceSlice]) -> list[Any]:
        """Run one pass and store its keys and values in the caches.

        Returns for each slice the rows [T - first, ...] that `best` chooses by: hidden states after the final norm, or
        scores.
        """

    def best(self, after: Any, allowed: np.ndarray) -> int:
        """The best of `allowed`, int64 [k], after a token, by its row of the result of `run`.

        Only these ids' rows of the head are computed. -1 if their scores are not finite.
        """

    def move(self, cache: Any, source: int, target: int) -> None:
        """Copy the keys and values at one position of a cache to another."""

    def answering(self) -> AbstractContextManager[None]:
        """Context of a thread while it decodes an answer."""


class CachedDecoder:
    """One growing sequence (a `constrained.Decoder`) whose keys and values live in buffers allocated once.

    Example:
        decoder = CachedDecoder(TorchModelRunner(model, capacity=2048))
        decoder.append(embeddings)  # the prompt, [T, hidden]
        decoder.choose(-1, grammar.allowed(state))  # the best next id
    """

    def __init__(self, passes: ModelRunner) -> None:
        self.passes, self.cache = passes, passes.cache()
        self.length = 0
        self._after: Any = None  # the result of the last pass
        self._root = 0  # its row of the tree's root

    def rewind(self, length: int) -> None:
        """Truncate the sequence to `length` tokens."""
        self.length = length

    def append(self, x: Tensor, first: int = -1) -> Any:
        """Append embeddings [T, hidden] to the sequence; return the result of `ModelRunner.run` from token `first` on.

        first: -1 means the last token. Raises RefusedStep if the sequence would exceed the cache.
        """
        first = len(x) - 1 if first < 0 else first
        self._run(self.passes.given(x), range(-1, len(x) - 1), first)
        self.length, self._root = self.length + len(x), len(x) - first
        return self._after

    def feed(self, ids: Sequence[int], tree: Tree) -> None:
        """Run one pass: append `ids`, and evaluate the tree's tokens after them. Raises RefusedStep as `append`."""
        known = len(ids)
        parents = [*range(-1, known - 1), *(known + parent for parent in tree.parents)]
        self._run(self.passes.embed([*ids, *tree.tokens]), parents)
        self.length, self._root = self.length + known, known

    def _run(self, x: Any, parents: Sequence[int], first: int = 0) -> None:
        end = self.length + len(x)
        if end > self.passes.capacity:
            raise RefusedStep(
                f"the step needs {end} tokens but the cache holds {self.passes.capacity}; shorten the instruction"
            )
        (self._after,) = self.passes.run([SequenceSlice(self.cache, self.length, x, parents, first)])

    def choose(self, node: int, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token of the last pass.

        Raises RefusedStep if the scores are not finite.
        """
        assert self._after is not None
        best = self.passes.best(self._after[self._root + node], allowed)
        if best < 0:
            raise RefusedStep("the model computed NaN or infinity; check the weights with `molmoact-ros doctor`")
        return best

    def keep(self, nodes: Sequence[int]) -> None:
        """Accept these nodes, a branch from the tree's root, into the sequence; drop the others."""
        for offset, node in enumerate(nodes):
            if node != offset:  # on a side branch: its keys and values move next to its parent's
                self.passes.move(self.cache, self.length + node, self.length + offset)
        self.length += len(nodes)


@dataclass
class Cache:
    """Keys and values of one sequence, [layers, kv_heads, capacity, head_dim]."""

    keys: Tensor
    values: Tensor


@dataclass
class _Share:
    """A slice in a pass: its rows, and its additive attention mask (None: no mask, one token attends to all)."""

    part: SequenceSlice
    rows: slice
    mask: Tensor | None


class TorchModelRunner:
    """A ModelRunner in plain torch, on CPU or GPU."""

    def __init__(self, model: MolmoAct | MolmoAct2, capacity: int) -> None:
        """capacity: maximum sequence length, tokens."""
        c = model.config.llm_config
        self.model, self.capacity = model, capacity
        self.parts, self.layers = model.model.transformer, model.layers
        cos, sin = rope_tables(c, capacity)
        self.cos, self.sin = cos.to(model.lm_head.weight), sin.to(model.lm_head.weight)
        self.head_dim, self.kv_heads = c.head_dim, c.num_key_value_heads
        self._heads: dict[int, tuple[np.ndarray, Tensor]] = {}  # rows of the head, by id() of `allowed`

    def cache(self) -> Cache:
        """A key-value cache for one sequence."""
        shape = (len(self.layers), self.kv_heads, self.capacity, self.head_dim)
        return Cache(self.cos.new_zeros(shape), self.cos.new_zeros(shape))

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings [T, hidden] of ids of the vocabulary."""
        return self.parts.wte.embedding[list(ids)]

    def given(self, x: Tensor) -> Tensor:
        """Input for `run` from embeddings [T, hidden]: unchanged."""
        return x

    def run(self, parts: Sequence[SequenceSlice]) -> list[Tensor]:
        """Run one pass; return the hidden states [T - first, hidden] of each slice."""
        shares, places, row = [], [], 0
        for part in parts:
            mask, depths = _branches(part)
            shares.append(_Share(part, slice(row, row + len(part.x)), None if mask is None else mask.to(part.x)))
            places.append(depths)
            row += len(part.x)
        alone = len(parts) == 1
        x = parts[0].x if alone else torch.cat([part.x for part in parts])
        where = places[0] if alone else np.concatenate([_listed(depths) for depths in places])
        index = where if isinstance(where, slice) else torch.from_numpy(where).to(x.device)
        cos, sin = self.cos[index], self.sin[index]
        for layer, block in enumerate(self.layers):
            x = block(x, partial(self._attend, layer, block.self_attn, shares, cos, sin))
        hidden = self.parts.ln_f(x)
        return [hidden[share.rows][share.part.first :] for share in shares]

    def _attend(
        self, layer: int, attention: DecoderAttention, shares: Sequence[_Share], cos: Tensor, sin: Tensor, x: Tensor
    ) -> Tensor:
        q, k, v = attention.heads(x, cos, sin)
        attend = [self._read(layer, s, q[:, s.rows], k[:, s.rows], v[:, s.rows]) for s in shares]
        result: Tensor = attention.attn_out(attend[0] if len(attend) == 1 else torch.cat(attend))
        return result

    def _read(self, layer: int, share: _Share, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """Store a slice's keys and values; return its attention output [T, heads * head_dim]."""
        cache, start, t = share.part.cache, share.part.length, q.shape[1]
        keys, values, end = cache.keys[layer], cache.values[layer], start + t
        keys[:, start:end], values[:, start:end] = k, v
        return attend(q, keys[:, :end], values[:, :end], share.mask)

    def best(self, hidden: Tensor, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token; -1 if their scores are not finite."""
        known = self._heads.get(id(allowed))
        if known is None:
            head = self.model.lm_head.weight
            rows = head if len(allowed) == len(head) else head[torch.from_numpy(allowed)]
            known = self._heads[id(allowed)] = (allowed, rows)  # the reference keeps its id() unique
        scores = torch.mv(known[1], hidden)
        best = int(scores.argmax())
        return int(allowed[best]) if isfinite(scores[best]) else -1

    def answering(self) -> AbstractContextManager[None]:
        """A context that does nothing here."""
        return nullcontext()

    def move(self, cache: Cache, source: int, target: int) -> None:
        """Copy the keys and values at one position of a cache to another."""
        for tensor in (cache.keys, cache.values):
            tensor[:, :, target] = tensor[:, :, source]


def attend(q: Tensor, keys: Tensor, values: Tensor, mask: Tensor | None) -> Tensor:
    """Attention of queries [heads, T, head_dim] to keys and values [kv_heads, L, head_dim]: [T, heads * head_dim].

    mask: added to the scores, [T, L]; None: no mask. Query heads that share a key head form rows of one matrix, which
    avoids copies, and all units read keys in parallel, while a fused kernel would use only as many units as there are
    key heads. The softmax is in float32, as in the released model.
    """
    (kv_heads, length, head_dim), t = keys.shape, q.shape[1]
    scores = torch.matmul(q.reshape(kv_heads, -1, head_dim), keys.transpose(1, 2)) * head_dim**-0.5
    if mask is not None:
        scores = (scores.view(kv_heads, -1, t, length) + mask).view(kv_heads, -1, length)
    found = torch.matmul(scores.softmax(-1, dtype=torch.float32).to(values.dtype), values)
    return found.view(-1, t, head_dim).transpose(0, 1).reshape(t, -1)


def _listed(places: slice | np.ndarray) -> np.ndarray:
    return np.arange(places.start, places.stop) if isinstance(places, slice) else places


def _branches(part: SequenceSlice) -> tuple[Tensor | None, slice | np.ndarray]:
    """The additive mask of a slice, [T, length + T] of 0 and -inf (None: no mask), and its tokens' positions in the
    sequence: a Python slice for a chain, else int64 [T]."""
    count, end = len(part.parents), part.length + len(part.parents)
    if all(parent == i - 1 for i, parent in enumerate(part.parents)):
        mask = torch.full((count, end), -torch.inf).triu(part.length + 1) if count > 1 else None
        return mask, slice(part.length, end)
    readable = parents_mask(part.parents)
    everything = np.concatenate([np.ones((count, part.length), bool), readable], axis=1)
    mask = torch.zeros(count, end).masked_fill_(~torch.from_numpy(everything), -torch.inf)
    return mask, readable.sum(axis=1) - 1 + part.length
