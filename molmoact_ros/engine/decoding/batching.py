"""Several robots, one engine: passes that are asked for at about the same time are made together.

Each robot's answer is decoded in a thread of its own, by itself; only the passes meet here. A pass reads all weights,
for one sequence as for eight, so what they share is what costs most. Nothing that is said changes.
"""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
from torch import Tensor

from molmoact_ros.engine.decoding.decoder import ModelRunner, SequenceSlice

PATIENCE = 0.005
"""Seconds that a pass waits for others to join: about one pass of the released model on a fast GPU."""


@dataclass
class _Ticket:
    """Parts that wait for a pass, then their hidden states or why there are none."""

    parts: Sequence[SequenceSlice]
    states: list[Any] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.states is not None or self.error is not None


class BatchingRunner:
    """Passes (see passes.Passes) for several threads, each with a sequence of its own."""

    def __init__(self, passes: ModelRunner, patience: float = PATIENCE) -> None:
        self._passes, self._patience = passes, patience
        self.capacity = passes.capacity
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._asking = 0  # threads in the midst of an answer
        self.passes, self.shares = 0, 0  # made so far, and the parts in them

    def cache(self) -> Any:
        """Room for one sequence."""
        return self._passes.cache()

    def embed(self, ids: Sequence[int]) -> Any:
        """Embeddings [T, hidden] of ids of the vocabulary."""
        return self._passes.embed(ids)

    def given(self, x: Tensor) -> Any:
        """The same of embeddings [T, hidden]."""
        return self._passes.given(x)

    def best(self, hidden: Any, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token; -1 when their scores are not finite."""
        return self._passes.best(hidden, allowed)

    def move(self, cache: Any, source: int, target: int) -> None:
        """Copy the keys and values at one place of a cache to another."""
        self._passes.move(cache, source, target)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """While a thread is in this, the passes of others wait for its next one, for a little."""
        with self._changed:
            self._asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._pass_if_all_wait()

    def run(self, parts: Sequence[SequenceSlice]) -> list[Any]:
        """One pass, with what other threads ask for; hidden states of these parts."""
        ticket = _Ticket(parts)
        with self._changed:
            self._waiting.append(ticket)
            self._pass_if_all_wait()
            if not self._changed.wait_for(lambda: ticket.done, self._patience):
                self._pass()  # somebody is busy with something else
        if ticket.states is None:
            raise RuntimeError(f"the pass failed: {ticket.error}") from ticket.error
        return ticket.states

    def _pass_if_all_wait(self) -> None:
        if self._waiting and len(self._waiting) >= self._asking:
            self._pass()

    def _pass(self) -> None:
        """Make the pass that is waited for; the lock is held, since nobody else has anything to do meanwhile."""
        tickets, self._waiting = self._waiting, []
        parts = [part for ticket in tickets for part in ticket.parts]
        try:
            states = iter(self._passes.run(parts))
            for ticket in tickets:
                ticket.states = [next(states) for _ in ticket.parts]
        except Exception as error:  # each of them is told
            for ticket in tickets:
                ticket.error = error
        self.passes, self.shares = self.passes + 1, self.shares + len(parts)
        self._changed.notify_all()
