"""Grammar-constrained greedy decoding on a static key-value cache.

What the grammar forces rides along in the next pass, and a tree of guesses (draft.py) is checked many tokens at a time.
The answer is the same, token for token, as plain greedy decoding under the same grammar.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import isfinite
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.draft import NARROW, DraftConfig, Memory, Tracker, Tree, given_ids, grow, parents_mask
from molmoact_ros.engine.model import DecoderAttention, MolmoAct, rope_tables
from molmoact_ros.reasoning.answer import RefusedStep, Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar

FIRST_GUESS, LONGEST_GUESS = 2, 100  # values guessed in a row
NOTHING = Memory()


class CancelledStep(Exception):
    """The step is not wanted any more."""


@dataclass
class SegmentCounts:
    """What one segment of an answer cost: passes through the decoder, seconds, tokens guessed and guesses that held."""

    passes: int = 0
    seconds: float = 0.0
    guessed: int = 0
    held: int = 0


@dataclass
class DecodeCounts:
    """How one answer was decoded, segment by segment; tokens: of the whole answer."""

    tokens: int = 0
    segments: dict[Segment, SegmentCounts] = field(default_factory=lambda: {s: SegmentCounts() for s in Segment})

    @property
    def passes(self) -> int:
        """Passes through the decoder, the prompt's not counted."""
        return sum(counts.passes for counts in self.segments.values())


class Decoder(Protocol):
    """What answers are decoded with: one sequence that grows, and guesses behind it that are kept or forgotten."""

    def feed(self, ids: Sequence[int], tree: Tree) -> None:
        """One pass: append `ids`, one at least, to the sequence, and look at the tree's tokens behind them."""

    def choose(self, node: int, allowed: np.ndarray) -> int:
        """The best of `allowed`, int64 [k], after a token of the tree, or (-1) after the last of the sequence."""

    def keep(self, nodes: Sequence[int]) -> None:
        """Append these tokens of the tree, a branch from its root, to the sequence; forget the others."""


