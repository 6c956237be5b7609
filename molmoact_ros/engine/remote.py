"""What back ends have in common whose model runs elsewhere: they wait for answers, and pause after a failure."""

from __future__ import annotations

import asyncio
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import suppress
from typing import Final, NoReturn, TypeVar

from molmoact_ros.engine.base import Wanted
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.reasoning.answer import RefusedStep

POLL: Final = 0.02
"""Interval for checking whether a step is still wanted, s."""
PAUSES: Final = (0.2, 2.0)
"""Minimum and maximum back-off after a failure of the server, s; it doubles with each consecutive failure."""
BUSY: Final = (429, 503)
"""HTTP status: too many requests, service unavailable."""
CONNECT: Final = 1.0
"""Time to connect to a server, s."""

Part = TypeVar("Part")


class AnswerStreamReader:
    """Reads asynchronous answers for steps that may be cancelled; an answer not whole after `timeout` s is dropped."""

    def __init__(self, timeout: float) -> None:
        self._timeout, self._loop = timeout, asyncio.new_event_loop()

    def parts(self, answer: AsyncIterator[Part], wanted: Wanted) -> Iterator[Part]:
        """Yield an answer's parts, and close it however this ends.

        Raises CancelledStep when the step is cancelled, RefusedStep at the timeout.
        """
        deadline = time.monotonic() + self._timeout
        step: asyncio.Task[Part | None] | None = None
        try:
            while True:
                step = self._loop.create_task(_next(answer))
                while not step.done():
                    if not wanted():
                        raise CancelledStep
                    if time.monotonic() > deadline:
                        raise RefusedStep(f"no whole answer came within {self._timeout:g} s; the step is dropped")
                    self._loop.run_until_complete(asyncio.wait({step}, timeout=POLL))
                part = step.result()
                if part is None:
                    return
                yield part
        finally:
            if step is not None and not step.done():
                step.cancel()
            self._loop.run_until_complete(_end(step, answer))


async def _next(answer: AsyncIterator[Part]) -> Part | None:
    """The next part; None at the end."""
    async for part in answer:
        return part
    return None


async def _end(step: asyncio.Task[Part | None] | None, answer: AsyncIterator[Part]) -> None:
    if step is not None:
        with suppress(Exception, asyncio.CancelledError):
            await step
    with suppress(Exception):
        await answer.aclose()  # type: ignore[attr-defined]


class BackOff:
    """Pauses between requests to a server that fails: it may be starting, and other clients have lost it too."""

    def __init__(self) -> None:
        self._pause, self._not_before, self._reason = PAUSES[0], 0.0, ""

    def check(self) -> None:
        """Raise RefusedStep, with the last failure's reason, while a pause lasts."""
        if time.monotonic() < self._not_before:
            raise RefusedStep(self._reason)

    def fail(self, reason: str) -> NoReturn:
        """Begin a pause and raise RefusedStep."""
        self._reason = reason
        self._not_before = time.monotonic() + self._pause
        self._pause = min(2 * self._pause, PAUSES[1])
        raise RefusedStep(reason) from None

    def succeed(self) -> None:
        """The server has answered: the next pause is a short one."""
        self._pause = PAUSES[0]


def header_key(key: str) -> dict[str, str]:
    """The HTTP header with a server's key; none for an empty one. Raises ValueError for a key that none can carry."""
    if not (key.isascii() and key.isprintable()):
        raise ValueError("the model server's key has characters that HTTP does not carry; write another")
    return {"Authorization": f"Bearer {key}"} if key else {}


def refusal(server: str, status: int, text: str, start: str) -> str:
    """Why a server gave no answer, in one line. server: its name and address. start: the command with its key."""
    if status in BUSY:
        return f"{server} is busy (HTTP {status}); the step is dropped"
    if status in (401, 403):
        return (
            f"{server} refuses the key (HTTP {status}); set server_key_file, or MOLMOACT_API_KEY, to the "
            f"key that it was started with ({start})"
        )
    return f"{server} refuses (HTTP {status}): {text}"
