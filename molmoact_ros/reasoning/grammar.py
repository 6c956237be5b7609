"""The grammar of answers over token ids: every answer is well formed, or the step is refused.

An answer alternates fixed text and slots (a depth code, a coordinate, an action symbol). A byte-pair tokenizer merges
across the boundary between them, so token boundaries depend on the neighbours. The grammar therefore cuts fixed text
where the tokenizer always splits it, and encodes the pieces next to a slot together with each of the slot's values. It
allows only the tokenizer's own spelling, since the model was trained on no other.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep, Segment
from molmoact_ros.reasoning.answer_parser import AnswerReader
from molmoact_ros.reasoning.answer_templates import NEXT_GROUP, NEXT_VALUE, Phrasing
from molmoact_ros.reasoning.automaton import Automaton, Builder
from molmoact_ros.reasoning.depth_tokens import DEPTH_TOKENS, GRID
from molmoact_ros.reasoning.tokens import TextCodec
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS

Values = tuple[str, ...]
Ids = tuple[int, ...]
Key = tuple[Segment, int]
"""The segment of a value and its index in that segment."""
Exit = tuple[str, "_Slot | None", Segment]
"""Fixed text, the slot after it (None: the end of the answer), and the segment of the text."""

_COORDINATES: Values = tuple(str(n) for n in range(MAX_COORDINATE + 1))
_NOTHING: Values = ("",)
_SAMPLES = 40  # random pairs of values that verify a cut


class _Cutter:
    """Finds where the tokenizer splits the fixed text between two slots, whatever their values."""

    def __init__(self, codec: TextCodec) -> None:
        self._codec = codec
        self._cuts: dict[tuple[Values, str, Values], tuple[str, str, str]] = {}

    def cut(self, before: Values, text: str, after: Values) -> tuple[str, str, str]:
        """Split `text` into the part merged with the value before it, the part on its own, and the part merged with
        the value after it."""
        key = (before, text, after)
        if key not in self._cuts:
            self._cuts[key] = self._find(before, text, after)
        return self._cuts[key]

    def _find(self, before: Values, text: str, after: Values) -> tuple[str, str, str]:
        one_before, one_after = [(value, after[0]) for value in before], [(before[0], value) for value in after]
        tail = next((i for i in range(len(text) + 1) if self._splits(one_before, text, i)), None)
        if tail is None:
            raise ValueError(f"the tokenizer makes the answer's grammar ambiguous around {text!r}")
        # The search runs left from the end; the cut at `tail` is its last candidate.
        head = next((i for i in range(len(text), tail, -1) if self._splits(one_after, text, i)), tail)
        rng = np.random.default_rng(0)
        some = [(str(rng.choice(before)), str(rng.choice(after))) for _ in range(_SAMPLES)]
        if not (self._splits(some, text, tail) and self._splits(some, text, head)):
            raise ValueError(f"the tokenizer makes the answer's grammar ambiguous around {text!r}")
        return text[:tail], text[tail:head], text[head:]

    def _splits(self, pairs: Iterable[tuple[str, str]], text: str, at: int) -> bool:
        """Whether the tokenizer splits `text` at index `at` for each pair of values around it."""
        encode = self._codec.encode
        left, right = text[:at], text[at:]
        return all(encode(a + text + b) == encode(a + left) + encode(right + b) for a, b in pairs)


@dataclass(frozen=True)
class Slot:
    """The start of a value: which value it is, and how each candidate is spelt.

    key: the segment and the value's index in it (depth codes 0..99; coordinates 2 * point + axis; actions
    step * dimensions + dimension). spellings: the ids of each candidate, in order, including the fixed text that it
    shares tokens with. values: the candidate's index for each spelling.
    """

    key: Key
    spellings: tuple[Ids, ...]
    values: dict[Ids, int]


class _Slot:
    """A slot for one of several values, and the fixed texts that may follow it, each with the next slot."""

    def __init__(self, grammar: AnswerGrammar, values: Values, key: Key, exits: Sequence[Exit]) -> None:
        self.values, self.key, self._grammar = values, key, grammar
        self._entries: dict[str, int] = {}
        builder, self._behind = grammar.builder, []
        for text, target, part in exits:
            tail, middle, head = grammar.cutter.cut(values, text, target.values if target else _NOTHING)
            behind = builder.state(part)
            goal = target.entry(head) if target else grammar.finish
            builder.path(behind, grammar.codec.encode(middle), goal)
            self._behind.append((tail, behind))

    def entry(self, head: str) -> int:
        """The state before the slot from which `head` and then the value follow."""
        if head not in self._entries:
            start = self._entries[head] = self._grammar.builder.state(self.key[0])
            for tail, behind in self._behind:
                for ids in self._grammar.spellings(self.values, head, tail)[0]:
                    self._grammar.builder.path(start, ids, behind)
            if len(self.values) > 1:
                spelt = self._grammar.spellings(self.values, head, self._behind[0][0])
                self._grammar.slots[start] = Slot(self.key, *spelt)
        return self._entries[head]


class AnswerGrammar:
    """One or more answer forms as an automaton over token ids: integer states from `start` to the end.

    The model chooses among the forms token by token. The grammar masks its logits, drafts forced tokens and parses
    the result.

    Args:
        codec: the checkpoint's tokenizer.
        eos_id: the token that ends every answer.
        stats: gives the number of action dimensions D and un-normalises the actions.
        forms: the answer forms, all steered or none.

    Raises ValueError for a tokenizer that cannot spell the forms or makes them ambiguous. Greedy decoding is:

        state, ids = grammar.start, []
        while not grammar.ended(state):
            allowed = grammar.allowed(state)  # int64 [k]
            ids.append(int(allowed[logits(ids)[allowed].argmax()]))
            state = grammar.advance(state, ids[-1])
        reasoning = grammar.parse(ids)
    """

    def __init__(self, codec: TextCodec, eos_id: int, stats: NormStats, forms: Sequence[Phrasing]) -> None:
        self.codec, self.stats, self.forms = codec, stats, tuple(forms)
        self.eos_id, self._reader = eos_id, AnswerReader(forms, stats)
        self.builder, self.cutter = Builder(), _Cutter(codec)
        self.slots: dict[int, Slot] = {}
        self._slot_at: dict[int, Slot | None] = {}
        self._spellings: dict[tuple[Values, str, str], tuple[tuple[Ids, ...], dict[Ids, int]]] = {}
        for values in (ACTION_SYMBOLS, *([] if self.steered else [DEPTH_TOKENS, _COORDINATES])):
            self._check_spelling(values)
        finish, end = self.builder.state(Segment.END), self.builder.state(Segment.END)
        self.builder.path(finish, [eos_id], end)
        self.finish = finish
        opening = [self._opening(form) for form in self.forms]
        self._automaton = Automaton(self.builder, _Slot(self, _NOTHING, (Segment.TEMPLATE, 0), opening).entry(""))
        self.start = 0
        self.segment, self.allowed = self._automaton.segment, self._automaton.allowed
        self.forced_run, self.advance = self._automaton.forced_run, self._automaton.advance
        self.members = self._automaton.members

    @property
    def steered(self) -> bool:
        """Whether the answers follow a drawn trace and so hold actions only."""
        return self.forms[0].steered

    @property
    def ids(self) -> np.ndarray:
        """Every id that may occur in an answer, int64 [n], ascending."""
        return np.unique([token for moves in self.builder.moves for token, _ in moves])

    def ended(self, state: int) -> bool:
        """Whether the answer is complete at `state`."""
        return not len(self.allowed(state))

    def slot(self, state: int) -> Slot | None:
        """The slot that begins at `state`, or None."""
        if state not in self._slot_at:
            members = self._automaton.members(state)
            self._slot_at[state] = next((self.slots[m] for m in members if m in self.slots), None)
        return self._slot_at[state]

    def spellings(self, values: Values, head: str, tail: str) -> tuple[tuple[Ids, ...], dict[Ids, int]]:
        """The ids of each value between `head` and `tail`, and the index of each spelling."""
        key = (values, head, tail)
        if key not in self._spellings:
            ids = tuple(tuple(self.codec.encode(head + value + tail)) for value in values)
            self._spellings[key] = ids, {spelt: value for value, spelt in enumerate(ids)}
        return self._spellings[key]

    def walk(self, state: int, ids: Iterable[int]) -> list[int]:
        """The states after each of `ids`, up to the first id that is not allowed (the valid prefix of a draft)."""
        states = []
        for token in ids:
            following = self._automaton.moves(state).get(token)
            if following is None:
                break
            states.append(state := following)
        return states

    def parse(self, ids: Sequence[int]) -> Reasoning:
        """Parse a whole answer (with its end token). Raises RefusedStep for anything but exactly one answer."""
        reasoning = self.parse_partial(ids)
        if not reasoning.complete:
            raise RefusedStep(
                f"the answer stops after {len(ids)} tokens, before its end; the step is dropped, ask again"
            )
        return reasoning

    def parse_partial(self, ids: Sequence[int]) -> Reasoning:
        """Parse the complete parts of an answer's prefix `ids`. Raises RefusedStep for a malformed prefix."""
        states = self.walk(self.start, ids)
        if len(states) != len(ids):
            raise RefusedStep(f"the answer breaks its form at token {len(states)}; the step is dropped, ask again")
        if states and self.ended(states[-1]):
            return self._reader.read(self.codec.decode(ids[:-1]))
        return self._reader.read_beginning(self.codec.decode(ids))

    # -- the automaton, built from the end of an answer to its beginning --------------------------------------------

    def _check_spelling(self, values: Values) -> None:
        spelt = {value: tuple(self.codec.encode(value)) for value in values}
        strange = next((value for value, ids in spelt.items() if self.codec.decode(ids) != value), None)
        if strange is not None or len(set(spelt.values())) != len(values):
            raise ValueError(
                f"the tokenizer makes the answer's grammar ambiguous: it cannot spell {strange or values!r}"
            )

    def _opening(self, form: Phrasing) -> Exit:
        actions = self._actions(form)
        if form.to_depth is None or form.to_trace is None:
            return form.to_actions, actions, Segment.TEMPLATE
        following: Exit = (form.to_actions, actions, Segment.TEMPLATE)
        if form.to_second_trace is not None:
            following = (form.to_second_trace, self._trace(following, 2 * MAX_POINTS), Segment.TEMPLATE)
        exit_: Exit = (form.to_trace, self._trace(following, 0), Segment.TEMPLATE)
        for cell in reversed(range(GRID[0] * GRID[1])):
            exit_ = ("", _Slot(self, DEPTH_TOKENS, (Segment.DEPTH, cell), [exit_]), Segment.DEPTH)
        return form.to_depth, exit_[1], Segment.TEMPLATE

    def _actions(self, form: Phrasing) -> _Slot:
        exit_: Exit = (form.end, None, Segment.TEMPLATE)
        for place in reversed(range(form.steps * self.stats.dimensions)):
            slot = _Slot(self, ACTION_SYMBOLS, (Segment.ACTION, place), [exit_])
            begins_row = place % self.stats.dimensions == 0
            exit_ = (NEXT_GROUP if begins_row else NEXT_VALUE, slot, Segment.ACTION)
        return slot

    def _trace(self, following: Exit, first: int) -> _Slot:
        """The slot of a trace's first coordinate. first: the index of that coordinate in the segment."""
        exits = [following]
        for place in reversed(range(first, first + 2 * MAX_POINTS, 2)):
            y = _Slot(self, _COORDINATES, (Segment.TRACE, place + 1), exits)
            x = _Slot(self, _COORDINATES, (Segment.TRACE, place), [(NEXT_VALUE, y, Segment.TRACE)])
            exits = [following, (NEXT_GROUP, x, Segment.TRACE)]
        return x
