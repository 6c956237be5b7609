"""Speculative decoding: drafts the continuation of an answer as a tree of tokens that one forward pass verifies.

Consecutive frames are similar, so the last answer drafts this one; within a chunk, an action drafts the next. The tree
can also hold the neighbours of a drafted value, so that one pass still finds a value that changed slightly.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from molmoact_ros.reasoning.answer import Segment
from molmoact_ros.reasoning.grammar import AnswerGrammar, Key, Slot


@dataclass(frozen=True)
class DraftConfig:
    """How much a pass may speculate.

    nodes: maximum drafted tokens in a pass. around: whether the tree includes the neighbours of an uncertain value.
    patient: whether the draft length stays long after a rejection. measured: whether encoding the measured depth pays
    off as a second draft of the depth codes.

    A CPU pays for every token; a GPU reads all its weights for one token as for a hundred.
    """

    nodes: int
    around: bool
    patient: bool
    measured: bool


NARROW = DraftConfig(nodes=24, around=False, patient=False, measured=False)
WIDE = DraftConfig(nodes=112, around=True, patient=True, measured=True)  # 128 with the known tokens before the tree


@dataclass
class AnswerCache:
    """The content of an answer, for drafting later ones.

    values: the index of each value by its key. held: the keys whose draft was correct. turns: the token that followed
    in each state where no value begins.
    """

    values: dict[Key, int] = field(default_factory=dict)
    held: set[Key] = field(default_factory=set)
    turns: dict[int, int] = field(default_factory=dict)

    def reasoning(self, grammar: AnswerGrammar) -> AnswerCache:
        """The part before the actions."""
        values = {key: value for key, value in self.values.items() if key[0] is not Segment.ACTION}
        turns = {state: token for state, token in self.turns.items() if grammar.segment(state) is not Segment.ACTION}
        return AnswerCache(values, turns=turns)


def cache_of_depth(codes: np.ndarray) -> AnswerCache:
    """The cache of an answer that holds only these depth codes, integers [10, 10]."""
    return AnswerCache({(Segment.DEPTH, cell): int(code) for cell, code in enumerate(codes.flat)})


class Tracker:
    """Follows an answer token by token and records its values."""

    def __init__(self, grammar: AnswerGrammar, lasts: Sequence[AnswerCache]) -> None:
        """lasts: the previous answers, newest first."""
        self.grammar, self.lasts, self.said = grammar, list(lasts), AnswerCache()
        self.slot: Slot | None = None  # the value in progress, and its ids so far
        self.ids: tuple[int, ...] = ()
        self._ends = self._last_action()

    def _last_action(self) -> dict[int, int]:
        """The values of the previous chunk's last action by their dimension."""
        values, size = self.lasts[0].values if self.lasts else {}, self.grammar.stats.dimensions
        places = sorted(place for segment, place in values if segment is Segment.ACTION)
        return {place % size: values[Segment.ACTION, place] for place in places}

    def note(self, state: int, token: int) -> None:
        """Record that `token` follows in `state`."""
        slot = self.grammar.slot(state)
        if slot is not None:
            self.slot, self.ids = slot, ()
        else:
            self.said.turns[state] = token
        if self.slot is None:
            return
        self.ids += (token,)
        value = self.slot.values.get(self.ids)
        if value is not None:
            key = self.slot.key
            if value == self.guess(key, self.said.values):
                self.said.held.add(key)
            else:
                self.said.held.discard(key)
            self.said.values[key] = value

    def guess(self, key: Key, said: Mapping[Key, int]) -> int | None:
        """Index of the most likely value for `key`, if there is one. said: the answer's values so far."""
        segment, place = key
        if segment is Segment.ACTION:
            size = self.grammar.stats.dimensions
            return said.get((segment, place - size)) if place >= size else self._ends.get(place)
        for last in self.lasts:
            if key in last.values:
                return last.values[key]
        return None

    def guesses(self, key: Key, said: Mapping[Key, int]) -> list[int]:
        """Indices of the drafted values for `key`, most likely first: of actions one, else those of all answers."""
        if key[0] is not Segment.ACTION:
            return list(dict.fromkeys(last.values[key] for last in self.lasts if key in last.values))
        guess = self.guess(key, said)
        return [] if guess is None else [guess]


