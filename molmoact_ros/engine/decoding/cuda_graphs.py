"""Forward passes on a GPU: a few fixed shapes, each captured once as a CUDA graph and replayed, with one transfer each
way.

A GPU reads all weights for one token as for a hundred; the other costs are launching hundreds of small kernels and
waiting for results. So a pass is padded to one of a few widths and attends to a prefix of the cache of one of a few
lengths. Its inputs go to the device as one table, and the scores of every id in the grammar after every token come back
as another: an answer synchronises with the device once per pass. On a CPU the same code runs without compilation and
capture.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, field, replace
from functools import partial
from math import isfinite
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from molmoact_ros.engine.decoding.decoder import Cache, SequenceSlice, TorchModelRunner, attend
from molmoact_ros.engine.decoding.speculative import parents_mask
from molmoact_ros.engine.model.checkpoint import cache_folder
from molmoact_ros.engine.model.molmoact import DecoderAttention, DecoderBlock, MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.utils.progress import Progress

WIDTHS = (1, 32, 64, 128, 256)
"""Widths of a pass, tokens. Nine in ten passes of the released model hold 113 to 128 tokens
(test/engine/decoding/test_recorded_passes.py)."""
LENGTHS = (1024, 1536, 2048)
"""Lengths of the cache prefix that a pass attends to, tokens, besides the whole cache. An answer of 7B-D for one image
ends before the first, for two images near the second."""
MANY = 1000
"""Recompilation limit, above what occurs: torch's default takes 20 shapes of each kind of weights for a mistake."""
COMPILED = "compiled"
"""Folder of the compiler's results in the user's cache."""
Shape = tuple[int, int]
"""A width and a length."""


@dataclass
class CapturedRun:
    """What a function does as a CUDA graph, and the buffer of its result, which each replay overwrites."""

    graph: torch.cuda.CUDAGraph
    output: Tensor


@dataclass
class StaticCache(Cache):
    """Keys and values of one sequence, with slots for padding, and the CUDA graphs captured on them."""

    recorded: dict[Shape, CapturedRun] = field(default_factory=dict)

    def clear(self) -> None:
        """Zero the cache: a NaN of an earlier answer would spread even from masked positions."""
        self.keys.zero_()
        self.values.zero_()


class _Tables:
    """Input and output buffers of passes of one width, on the host and on the device.

    given: int32 [width, 3 + width], one row per token: its id, its position, its slot in the cache, and the mask of the
    tokens in the pass that it may attend to. scores: float32 [width, ids].
    """

    def __init__(self, width: int, ids: int, device: torch.device) -> None:
        pinned = device.type == "cuda"
        self._given = torch.zeros(width, 3 + width, dtype=torch.int32, pin_memory=pinned)
        self._scores = torch.zeros(width, ids, pin_memory=pinned)
        self.given, self.device = self._given.to(device), device
        self._rows, self._padding = self._given.numpy(), np.eye(width, dtype=np.int32)

    def send(self, ids: np.ndarray, length: int, parents: Sequence[int]) -> None:
        """Send a slice to the device: its ids, int64 [T], the number of tokens before it, and its tokens' parents.

        Padding tokens attend to themselves only, lie after all others, and no token attends to them.
        """
        readable, count = parents_mask(parents), len(ids)
        rows = self._rows
        rows[:, :2] = 0
        rows[:count, 0], rows[:count, 1] = ids, readable.sum(axis=1) - 1 + length
        rows[:, 2] = np.arange(length, length + len(rows))
        rows[:, 3:] = self._padding
        rows[:count, 3 : 3 + count] = readable
        self.given.copy_(self._given, non_blocking=True)

    def fetch(self, scores: Tensor, count: int) -> np.ndarray:
        """Copy the first `count` rows of scores [width, ids] to the host; this waits for the device."""
        self._scores.copy_(scores, non_blocking=True)
        if self.device.type == "cuda":
            torch.cuda.current_stream(self.device).synchronize()
        return self._scores[:count].numpy().copy()


