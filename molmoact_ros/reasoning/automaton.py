"""Finite automata over token ids: built as a nondeterministic automaton, walked as the equivalent deterministic one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep, Segment

# Where states of several segments merge, the next token belongs to the first of these.
_ORDER = (Segment.ACTION, Segment.TRACE, Segment.DEPTH, Segment.TEMPLATE, Segment.END)


class Builder:
    """Builds a nondeterministic automaton: a state may have several transitions for one id."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.moves: list[list[tuple[int, int]]] = []
        self.silent: dict[int, list[int]] = {}  # epsilon transitions

    def state(self, segment: Segment) -> int:
        """Add a state; the token after it belongs to `segment`."""
        self.segments.append(segment)
        self.moves.append([])
        return len(self.segments) - 1

    def path(self, start: int, ids: Sequence[int], goal: int) -> None:
        """Add a path from `start` to `goal` along `ids`; the states between them get the start's segment."""
        if not ids:
            self.silent.setdefault(start, []).append(goal)
            return
        for token in ids[:-1]:
            following = self.state(self.segments[start])
            self.moves[start].append((token, following))
            start = following
        self.moves[start].append((ids[-1], goal))


class Automaton:
    """The equivalent deterministic automaton (subset construction). States count from 0, the start.

    States are built lazily, since an answer visits few of many thousands.
    """

    def __init__(self, builder: Builder, start: int) -> None:
        self._builder = builder
        self._numbers: dict[frozenset[int], int] = {}
        self._members: list[frozenset[int]] = []
        self._moves: list[dict[int, int] | None] = []
        self._forced: dict[int, list[int]] = {}
        self._allowed: dict[tuple[int, ...], np.ndarray] = {}
        self._allowed_of: dict[int, np.ndarray] = {}
        self._segments: dict[int, Segment] = {}
        self._number([start])

    def _number(self, states: Sequence[int]) -> int:
        """The number of the state that stands for the epsilon closure of `states`."""
        members, waiting = set(states), list(states)
        while waiting:
            for state in self._builder.silent.get(waiting.pop(), ()):
                if state not in members:
                    members.add(state)
                    waiting.append(state)
        key = frozenset(members)
        if key not in self._numbers:
            self._numbers[key] = len(self._members)
            self._members.append(key)
            self._moves.append(None)
        return self._numbers[key]

    def moves(self, state: int) -> dict[int, int]:
        """The transitions of a state: the next state for each allowed id. Empty at the end."""
        found = self._moves[state]
        if found is None:
            targets: dict[int, list[int]] = {}
            for member in sorted(self._members[state]):
                for token, target in self._builder.moves[member]:
                    targets.setdefault(token, []).append(target)
            found = self._moves[state] = {token: self._number(targets[token]) for token in sorted(targets)}
        return found

    def members(self, state: int) -> frozenset[int]:
        """The builder's states that this state stands for."""
        return self._members[state]

    def segment(self, state: int) -> Segment:
        """The part of the answer that the next token belongs to."""
        if state not in self._segments:
            segments = {self._builder.segments[m] for m in self._members[state]}
            self._segments[state] = next(segment for segment in _ORDER if segment in segments)
        return self._segments[state]

    def allowed(self, state: int) -> np.ndarray:
        """Allowed next ids, int64 [k], ascending. One id is forced; none means the end. Equal sets share one array."""
        if state not in self._allowed_of:
            ids = tuple(self.moves(state))
            self._allowed_of[state] = self._allowed.setdefault(ids, np.array(ids, dtype=np.int64))
        return self._allowed_of[state]

    def forced_run(self, state: int) -> list[int]:
        """The forced ids up to the first real choice or the end. Do not modify the list."""
        if state not in self._forced:
            run, at = [], state
            while len(moves := self.moves(at)) == 1:
                ((token, at),) = moves.items()
                run.append(token)
            self._forced[state] = run
        return self._forced[state]

    def advance(self, state: int, token: int) -> int:
        """The state after `token`. Raises RefusedStep if the token is not allowed."""
        try:
            return self.moves(state)[token]
        except KeyError:
            raise RefusedStep(f"token {token} is not allowed in state {state} of the answer; ask again") from None