@dataclass
class Tree:
    """A tree of drafted tokens. parents[i]: the node before node i; -1: the last known token. children: the node of
    each (parent, token)."""

    tokens: list[int] = field(default_factory=list)
    parents: list[int] = field(default_factory=list)
    children: dict[tuple[int, int], int] = field(default_factory=dict)

    @property
    def is_chain(self) -> bool:
        """Whether the tree has a single branch."""
        return all(parent == i - 1 for i, parent in enumerate(self.parents))

    def add_node(self, parent: int, token: int) -> int:
        """The node of `token` after `parent`; it is added if missing."""
        if (parent, token) not in self.children:
            self.children[parent, token] = len(self.tokens)
            self.tokens.append(token)
            self.parents.append(parent)
        return self.children[parent, token]


def grow(tracker: Tracker, state: int, config: DraftConfig, reach: int) -> Tree:
    """Draft a tree of tokens for `state`, given the answer in `tracker`. reach: maximum values drafted in a row."""
    grammar, tree, node = tracker.grammar, Tree(), -1
    said = dict(tracker.said.values)
    slot, spelt = grammar.slot(state), 0
    if slot is None and tracker.slot is not None and len(grammar.allowed(state)) > 1:
        slot, spelt = tracker.slot, len(tracker.ids)  # in the middle of a value's spelling
    while len(tree.tokens) < config.nodes:
        if slot is None:
            token = _turn(tracker, state)
            if token is None:
                return tree
            node, state = tree.add_node(node, token), grammar.advance(state, token)
        else:
            ids = tracker.ids[:spelt]
            sure = slot.key in tracker.lasts[0].held if tracker.lasts else False
            if reach <= 0 or not (sure or config.around or slot.key[0] is Segment.DEPTH):
                return tree
            values = _likely(tracker, slot, ids, said, config.around)
            if not values:
                return tree
            reach -= 1
            before = node
            for token in slot.spellings[values[0]][spelt:]:
                node, state = tree.add_node(node, token), grammar.advance(state, token)
            others = values[1:] if config.around and not sure else []
            _add_branches(tree, before, [slot.spellings[value][spelt:] for value in others], config.nodes)
            said[slot.key] = values[0]
        slot, spelt = grammar.slot(state), 0
    return tree


def _turn(tracker: Tracker, state: int) -> int | None:
    """The drafted token for a state where no value begins: the forced one, or the one of a previous answer."""
    allowed = tracker.grammar.allowed(state)
    if len(allowed) == 1:
        return int(allowed[0])
    return next((last.turns[state] for last in tracker.lasts if state in last.turns), None)


def _likely(tracker: Tracker, slot: Slot, ids: tuple[int, ...], said: Mapping[Key, int], around: bool) -> list[int]:
    """Candidate values whose spelling continues after `ids`, most likely first. said: the answer's values so far.

    They are the guesses and, with `around` or inside a value, all other values of an ordered kind, nearest first.
    Inside a value, `ids` may rule out a guess already.
    """
    guess = tracker.guess(slot.key, said)
    if guess is None:
        return []
    if not (around or ids):
        return [guess]
    guesses = tracker.guesses(slot.key, said)
    order = list(guesses)
    if (around or ids) and slot.key[0] is not Segment.DEPTH:
        order += sorted(range(len(slot.spellings)), key=lambda value: abs(value - guesses[0]))
    fits = (
        value for value in order if slot.spellings[value][: len(ids)] == ids and len(slot.spellings[value]) > len(ids)
    )
    return list(dict.fromkeys(fits))


def _add_branches(tree: Tree, node: int, branches: Sequence[Sequence[int]], most: int) -> None:
    """Add branches after a node, up to `most` nodes in the tree."""
    for branch in branches:
        if len(tree.tokens) + len(branch) > most:
            return
        at = node
        for token in branch:
            at = tree.add_node(at, token)


def given_ids(grammar: AnswerGrammar, state: int, given: AnswerCache) -> tuple[int, ...]:
    """The prefilled ids that follow in `state`: a value's spelling or a single token; empty if none are prefilled."""
    slot = grammar.slot(state)
    if slot is not None:
        return slot.spellings[given.values[slot.key]] if slot.key in given.values else ()
    return (given.turns[state],) if state in given.turns else ()


def parents_mask(parents: Sequence[int]) -> np.ndarray:
    """The attention mask of a tree, bool [T, T]: each token attends to itself and its ancestors."""
    mask = np.eye(len(parents), dtype=bool)
    for i, parent in enumerate(parents):
        if parent >= 0:
            mask[i] |= mask[parent]
    return mask