class CachedDecoder:
    """The decoder of a model for one sequence at a time, its keys and values kept in buffers allocated once."""

    def __init__(self, model: MolmoAct, capacity: int) -> None:
        """`capacity`: the longest sequence in tokens."""
        c = model.config.llm_config
        self.model, self.capacity = model, capacity
        self.parts, self.layers = model.model.transformer, model.layers
        weight = model.lm_head.weight
        shape = (c.num_hidden_layers, c.num_key_value_heads, capacity, c.head_dim)
        self.keys = torch.zeros(shape, dtype=weight.dtype, device=weight.device)
        self.values = torch.zeros_like(self.keys)
        self._keys, self._values = list(self.keys), list(self.values)  # of each layer
        cos, sin = rope_tables(c, capacity)
        self.cos, self.sin = cos.to(weight), sin.to(weight)
        self.length = 0
        self.scale, self.head_dim, self.kv_heads = c.head_dim**-0.5, c.head_dim, c.num_key_value_heads
        self._heads: dict[int, Tensor] = {}
        self._hidden, self._root = torch.empty(0), 0  # of the last pass; the place of the tree's root in it

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings [T, hidden] of ids of the vocabulary (an answer holds no others)."""
        return self.parts.wte.embedding[list(ids)]

    def append(self, x: Tensor) -> Tensor:
        """Append embeddings [T, hidden] to the sequence; hidden states [T, hidden] after the final norm.

        Raises RefusedStep when the sequence would outgrow the cache.
        """
        end = self._end(len(x))
        mask = None
        if len(x) > 1:
            mask = torch.full((len(x), end), -torch.inf, dtype=x.dtype, device=x.device).triu(self.length + 1)
        hidden = self._run(x, self.cos[self.length : end], self.sin[self.length : end], mask)
        self.length, self._hidden, self._root = end, hidden, len(x)
        return hidden

    def feed(self, ids: Sequence[int], tree: Tree) -> None:
        """One pass: append `ids`, and look at the tree's tokens behind them. Raises RefusedStep as `append`."""
        if tree.is_chain:
            self.append(self.embed([*ids, *tree.tokens]))
            self.length -= len(tree.tokens)
        else:
            x = self.embed([*ids, *tree.tokens])
            end = self._end(len(x))
            readable, places = self._branches(len(ids), tree, end)
            mask = torch.zeros(len(x), end, dtype=x.dtype, device=x.device).masked_fill_(~readable, -torch.inf)
            self._hidden = self._run(x, self.cos[places], self.sin[places], mask)
            self.length += len(ids)
        self._root = len(ids)

    def _branches(self, known: int, tree: Tree, end: int) -> tuple[Tensor, Tensor]:
        """What each token of a pass may read, bool [T, end], and its place in the sequence, int64 [T]."""
        parents = [*range(-1, known - 1), *(known + parent for parent in tree.parents)]
        mask = parents_mask(parents)
        places = torch.from_numpy(mask.sum(axis=1) - 1 + self.length)
        readable = np.concatenate([np.ones((len(mask), self.length), bool), mask], axis=1)
        return torch.from_numpy(readable).to(self.keys.device), places.to(self.keys.device)

    def keep(self, nodes: Sequence[int]) -> None:
        """Append these tokens of the tree, a branch from its root, to the sequence; forget the others."""
        start = self.length
        for offset, node in enumerate(nodes):
            if node != offset:  # on a side branch: its keys and values move beside those it follows
                self.keys[:, :, start + offset] = self.keys[:, :, start + node]
                self.values[:, :, start + offset] = self.values[:, :, start + node]
        self.length = start + len(nodes)

    def _end(self, count: int) -> int:
        end = self.length + count
        if end > self.capacity:
            raise RefusedStep(
                f"the step needs {end} tokens but the cache holds {self.capacity}; shorten the instruction"
            )
        return end

    def _run(self, x: Tensor, cos: Tensor, sin: Tensor, mask: Tensor | None) -> Tensor:
        for layer, block in enumerate(self.layers):
            x = block(x, partial(self._attend, layer, block.self_attn, cos=cos, sin=sin, mask=mask))
        return self.parts.ln_f(x)

    def _attend(self, layer: int, attention: DecoderAttention, x: Tensor, cos: Tensor, sin: Tensor,
                mask: Tensor | None) -> Tensor:  # fmt: skip
        t, end = len(x), self.length + len(x)
        q, k, v = attention.heads(x, cos, sin)
        keys, values = self._keys[layer], self._values[layer]
        keys[:, self.length : end], values[:, self.length : end] = k, v
        q = q.reshape(self.kv_heads, -1, self.head_dim)  # query heads beside their key head
        scores = torch.matmul(q, keys[:, :end].transpose(1, 2)) * self.scale
        if mask is not None:
            scores = (scores.view(self.kv_heads, -1, t, end) + mask).view(self.kv_heads, -1, end)
        # Softmax in float32, as the released model does.
        read = torch.matmul(scores.softmax(-1, dtype=torch.float32).to(x.dtype), values[:, :end])
        return attention.attn_out(read.view(-1, t, self.head_dim).transpose(0, 1).reshape(t, -1))

    def rewind(self, length: int) -> None:
        """Forget everything behind `length` tokens."""
        self.length = length

    def choose(self, node: int, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token of the last pass; only their rows of the head are
        computed."""
        rows = self._heads.get(id(allowed))
        if rows is None:
            rows = self._heads[id(allowed)] = self.model.lm_head.weight[torch.from_numpy(allowed)]
        scores = torch.mv(rows, self._hidden[self._root + node])
        best = int(scores.argmax())
        if not isfinite(scores[best]):
            raise RefusedStep("the model computed NaN or infinity; check the weights with `molmoact-ros doctor`")
        return int(allowed[best])


class _Answer:
    """An answer as it grows: its tokens, the grammar's state, and what has not been fed yet."""

    def __init__(self, grammar: AnswerGrammar, lasts: Sequence[Memory], given: Memory) -> None:
        self.grammar, self.state, self.given = grammar, grammar.start, given
        self.tokens: list[int] = []
        self.pending: list[int] = []
        self.tracker = Tracker(grammar, lasts)
        self._force()

    def take(self, token: int) -> None:
        """Append a chosen token and everything behind it that the grammar forces or that is given."""
        self._append(token)
        self._force()

    def _append(self, token: int) -> None:
        self.tracker.note(self.state, token)
        self.state = self.grammar.advance(self.state, token)
        self.tokens.append(token)
        self.pending.append(token)

    def _force(self) -> None:
        while ids := self.grammar.forced_run(self.state) or given_ids(self.grammar, self.state, self.given):
            for token in ids:
                self._append(token)

    @property
    def ended(self) -> bool:
        return self.grammar.ended(self.state)


def decode(
    decoder: Decoder, grammar: AnswerGrammar, lasts: Sequence[Memory], counts: DecodeCounts,
    config: DraftConfig = NARROW, given: Memory = NOTHING, wanted: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Segment, list[int], Memory]]:  # fmt: skip
    """Decode one answer behind the prompt that `decoder` already holds.

    Yields (segment just completed, tokens so far, what they say) at each change of segment; the last is END, with all
    tokens. lasts: what the answers before said, the newest first, to guess by; they change the speed, never the answer.
    given: parts of the answer that the model is not asked for. wanted: asked before every pass; CancelledStep is raised
    once it says no.
    """
    answer, reach = (
        _Answer(grammar, lasts, given),
        dict.fromkeys(Segment, LONGEST_GUESS if config.patient else FIRST_GUESS),
    )
    if not answer.pending:  # nothing is forced at the beginning
        answer.take(decoder.choose(-1, grammar.allowed(answer.state)))
    while not answer.ended:
        if not wanted():
            raise CancelledStep
        began, segment = time.perf_counter(), grammar.segment(answer.state)
        tree = grow(answer.tracker, answer.state, config, reach[segment])
        held = _advance(decoder, answer, tree)
        # A guess that failed early is a wide pass for little: be shorter next time, and longer after one that held.
        if not config.patient:
            reach[segment] = reach[segment] + 2 if held == len(tree.tokens) else max(1, held)
        spent = counts.segments[segment]
        spent.passes, spent.guessed, spent.held = spent.passes + 1, spent.guessed + len(tree.tokens), spent.held + held
        spent.seconds += time.perf_counter() - began
        if grammar.segment(answer.state) is not segment and not answer.ended:
            yield segment, answer.tokens, answer.tracker.said
    counts.tokens = len(answer.tokens)
    yield Segment.END, answer.tokens, answer.tracker.said


def _advance(decoder: Decoder, answer: _Answer, tree: Tree) -> int:
    """One pass: feed what is pending and the tree, keep what greedy decoding would have said; how many guesses held."""
    fed, answer.pending = answer.pending, []
    decoder.feed(fed, tree)
    branch: list[int] = []
    node = -1
    while not answer.ended:
        answer.take(decoder.choose(node, answer.grammar.allowed(answer.state)))
        # What was taken, the forced tokens with it, may stand in the tree already.
        while answer.pending and (node, answer.pending[0]) in tree.children:
            node = tree.children[node, answer.pending.pop(0)]
            branch.append(node)
        if answer.pending:
            break
    decoder.keep(branch)
    return len(branch)
