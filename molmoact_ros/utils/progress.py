"""Progress of long operations: a callback type, and a progress bar for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], None]
"""Callback of a long operation: the number of finished parts and the total number."""


def ignore(done: int, of: int) -> None:
    """A callback that does nothing."""


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """A callback that shows a progress bar; no bar appears if it is never called."""
    from tqdm import tqdm

    bars: list[tqdm[Any]] = []

    def tick(done: int, of: int) -> None:
        if not bars:
            bars.append(tqdm(total=of, desc=text, leave=False))
        bars[0].update(done - bars[0].n)

    try:
        yield tick
    finally:
        for bar in bars:
            bar.close()
