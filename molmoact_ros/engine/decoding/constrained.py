"""Grammar-constrained greedy decoding.

What the grammar forces rides along in the next pass, and a tree of guesses (draft.py) is checked many tokens at a time.
The answer is the same, token for token, as plain greedy decoding under the same grammar.
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

FIRST_GUESS, LONGEST_GUESS = 2, 100  # values guessed in a row
NOTHING = AnswerCache()


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


class _Answer:
    """An answer as it grows: its tokens, the grammar's state, and what has not been fed yet."""

    def __init__(self, grammar: AnswerGrammar, lasts: Sequence[AnswerCache], given: AnswerCache) -> None:
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
    decoder: Decoder, grammar: AnswerGrammar, lasts: Sequence[AnswerCache], counts: DecodeCounts,
    config: DraftConfig = NARROW, given: AnswerCache = NOTHING, wanted: Callable[[], bool] = lambda: True,
) -> Iterator[tuple[Segment, list[int], AnswerCache]]:  # fmt: skip
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
