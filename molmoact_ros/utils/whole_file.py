"""Text files that are there whole or not at all: a full disk or an interrupt leaves the file that was there before."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path


def write_whole(file: Path, text: str | Iterable[str]) -> None:
    """Write a text, or its pieces, as UTF-8, beside its place first. Raises OSError, and then leaves nothing of it."""
    pieces = [text] if isinstance(text, str) else text
    if file.exists() and not file.is_file():  # /dev/stdout, say
        file.write_text("".join(pieces), "utf-8")
        return
    place = file.resolve()
    unfinished = place.with_name(f".{place.name}.unfinished")
    try:
        with unfinished.open("w", encoding="utf-8") as stream:
            stream.writelines(pieces)
            stream.flush()
            os.fsync(stream.fileno())
        unfinished.rename(place)
    finally:
        unfinished.unlink(missing_ok=True)
