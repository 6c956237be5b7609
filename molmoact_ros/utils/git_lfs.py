"""Files that Git LFS has not fetched: a clone without it holds a few lines of text in place of each large file."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_POINTER: Final = b"version https://git-lfs.github.com/spec/"
"""How such a text begins (git-lfs' docs/spec.md)."""


def unread_reason(path: Path, error: object) -> str:
    """Why a file cannot be read, in one line: `error`, unless the file is a pointer of Git LFS."""
    try:
        with path.open("rb") as file:
            if file.read(len(_POINTER)) == _POINTER:
                return "it is a pointer of Git LFS, and not the file itself; run `git lfs pull` where it was cloned"
    except OSError:
        pass
    return " ".join(str(error).split()) or type(error).__name__