class CudaGraphRunner:
    """A ModelRunner with fixed shapes; `run` returns scores float32 [T - first, ids] on the host.

    Passes of other shapes, with several sequences or a very long draft, run eagerly by TorchModelRunner.
    """

    def __init__(self, model: MolmoAct, capacity: int, ids: np.ndarray) -> None:
        """capacity: maximum sequence length, tokens. ids: int64 [n] ascending, every id that `best` may choose."""
        self.capacity, self._torch = capacity, TorchModelRunner(model, capacity)
        self._parts, self._layers = model.model.transformer, model.layers
        head, c = model.lm_head.weight, model.config.llm_config
        self._ids, self._head = ids, head[torch.from_numpy(ids).to(head.device)]
        self._room = -(-(capacity + WIDTHS[-1]) // 64) * 64  # padding needs slots too; a multiple for the kernels
        self._lengths = (*(length for length in LENGTHS if length < self._room), self._room)
        self._tables = {width: _Tables(width, len(ids), head.device) for width in WIDTHS}
        self._slots_shape = (c.num_hidden_layers, c.num_key_value_heads, self._room, c.head_dim)
        self._columns: dict[int, tuple[np.ndarray, np.ndarray]] = {}  # columns of the scores, by id() of `allowed`

    @property
    def shapes(self) -> list[Shape]:
        """Every pair of a width and a length that it fits into."""
        return [(width, length) for length in self._lengths for width in WIDTHS if width <= length]

    def cache(self) -> StaticCache:
        """A key-value cache for one sequence."""
        return StaticCache(self._head.new_zeros(self._slots_shape), self._head.new_zeros(self._slots_shape))

    def embed(self, ids: Sequence[int]) -> np.ndarray:
        """The ids themselves, int64 [T]: the pass embeds them on the device."""
        return np.asarray(ids, np.int64)

    def given(self, x: Tensor) -> Tensor:
        """Input for `run` from embeddings [T, hidden]: unchanged."""
        return x

    def answering(self) -> AbstractContextManager[None]:
        """A context that does nothing here."""
        return nullcontext()

    def move(self, cache: StaticCache, source: int, target: int) -> None:
        """Copy the keys and values at one position of a cache to another."""
        self._torch.move(cache, source, target)

    @torch.inference_mode()
    def prepare(self, cache: StaticCache, progress: Progress) -> None:
        """Compile and capture the passes of all shapes on a cache; without a GPU, do nothing.

        The compiler's results stay in the user's cache folder for the next start. Raises CheckpointError without a C
        compiler.
        """
        device = self._head.device
        if device.type != "cuda":
            return
        need_compiler()
        os.environ.setdefault("TORCHINDUCTOR_CACHE_DIR", str(cache_folder() / COMPILED))
        fused = torch.compile(layer, fullgraph=True, dynamic=False)  # fuses small ops; once per shape, for all layers
        pool, shapes = torch.cuda.graph_pool_handle(), self.shapes
        with torch._dynamo.config.patch(recompile_limit=MANY, accumulated_recompile_limit=MANY):
            for done, (width, length) in enumerate(shapes, 1):
                tables = self._tables[width]
                tables.send(np.zeros(width, np.int64), 0, range(-1, width - 1))
                work = partial(self._scores, cache, tables.given, length, fused)
                cache.recorded[width, length] = capture(work, device, pool)
                progress(done, len(shapes))

    def run(self, parts: Sequence[SequenceSlice]) -> list[np.ndarray]:
        """Run one pass; return the scores float32 [T - first, ids] of each slice."""
        for part in parts:
            if not part.length:
                part.cache.clear()
        if len(parts) == 1:
            (part,) = parts
            given = isinstance(part.x, Tensor)
            if given and part.length == 0 and isinstance(part.parents, range):
                return [self._on_host(self._prompt(part))]
            if not given and len(part.x) <= WIDTHS[-1] and not part.first:
                return [self._answer(part)]
        return [self._on_host(hidden) for hidden in self._torch.run([self._embedded(part) for part in parts])]

    def _embedded(self, part: SequenceSlice) -> SequenceSlice:
        return part if isinstance(part.x, Tensor) else replace(part, x=self._torch.embed(part.x.tolist()))

    def _on_host(self, hidden: Tensor) -> np.ndarray:
        return F.linear(hidden, self._head).float().cpu().numpy()

    def _answer(self, part: SequenceSlice) -> np.ndarray:
        """Run a pass over ids in the smallest shape that fits."""
        width = next(width for width in WIDTHS if width >= len(part.x))
        length = next(length for length in self._lengths if length >= part.length + width)
        tables, recorded = self._tables[width], part.cache.recorded.get((width, length))
        tables.send(part.x, part.length, part.parents)
        if recorded is None:
            scores = self._scores(part.cache, tables.given, length, layer)
        else:
            recorded.graph.replay()
            scores = recorded.output
        return tables.fetch(scores, len(part.x))

    def _scores(self, cache: StaticCache, given: Tensor, length: int, layer: Callable[..., Tensor]) -> Tensor:
        """A pass over an input table (see _Tables) and `length` slots of the cache; scores float32 [width, ids]."""
        ids, positions, slots = given[:, :3].long().unbind(1)
        x = self._parts.wte.embedding[ids]
        cos, sin = self._torch.cos[positions], self._torch.sin[positions]
        mask = _mask(given[:, 3:] > 0, slots[0], length).to(x.dtype)
        for keys, values, block in zip(cache.keys, cache.values, self._layers, strict=True):
            x = layer(block, x, cos, sin, slots, mask, keys, values)
        return F.linear(self._parts.ln_f(x), self._head).float()

    def _prompt(self, part: SequenceSlice) -> Tensor:
        """The prefill, a pass over embeddings at the start of a sequence: causal, of any length, run eagerly."""
        count, x = len(part.x), part.x
        cos, sin = self._torch.cos[:count], self._torch.sin[:count]

        def attend(layer: int, attention: DecoderAttention, x: Tensor) -> Tensor:
            q, k, v = attention.heads(x, cos, sin)
            part.cache.keys[layer, :, :count], part.cache.values[layer, :, :count] = k, v
            return attention.output(q[None], k[None], v[None], causal=True)[0]

        for i, block in enumerate(self._layers):
            x = block(x, partial(attend, i, block.self_attn))
        result: Tensor = self._parts.ln_f(x[part.first :])
        return result

    def best(self, after: np.ndarray, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], by scores [ids]; -1 if they are not finite.

        Raises ValueError for ids without scores.
        """
        known = self._columns.get(id(allowed))
        if known is None:
            columns = np.searchsorted(self._ids, allowed)
            if not np.array_equal(self._ids.take(columns, mode="clip"), allowed):
                raise ValueError("ids are to be chosen among for which no scores are computed")
            known = self._columns[id(allowed)] = (allowed, columns)  # the reference keeps its id() unique
        scores = after[known[1]]
        best = int(scores.argmax())
        return int(allowed[best]) if isfinite(scores[best]) else -1


def need_compiler() -> None:
    """Raise CheckpointError without a C compiler, which torch's compiler needs for launching its kernels."""
    if not any(shutil.which(name) for name in (os.environ.get("CC", ""), "gcc", "clang") if name):
        raise CheckpointError("passes are compiled for the GPU at the start, by gcc; run: sudo apt-get install gcc")


def layer(
    block: DecoderBlock, x: Tensor, cos: Tensor, sin: Tensor, slots: Tensor, mask: Tensor, keys: Tensor, values: Tensor
) -> Tensor:
    """One layer of the decoder over x [T, hidden], with rotary tables cos, sin [T, head_dim].

    Its keys and values go into `slots`, int64 [T], of keys and values [kv_heads, room, head_dim]. mask: added to the
    attention scores of the first L slots, [T, L].
    """

    def attention(x: Tensor) -> Tensor:
        q, k, v = block.self_attn.heads(x, cos, sin)
        keys.index_copy_(1, slots, k)
        values.index_copy_(1, slots, v)
        length = mask.shape[1]
        result: Tensor = block.self_attn.attn_out(attend(q, keys[:, :length], values[:, :length], mask))
        return result

    result: Tensor = block(x, attention)
    return result


def _mask(readable: Tensor, start: Tensor, length: int) -> Tensor:
    """The additive attention mask, 0 or -inf, [T, length].

    All tokens attend to the slots before `start`; within the pass, `readable`, bool [T, T], decides.
    """
    count = len(readable)
    place = torch.arange(length, device=readable.device) - start
    within = (place >= 0) & (place < count)
    seen = (place < 0) | (within & readable[:, place.clamp(0, count - 1)])
    return torch.zeros_like(seen, dtype=torch.float32).masked_fill_(~seen, -torch.inf)


def capture(run: Callable[[], Tensor], device: torch.device, pool: Any = None) -> CapturedRun:
    """Capture `run` as a CUDA graph, after two warm-up runs on a side stream for its one-time set-up (compilation,
    workspaces).

    Whatever `run` reads must stay where it is; its result [...] does. pool: memory of graphs that never run at once.
    """
    with torch.cuda.device(device):
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(2):
                run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph, pool=pool):
            output = run()
    return CapturedRun(graph, output)
