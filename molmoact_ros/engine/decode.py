"""Grammar-constrained greedy decoding on a static key-value cache.

What the grammar forces rides along in the next pass, and a draft (the previous answer, token by token) is verified
many tokens at a time. The answer is the same, token for token, as plain greedy decoding under the same grammar.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import chain, repeat

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.model import DecoderAttention, MolmoAct, rope_tables
from molmoact_ros.reasoning.answer import RefusedStep, Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar

LONGEST_DRAFT = 24  # tokens verified at once; a pass over so few costs little more than a pass over one
NO_GUESS = -1  # in a draft: no token's id, so the guess ends before it


@dataclass
class DecodeCounts:
    """How one answer was decoded: passes through the decoder, tokens of the answer, drafted and accepted tokens."""

    passes: int = 0
    tokens: int = 0
    drafted: int = 0
    accepted: int = 0
    seconds: dict[Segment, float] = field(default_factory=dict)


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
        cos, sin = rope_tables(c, capacity)
        self.cos, self.sin = cos.to(weight), sin.to(weight)
        self.length = 0
        self.scale, self.head_dim, self.kv_heads = c.head_dim**-0.5, c.head_dim, c.num_key_value_heads
        self._heads: dict[int, Tensor] = {}

    def embed(self, ids: Sequence[int]) -> Tensor:
        """Embeddings [T, hidden] of ids of the vocabulary (an answer holds no others)."""
        return self.parts.wte.embedding[list(ids)]

    def feed(self, x: Tensor) -> Tensor:
        """Append embeddings [T, hidden] to the sequence; hidden states [T, hidden] after the final norm.

        Raises RefusedStep when the sequence would outgrow the cache.
        """
        start, end = self.length, self.length + len(x)
        if end > self.capacity:
            raise RefusedStep(
                f"the step needs {end} tokens but the cache holds {self.capacity}; shorten the instruction"
            )
        cos, sin = self.cos[start:end], self.sin[start:end]
        mask = None
        if len(x) > 1:
            mask = torch.full((len(x), end), -torch.inf, dtype=x.dtype, device=x.device).triu(start + 1)
        for layer, block in enumerate(self.layers):
            attend = partial(self._attend, layer, block.self_attn, cos=cos, sin=sin, mask=mask)
            x = block(x, attend)
        self.length = end
        return self.parts.ln_f(x)

    def _attend(self, layer: int, attention: DecoderAttention, x: Tensor, cos: Tensor, sin: Tensor,
                mask: Tensor | None) -> Tensor:  # fmt: skip
        t, end = len(x), self.length + len(x)
        q, self.keys[layer, :, self.length : end], self.values[layer, :, self.length : end] = attention.heads(
            x, cos, sin
        )
        q = q.reshape(self.kv_heads, -1, self.head_dim)  # query heads beside their key head
        scores = torch.matmul(q, self.keys[layer, :, :end].transpose(1, 2)) * self.scale
        if mask is not None:
            scores = (scores.view(self.kv_heads, -1, t, end) + mask).view(self.kv_heads, -1, end)
        # Softmax in float32, as the released model does.
        read = torch.matmul(scores.softmax(-1, dtype=torch.float32).to(x.dtype), self.values[layer, :, :end])
        return attention.attn_out(read.view(-1, t, self.head_dim).transpose(0, 1).reshape(t, -1))

    def rewind(self, length: int) -> None:
        """Forget everything behind `length` tokens."""
        self.length = length

    def choose(self, hidden: Tensor, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids after a hidden state [hidden]; only their rows of the head are computed."""
        rows = self._heads.get(id(allowed))
        if rows is None:
            rows = self._heads[id(allowed)] = self.model.lm_head.weight[torch.from_numpy(allowed)]
        scores = torch.mv(rows, hidden)
        best = int(scores.argmax())
        if not bool(torch.isfinite(scores[best])):
            raise RefusedStep("the model computed NaN or infinity; check the weights with `molmoact-ros doctor`")
        return int(allowed[best])


