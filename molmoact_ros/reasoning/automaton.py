"""Finite automata over token ids: built with several ways on for the same token, walked with one."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep, Segment

# Where states of several segments merge, the token that follows belongs to the first of these.
_ORDER = (Segment.ACTION, Segment.TRACE, Segment.DEPTH, Segment.TEMPLATE, Segment.END)


class Builder:
    """Collects states and paths of ids between them; one state may have several ways on for one id."""

    def __init__(self) -> None:
        self.segments: list[Segment] = []
        self.moves: list[list[tuple[int, int]]] = []
        self.silent: dict[int, list[int]] = {}  # states that are reached without a token

    def state(self, segment: Segment) -> int:
        """A new state; the token after it belongs to `segment`."""
        self.segments.append(segment)
        self.moves.append([])
        return len(self.segments) - 1

    def path(self, start: int, ids: Sequence[int], goal: int) -> None:
        """A way from `start` to `goal` along `ids`; new states between them belong to the start's segment."""
        if not ids:
            self.silent.setdefault(start, []).append(goal)
            return
        for token in ids[:-1]:
            following = self.state(self.segments[start])
            self.moves[start].append((token, following))
            start = following
        self.moves[start].append((ids[-1], goal))


class Automaton:
    """The same language with one way on for each id (subset construction). States are 0, the start, and up.

    A state is worked out when it is first asked for: an answer meets few of the many thousand that there are.
    """

    def __init__(self, builder: Builder, start: int) -> None:
        self._builder = builder
        self._numbers: dict[frozenset[int], int] = {}
        self._members: list[frozenset[int]] = []
        self._moves: list[dict[int, int] | None] = []
        self._forced: dict[int, list[int]] = {}
        self._allowed: dict[tuple[int, ...], np.ndarray] = {}
        self._allowed_of: dict[int, np.ndarray] = {}
        self._number([start])

    def _number(self, states: Sequence[int]) -> int:
        """The number of the state that stands for `states` and all that follow them silently."""
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
        """The state that each allowed id leads to; none at the end."""
        found = self._moves[state]
        if found is None:
            targets: dict[int, list[int]] = {}
            for member in sorted(self._members[state]):
                for token, target in self._builder.moves[member]:
                    targets.setdefault(token, []).append(target)
            found = self._moves[state] = {token: self._number(targets[token]) for token in sorted(targets)}
        return found

    def members(self, state: int) -> frozenset[int]:
        """The builder's states that this one stands for."""
        return self._members[state]

    def segment(self, state: int) -> Segment:
        """The part of the answer that the next token belongs to."""
        segments = {self._builder.segments[m] for m in self._members[state]}
        return next(segment for segment in _ORDER if segment in segments)

    def allowed(self, state: int) -> np.ndarray:
        """Ids that may come next, int64 [k], ascending; one is forced, none is the end. Equal sets are one array."""
        if state not in self._allowed_of:
            ids = tuple(self.moves(state))
            self._allowed_of[state] = self._allowed.setdefault(ids, np.array(ids, dtype=np.int64))
        return self._allowed_of[state]

    def forced_run(self, state: int) -> list[int]:
        """The ids that must come next, up to the first real choice or the end. Do not change the list."""
        if state not in self._forced:
            run, at = [], state
            while len(moves := self.moves(at)) == 1:
                ((token, at),) = moves.items()
                run.append(token)
            self._forced[state] = run
        return self._forced[state]

    def advance(self, state: int, token: int) -> int:
        """The state after `token`; raises RefusedStep where it is not allowed."""
        try:
            return self.moves(state)[token]
        except KeyError:
            raise RefusedStep(f"token {token} is not allowed in state {state} of the answer; ask again") from None
