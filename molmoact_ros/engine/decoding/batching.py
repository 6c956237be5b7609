"""Dynamic batching: forward passes that several robots request at about the same time run together.

Each robot's answer is decoded independently in its own thread; only the forward passes are batched. A pass reads all
weights, for one sequence as for eight, so batching shares the dominant cost. It changes no token.
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
"""Time that a pass waits for others to join, s: about one pass of the released model on a fast GPU."""


@dataclass
class _Ticket:
    """Sequence slices that wait for a pass, then their hidden states or the error."""

    parts: Sequence[SequenceSlice]
    states: list[Any] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.states is not None or self.error is not None


class BatchingRunner:
    """A ModelRunner for several threads, each with its own sequence. It batches their forward passes.

    Example:
        runner = BatchingRunner(TorchModelRunner(model, capacity))
        decoders = [CachedDecoder(runner) for _ in robots]  # one per thread
    """

    def __init__(self, passes: ModelRunner, patience: float = PATIENCE) -> None:
        self._passes, self._patience = passes, patience
        self.capacity = passes.capacity
        self._changed = threading.Condition()
        self._waiting: list[_Ticket] = []
        self._asking = 0  # threads that are decoding an answer
        self.passes, self.shares = 0, 0  # passes run so far, and the slices in them

    def cache(self) -> Any:
        """A key-value cache for one sequence."""
        return self._passes.cache()

    def embed(self, ids: Sequence[int]) -> Any:
        """Embeddings [T, hidden] of ids of the vocabulary."""
        return self._passes.embed(ids)

    def given(self, x: Tensor) -> Any:
        """Input for `run` from embeddings [T, hidden]."""
        return self._passes.given(x)

    def best(self, hidden: Any, allowed: np.ndarray) -> int:
        """The best of the `allowed` ids, int64 [k], after a token; -1 if their scores are not finite."""
        return self._passes.best(hidden, allowed)

    def move(self, cache: Any, source: int, target: int) -> None:
        """Copy the keys and values at one position of a cache to another."""
        self._passes.move(cache, source, target)

    @contextmanager
    def answering(self) -> Iterator[None]:
        """Context of a thread that decodes an answer: passes of other threads wait briefly for its next one."""
        with self._changed:
            self._asking += 1
        try:
            yield
        finally:
            with self._changed:
                self._asking -= 1
                self._pass_if_all_wait()

    def run(self, parts: Sequence[SequenceSlice]) -> list[Any]:
        """Run one pass, batched with those of other threads; return the states [T - first, hidden] of these slices.

        Raises RuntimeError if the pass failed.
        """
        ticket = _Ticket(parts)
        with self._changed:
            self._waiting.append(ticket)
            self._pass_if_all_wait()
            if not self._changed.wait_for(lambda: ticket.done, self._patience):
                self._pass()  # some thread is busy elsewhere
        if ticket.states is None:
            raise RuntimeError(f"the pass failed: {ticket.error}") from ticket.error
        return ticket.states

    def _pass_if_all_wait(self) -> None:
        if self._waiting and len(self._waiting) >= self._asking:
            self._pass()

    def _pass(self) -> None:
        """Run the pending pass while holding the lock: the other threads are waiting for it anyway."""
        tickets, self._waiting = self._waiting, []
        parts = [part for ticket in tickets for part in ticket.parts]
        try:
            states = iter(self._passes.run(parts))
            for ticket in tickets:
                ticket.states = [next(states) for _ in ticket.parts]
        except Exception as error:  # every waiting thread raises it
            for ticket in tickets:
                ticket.error = error
        self.passes, self.shares = self.passes + 1, self.shares + len(parts)
        self._changed.notify_all()