class _Answer:
    """An answer as it grows: its tokens, the grammar's state, and what has not been fed yet."""

    def __init__(self, grammar: AnswerGrammar) -> None:
        self.grammar, self.state = grammar, grammar.start
        self.tokens: list[int] = []
        self.pending: list[int] = []
        self._force()

    def take(self, token: int) -> None:
        """Append a chosen token and everything that the grammar forces behind it."""
        self._append(token)
        self._force()

    def _append(self, token: int) -> None:
        self.state = self.grammar.advance(self.state, token)
        self.tokens.append(token)
        self.pending.append(token)

    def _force(self) -> None:
        for token in self.grammar.forced_run(self.state):
            self._append(token)

    @property
    def ended(self) -> bool:
        return self.grammar.ended(self.state)


def decode(
    decoder: CachedDecoder, grammar: AnswerGrammar, draft: Sequence[int], counts: DecodeCounts
) -> Iterator[tuple[Segment, list[int]]]:
    """Decode one answer behind the prompt that `decoder` already holds.

    Yields (segment just completed, tokens so far) at each change of segment; the last is (END, all tokens). `draft`:
    a guess at the answer, such as the previous one; it changes the speed, never the answer.
    """
    answer = _Answer(grammar)
    reach = LONGEST_DRAFT
    while not answer.ended:
        began, segment = time.perf_counter(), grammar.segment(answer.state)
        guess = _guess(answer, draft, reach)
        accepted = _advance(decoder, answer, guess)
        reach = LONGEST_DRAFT if accepted == len(guess) else max(2, 2 * accepted)
        counts.passes += 1
        counts.drafted += len(guess)
        counts.accepted += accepted
        counts.seconds[segment] = counts.seconds.get(segment, 0.0) + time.perf_counter() - began
        if grammar.segment(answer.state) is not segment and not answer.ended:
            yield segment, answer.tokens
    counts.tokens = len(answer.tokens)
    yield Segment.END, answer.tokens


def draft_from(grammar: AnswerGrammar, answer: Sequence[int], before: Sequence[int]) -> list[int]:
    """A draft of the next answer from the last one and the one `before`.

    Motion hardly ever repeats, and a wrong guess is a wider pass for nothing; but a rotation or a gripper that said the
    same twice says it again. So a token of an action that is not the one of `before` is NO_GUESS.
    """
    moving = [
        grammar.segment(state) is Segment.ACTION for state in (grammar.start, *grammar.walk(grammar.start, answer))
    ]
    return [
        NO_GUESS if moves and token != old else token
        for token, old, moves in zip(answer, chain(before, repeat(NO_GUESS)), moving, strict=False)
    ]


def _guess(answer: _Answer, draft: Sequence[int], reach: int) -> list[int]:
    """The part of the draft that may come next: inside this segment, and as far as the grammar allows it."""
    grammar, segment = answer.grammar, answer.grammar.segment(answer.state)
    guess: list[int] = []
    state = answer.state
    for token in draft[len(answer.tokens) : len(answer.tokens) + reach]:
        if token not in grammar.allowed(state) or grammar.segment(state) is not segment:
            break
        guess.append(token)
        state = grammar.advance(state, token)
    return guess


def _advance(decoder: CachedDecoder, answer: _Answer, guess: list[int]) -> int:
    """One pass: feed what is pending and the guess, keep what greedy decoding would have said; guesses accepted."""
    fed, answer.pending = answer.pending, []
    base = decoder.length + len(fed)
    hidden = decoder.feed(decoder.embed([*fed, *guess]))
    accepted = 0
    for guessed in [*guess, None]:
        row = len(fed) - 1 + accepted
        token = decoder.choose(hidden[row], answer.grammar.allowed(answer.state))
        answer.take(token)
        if token != guessed:
            break
        accepted += 1
        answer.pending = answer.pending[1:]  # the guess was fed already; what it forces was not
        if answer.pending:
            break
    decoder.rewind(base + accepted)
    return accepted
