"""How far long work is: a callback, and a bar for the terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

Progress = Callable[[int, int], None]
"""Told of long work how many parts of how many are done."""


def ignore(done: int, of: int) -> None:
    """For those who do not want to know."""


@contextmanager
def progress_bar(text: str) -> Iterator[Callable[[int, int], None]]:
    """What shows how many of how many are done, as a bar; nothing where there is nothing to do."""
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
