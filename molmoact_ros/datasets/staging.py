"""A folder that is built beside its place and renamed into it, so that a failed export leaves nothing."""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path


@contextmanager
def built_beside(folder: Path) -> Iterator[Path]:
    """A new folder to write into, renamed to `folder` at the end of the `with` block, or removed if the block fails.

    Where `folder` exists already, what was written is moved into it. Raises FileExistsError if that has one of its
    names.
    """
    parent = folder if folder.is_dir() else folder.parent
    made = [path for path in (parent, *parent.parents) if not path.exists()]
    work = parent / f".{folder.name}.unfinished-{os.getpid()}"
    try:
        work.mkdir(parents=True)
        yield work
        if not folder.exists():
            work.rename(folder)
            return
        written = sorted(work.iterdir())
        refuse_existing([folder / path.name for path in written])
        for path in written:
            path.rename(folder / path.name)
    finally:
        shutil.rmtree(work, ignore_errors=True)
        with suppress(OSError):  # they hold what was written
            for path in made:
                path.rmdir()


def refuse_existing(paths: Sequence[Path]) -> None:
    """Raises FileExistsError, naming the first of `paths` that exists."""
    if there := [path for path in paths if path.exists()]:
        raise FileExistsError(f"{there[0]} exists already; give a new folder, or move it away")


def refuse_inside(folder: Path, sources: Sequence[Path]) -> None:
    """Raises ValueError if a folder to write is one of `sources`, or within it: they are only read."""
    for source in sources:
        if folder.resolve().is_relative_to(source.resolve()):
            raise ValueError(f"{folder} is in {source}, which is only read; give another folder with --out")
