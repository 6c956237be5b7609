"""Grammar-constrained greedy decoding with speculation.

Tokens that the grammar forces join the next forward pass. The pass also verifies a tree of drafted tokens
(speculative.py). The answer equals that of plain greedy decoding under the same grammar, token for token.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from molmoact_ros.engine.decoding.speculative import NARROW, AnswerCache, DraftConfig, Tracker, Tree, given_ids, grow
from molmoact_ros.reasoning.answer import Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar

FIRST_GUESS, LONGEST_GUESS = 2, 100  # values drafted in a row: initial and maximum
NOTHING = AnswerCache()


class CancelledStep(Exception):
    """Raised when the caller cancels the step."""


@dataclass
class SegmentCounts:
    """Cost of one segment of an answer: forward passes, time in s, tokens drafted (`guessed`) and accepted (`held`)."""

    passes: int = 0
    seconds: float = 0.0
    guessed: int = 0
    held: int = 0


@dataclass
class DecodeCounts:
    """Cost of one answer by segment. tokens: number of tokens of the whole answer."""

    tokens: int = 0
    segments: dict[Segment, SegmentCounts] = field(default_factory=lambda: {s: SegmentCounts() for s in Segment})

    @property
    def passes(self) -> int:
        """Forward passes of the decoder, without the prefill."""
        return sum(counts.passes for counts in self.segments.values())


class Decoder(Protocol):
    """Interface of the decoder: one growing sequence, and drafted tokens after it that are accepted or dropped."""

    def feed(self, ids: Sequence[int], tree: Tree) -> None:
        """Run one pass: append `ids`, at least one, to the sequence, and evaluate the tree's tokens after them."""

    def choose(self, node: int, allowed: np.ndarray) -> int:
        """The best of `allowed`, int64 [k], after node `node` of the tree; -1: after the sequence's last token."""

    def keep(self, nodes: Sequence[int]) -> None:
        """Accept these nodes, a branch from the tree's root, into the sequence; drop the others."""


class _Answer:
    """An answer in progress: its tokens, the grammar's state, and the tokens not yet fed to the decoder."""

    def __init__(self, grammar: AnswerGrammar, lasts: Sequence[AnswerCache], given: AnswerCache) -> None:
        self.grammar, self.state = grammar, grammar.start
        self.given = given if given.values or given.turns else None
        self.tokens: list[int] = []
        self.pending: list[int] = []
        self.tracker = Tracker(grammar, lasts)
        self._force()

    def take(self, token: int) -> None:
        """Append a chosen token and all tokens after it that the grammar forces or that are prefilled."""
        self._append(token)
        self._force()

    def _append(self, token: int) -> None:
        self.tracker.note(self.state, token)
        self.state = self.grammar.advance(self.state, token)
        self.tokens.append(token)
        self.pending.append(token)

    def _force(self) -> None:
        while ids := self.grammar.forced_run(self.state) or self._prefilled():
            for token in ids:
                self._append(token)

    def _prefilled(self) -> Sequence[int]:
        return () if self.given is None else given_ids(self.grammar, self.state, self.given)

    @property
    def ended(self) -> bool:
        return self.grammar.ended(self.state)


def decode(
    decoder: Decoder, grammar: AnswerGrammar, lasts: Sequence[AnswerCache], counts: DecodeCounts,
    config: DraftConfig = NARROW, given: AnswerCache = NOTHING, wanted: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Segment, list[int], AnswerCache]]:  # fmt: skip
    """Decode one answer after the prompt that `decoder` already holds.

    Yields (completed segment, tokens so far, their values) at each change of segment; the last is END, with all tokens.

    Args:
        decoder: holds the prompt and its key-value cache.
        grammar: constrains the answer.
        counts: receives the cost of each segment.
        lasts: previous answers to draft from, newest first; they affect the speed, never the answer.
        config: how wide a pass may be.
        given: prefilled parts of the answer that the model does not generate.
        wanted: called before every pass.

    Raises CancelledStep once `wanted` returns False.
    """
    answer, reach = (
        _Answer(grammar, lasts, given),
        dict.fromkeys(Segment, LONGEST_GUESS if config.patient else FIRST_GUESS),
    )
    if not answer.pending:  # no token is forced at the start
        answer.take(decoder.choose(-1, grammar.allowed(answer.state)))
    while not answer.ended:
        if not wanted():
            raise CancelledStep
        began, segment = time.perf_counter(), grammar.segment(answer.state)
        tree = grow(answer.tracker, answer.state, config, reach[segment])
        held = _advance(decoder, answer, tree)
        # A draft rejected early wastes a wide pass: shorten the next one, and lengthen it after full acceptance.
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
    """Run one pass over the pending tokens and the tree; accept the nodes that greedy decoding chooses.

    Returns the number of accepted nodes.
    """
    fed, answer.pending = answer.pending, []
    decoder.feed(fed, tree)
    branch: list[int] = []
    node = -1
    while not answer.ended:
        answer.take(decoder.choose(node, answer.grammar.allowed(answer.state)))
        # The chosen token and the forced tokens after it may be in the tree already.
        while answer.pending and (node, answer.pending[0]) in tree.children:
            node = tree.children[node, answer.pending.pop(0)]
            branch.append(node)
        if answer.pending:
            break
    decoder.keep(branch)
    return len(branch)
