"""Files that several processes make, a part each; an interrupted run makes only those that are missing."""

from __future__ import annotations

import multiprocessing
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molmoact_ros.utils.child_process import die_with_parent
from molmoact_ros.utils.progress import Progress, ignore


def make_parts(
    make: Callable[..., None], jobs: dict[Path, tuple[Any, ...]], workers: int, done: Progress = ignore
) -> list[Path]:
    """Make files by `workers` processes, each by its job: what `make` is called with. Existing files are kept.

    make: a function of a module, for a new process to find; its file appears at once and whole. done: called after each
    file with how many there are.
    """
    missing = [(make, job) for path, job in jobs.items() if not path.exists()]
    if not missing:
        return list(jobs)
    for folder in {path.parent for path in jobs}:
        folder.mkdir(parents=True, exist_ok=True)
    os.environ["LP_NUM_THREADS"] = "1"  # else the software renderer starts one thread per core in each worker
    context, made = multiprocessing.get_context("spawn"), len(jobs) - len(missing)
    with (
        context.Pool(min(workers, len(missing)), die_with_parent, (os.getpid(),)) as pool,
        tqdm(total=len(jobs), initial=made, unit="part") as bar,
    ):
        for _ in pool.imap_unordered(_make_part, missing):
            made += 1
            bar.update()
            done(made, len(jobs))
    return list(jobs)


def _make_part(job: tuple[Callable[..., None], tuple[Any, ...]]) -> None:
    make, arguments = job
    make(*arguments)
