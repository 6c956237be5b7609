"""The answer's grammar as a finite automaton over token ids: every answer is well formed, or the step is refused."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from molmoact_ros.reasoning.actions import ACTION_SYMBOLS, NormStats, values_from_bins
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.depth_codes import DEPTH_TOKENS, GRID
from molmoact_ros.reasoning.phrasing import NEXT_GROUP, NEXT_VALUE, Phrasing
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS

Encode = Callable[[str], list[int]]
Ids = tuple[int, ...]

_COORDINATES = tuple(str(n) for n in range(MAX_COORDINATE + 1))


class _Automaton:
    """States in the order they are made: from the end of the answer to its start, so a target always exists already."""

    def __init__(self) -> None:
        self.moves: list[dict[int, int]] = []
        self.segments: list[Segment] = []
        self.allowed: list[np.ndarray] = []
        self.forced: list[list[int]] = []
        self._shared: dict[Ids, np.ndarray] = {}

    def add(self, moves: dict[int, int], segment: Segment) -> int:
        ids = tuple(sorted(moves))
        only = ids[0] if len(ids) == 1 else None
        self.moves.append(moves)
        self.segments.append(segment)
        self.allowed.append(self._shared.setdefault(ids, np.array(ids, dtype=np.int64)))
        self.forced.append([] if only is None else [only, *self.forced[moves[only]]])
        return len(self.moves) - 1

    def choice(self, options: Iterable[tuple[Ids, int]], segment: Segment) -> int:
        """A state from which each option's ids lead to that option's state; shared beginnings are shared (a trie)."""
        branches: dict[int, list[tuple[Ids, int]]] = {}
        moves: dict[int, int] = {}
        for ids, target in options:
            if ids:
                branches.setdefault(ids[0], []).append((ids[1:], target))
            else:  # one option ends where another goes on ("1", "12"): what follows the first one is allowed here too
                moves.update(self.moves[target])
        if moves.keys() & branches.keys():
            raise ValueError("the tokenizer makes the answer's grammar ambiguous")
        for token, rest in branches.items():
            ended = len(rest) == 1 and not rest[0][0]
            moves[token] = rest[0][1] if ended else self.choice(rest, segment)
        return self.add(moves, segment)


@dataclass(frozen=True)
class _Value:
    """A slot of the answer: the ids of each value, tokenised with the text before it."""

    of_ids: dict[Ids, int]
    longest: int

    @classmethod
    def compile(cls, texts: Iterable[str], encode: Encode) -> _Value:
        of_ids = {tuple(encode(text)): value for value, text in enumerate(texts)}
        return cls(of_ids, max(map(len, of_ids)))

    def options(self, target: int) -> list[tuple[Ids, int]]:
        return [(ids, target) for ids in self.of_ids]


class _Unfinished(Exception):
    """The ids end before the part that is being read does."""


class _Reader:
    """Reads texts and values off ids that are known to fit the grammar; raises _Unfinished where they end."""

    def __init__(self, ids: Sequence[int]) -> None:
        self.ids: Ids = tuple(ids)
        self.at = 0

    def take(self, text: Ids) -> bool:
        found = self.ids[self.at : self.at + len(text)] == text
        self.at += len(text) if found else 0
        return found

    def expect(self, text: Ids) -> None:
        if not self.take(text):
            raise _Unfinished

    def value(self, slot: _Value) -> int:
        for length in range(slot.longest, 0, -1):
            ids = self.ids[self.at : self.at + length]
            if len(ids) == length and ids in slot.of_ids:
                self.at += length
                return slot.of_ids[ids]
        raise _Unfinished


class AnswerGrammar:
    """One form of answer as an automaton: integer states, `start` to `end`, one token a move.

    cameras, steered: the prompt that is answered (see `prompts.prompt`). steps: N actions in a chunk, of
    `stats.dimensions` values each. encode: text -> token ids without special tokens. eos_id: the token that ends it.
    Raises ValueError for a tokenizer whose ids make the form ambiguous.
    """

    def __init__(
        self, encode: Encode, eos_id: int, stats: NormStats, *, cameras: int, steered: bool = False, steps: int = 8
    ) -> None:
        self.stats = stats
        self.steps = steps
        self.steered = steered
        phrasing = Phrasing.of(cameras, steered, steps)
        self._eos: Ids = (eos_id,)
        self._end_text = tuple(encode(phrasing.end))
        self._to_actions = tuple(encode(phrasing.to_actions))
        self._next_group = tuple(encode(NEXT_GROUP))
        self._first_symbol = _Value.compile(ACTION_SYMBOLS, encode)
        self._next_symbol = _Value.compile((NEXT_VALUE + s for s in ACTION_SYMBOLS), encode)
        if not steered:
            self._to_depth = tuple(encode(phrasing.to_depth or ""))
            self._depth = _Value.compile(DEPTH_TOKENS, encode)
            self._to_trace = tuple(encode(phrasing.to_trace or ""))
            self._x = _Value.compile(_COORDINATES, encode)
            self._y = _Value.compile((NEXT_VALUE + n for n in _COORDINATES), encode)
        self._automaton = _Automaton()
        self.end = self._automaton.add({}, Segment.END)
        self.start = self._build()

    # -- the automaton -------------------------------------------------------------------------------------------

    @property
    def states(self) -> int:
        """Number of states; they are 0..states-1."""
        return len(self._automaton.moves)

    def allowed(self, state: int) -> np.ndarray:
        """Ids that may come next, int64 [k], ascending; one id is forced, none is the end. Equal sets are one array."""
        return self._automaton.allowed[state]

    def segment(self, state: int) -> Segment:
        """The part of the answer that the next token belongs to."""
        return self._automaton.segments[state]

    def forced_run(self, state: int) -> list[int]:
        """The ids that must come next, up to the first real choice or the end. Do not change the list."""
        return self._automaton.forced[state]

    def advance(self, state: int, token: int) -> int:
        """The state after `token`; raises RefusedStep where the grammar does not allow it."""
        try:
            return self._automaton.moves[state][token]
        except KeyError:
            raise RefusedStep(f"token {token} is not allowed in state {state} of the answer; ask again") from None

    def walk(self, state: int, ids: Iterable[int]) -> list[int]:
        """The states after each of `ids`, up to the first id that is not allowed (so a draft is cut to what fits)."""
        states = []
        for token in ids:
            following = self._automaton.moves[state].get(token)
            if following is None:
                break
            states.append(state := following)
        return states

    def _build(self) -> int:
        """Make all states, from the end of the answer to its start, and return the start."""
        add = self._automaton.choice
        state = add([(self._eos, self.end)], Segment.END)
        state = add([(self._end_text, state)], Segment.TEMPLATE)
        for step in reversed(range(self.steps)):
            for _ in range(self.stats.dimensions - 1):
                state = add(self._next_symbol.options(state), Segment.ACTION)
            state = add(self._first_symbol.options(state), Segment.ACTION)
            if step:
                state = add([(self._next_group, state)], Segment.ACTION)
        if self.steered:
            return add([(self._to_actions, state)], Segment.TEMPLATE)
        ending = (self._to_actions, state)
        state = add([ending], Segment.TEMPLATE)
        for point in reversed(range(MAX_POINTS)):
            state = add(self._y.options(state), Segment.TRACE)
            state = add(self._x.options(state), Segment.TRACE)
            if point:
                state = add([ending, (self._next_group, state)], Segment.TRACE)
        state = add([(self._to_trace, state)], Segment.TEMPLATE)
        for _ in range(GRID[0] * GRID[1]):
            state = add(self._depth.options(state), Segment.DEPTH)
        return add([(self._to_depth, state)], Segment.TEMPLATE)

    # -- reading -------------------------------------------------------------------------------------------------

    def parse(self, ids: Sequence[int]) -> Reasoning:
        """The whole answer (with its end token); raises RefusedStep for anything that is not exactly one answer."""
        reasoning = self.parse_partial(ids)
        if not reasoning.complete:
            raise RefusedStep(
                f"the answer stops after {len(ids)} tokens, before its end; the step is dropped, ask again"
            )
        return reasoning

    def parse_partial(self, ids: Sequence[int]) -> Reasoning:
        """The parts that are complete in the beginning `ids` of an answer; raises RefusedStep where it is malformed."""
        states = self.walk(self.start, ids)
        if len(states) != len(ids):
            raise RefusedStep(f"the answer breaks its form at token {len(states)}; the step is dropped, ask again")
        reader, depth, trace, actions = _Reader(ids), None, None, None
        try:
            if not self.steered:
                depth = self._read_depth(reader)
                trace = self._read_trace(reader)
            actions = self._read_actions(reader)
        except _Unfinished:
            pass
        return Reasoning(depth, trace, actions, complete=bool(states) and states[-1] == self.end)

    def _read_depth(self, reader: _Reader) -> np.ndarray:
        reader.expect(self._to_depth)
        codes = [reader.value(self._depth) for _ in range(GRID[0] * GRID[1])]
        return np.array(codes, dtype=np.uint8).reshape(GRID)

    def _read_trace(self, reader: _Reader) -> np.ndarray:
        reader.expect(self._to_trace)
        points = [(reader.value(self._x), reader.value(self._y))]
        while len(points) < MAX_POINTS and reader.take(self._next_group):
            points.append((reader.value(self._x), reader.value(self._y)))
        reader.expect(self._to_actions)
        return np.array(points, dtype=np.int64)

    def _read_actions(self, reader: _Reader) -> np.ndarray:
        if self.steered:
            reader.expect(self._to_actions)
        rows = []
        for step in range(self.steps):
            if step:
                reader.expect(self._next_group)
            first = reader.value(self._first_symbol)
            rows.append([first, *(reader.value(self._next_symbol) for _ in range(self.stats.dimensions - 1))])
        reader.expect(self._end_text)
        return self.stats.unnormalise(values_from_bins(np.array(rows)))
