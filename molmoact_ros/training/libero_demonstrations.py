"""Demonstrations on LIBERO: moments of episodes that are led astray, labelled by the scripted expert.

Layouts are drawn by LIBERO's own samplers, with seeds of ours from TRAIN_SEED on (`LiberoCell.draw`); the official
initial states are never loaded into the simulator. The scripted expert goes for a thing of the scene, mostly the task's
own, and time and again noise, a push, a turn or a slip of the fingers leads it astray. Between such stretches the
moment is stored: both images, and the expert's labels for several of the instructions that the scene offers.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any, Final

import numpy as np

from molmoact_ros.control.osc_pose import checkpoint_actions
from molmoact_ros.reasoning.action_convention import RELEASED, ActionConvention
from molmoact_ros.reasoning.trace import trace_from_pixels
from molmoact_ros.sim.libero_cell import SIZE, LiberoCell
from molmoact_ros.sim.libero_suite import read_suite
from molmoact_ros.training.demonstrations import ASKED, TRAIN_SEED, Demonstrations, save_rows
from molmoact_ros.training.libero_errands import REWORDED, ErrandBook, LiberoErrand
from molmoact_ros.training.libero_expert import CHUNK_STEPS, LiberoExpert
from molmoact_ros.training.model_views import model_views
from molmoact_ros.training.part_files import make_parts
from molmoact_ros.utils.progress import Progress, ignore

SUITES: Final = ("libero_object", "libero_spatial")
VIEW: Final = (128, 128)
"""Rows and columns of the model's input images."""
CONVENTION: Final[ActionConvention] = RELEASED["libero_object_no_noops_modified"]
"""The numbers mean what those of the released LIBERO checkpoints do."""
PART: Final = 400
"""Moments of a file, all of one task."""
SEEDS: Final = 1000
"""Seeds that a file may use, an episode each."""
STRETCHES: Final = 60
"""Of an episode at most."""
AFTER: Final = 3
"""Stretches that an episode goes on after its thing was delivered."""
STRETCH: Final = (2, CHUNK_STEPS)
"""Steps of a stretch: the least, the most."""
ASTRAY: Final = {"not": 0.58, "noise": 0.18, "pushed": 0.14, "turned": 0.05, "fingers": 0.05}
"""What happens in a stretch, with its probability."""
ANOTHER: Final = 0.05
"""Probability that after a stretch the expert goes for any other thing of the scene."""
FARTHEST: Final = 1.2
"""m from the arm's base: whatever is farther away has been thrown out of the scene."""
FALLEN: Final = 0.1
"""m under the table: so has what is lower."""

Sample = tuple[dict[str, np.ndarray], list[str]]
"""A row of each of demonstrations.ARRAYS by name, and the instructions [ASKED]."""


def errand_book() -> ErrandBook:
    """The errands of both suites. Raises NoLiberoError without LIBERO."""
    return ErrandBook([task for suite in SUITES for task in read_suite(suite)])


class LiberoLabeller:
    """Labels the states of one episode for several instructions. Make it when `cell` was reset or drawn.

    Example:
        labeller = LiberoLabeller(cell, book, rng)
        arrays, texts = labeller.sample(*cell_images(cell))
    """

    def __init__(self, cell: LiberoCell, book: ErrandBook, rng: np.random.Generator) -> None:
        self._cell, self._names, self._rng = cell, book.names, rng
        self.errands = book.errands(cell.task)
        self.experts = [LiberoExpert(cell, errand.goal) for errand in self.errands]

    @property
    def intact(self) -> bool:
        """Whether everything is still in the scene."""
        away = self._positions() - self._cell.base
        low = self._cell.surface - self._cell.base[2] - FALLEN
        return bool((np.linalg.norm(away[:, :2], axis=1) < FARTHEST).all() and (away[:, 2] > low).all())

    def sample(self, front: np.ndarray, wrist: np.ndarray, depth: np.ndarray) -> Sample:
        """The moment with its labels. front, wrist: uint8 [256, 256, 3] RGB. depth: front's, float32 [256, 256] m."""
        cell = self._cell
        images, small = model_views(front, wrist, depth, VIEW)
        things, held = self._things()
        chosen = self._chosen()
        experts = [self.experts[n] for n, _ in chosen]
        states = [expert.observe() for expert in experts]
        plans = [expert.plan(state, CHUNK_STEPS) for expert, state in zip(experts, states, strict=True)]
        traces = [expert.trace(state) for expert, state in zip(experts, states, strict=True)]
        arrays = {
            "images": images, "depth": small, "things": (things - cell.base).astype(np.float32),
            "places": cell.project(things, "front").astype(np.float32),
            "hand": (cell.tcp[0] - cell.base).astype(np.float32), "held": np.array(held),
            "trace": np.stack([self._pixels(trace) for trace in traces]),
            "camera": np.full(13, np.nan, np.float32),
            "actions": np.stack([checkpoint_actions(plan.chunk(), CONVENTION) for plan in plans]).astype(np.float32),
        }  # fmt: skip
        return arrays, [text for _, text in chosen]

    def _chosen(self) -> list[tuple[int, str]]:
        """Which errands a moment is labelled for, the task's own first, and in which words."""
        others = self._rng.permutation(np.arange(1, len(self.errands)))[: ASKED - 1].tolist()
        numbers = [0, *others, *[0] * (ASKED - 1 - len(others))]
        return [(n, self._words(self.errands[n])) for n in numbers]

    def _words(self, errand: LiberoErrand) -> str:
        return errand.reworded(self._rng) if self._rng.random() < REWORDED else errand.instruction

    def _positions(self) -> np.ndarray:
        return np.array([self._cell.body_pose(errand.goal[1])[0] for errand in self.errands])

    def _things(self) -> tuple[np.ndarray, int]:
        """Positions [T, 3] m in the world of all names, NaN for what is not in the scene, and which is held, or -1."""
        out, held = np.full((len(self._names), 3), np.nan), -1
        place = self.experts[0].place()  # of all: they have the same target
        out[self._names.index(self.errands[0].target)] = place.x, place.y, place.bottom
        for errand, position in zip(self.errands, self._positions(), strict=True):
            number = self._names.index(errand.thing)
            out[number] = position
            if self._cell.is_held(errand.goal[1]):
                held = number
        return out, held

    def _pixels(self, trace: np.ndarray) -> np.ndarray:
        pixels = self._cell.project(trace, "front") * (SIZE - 1)
        return trace_from_pixels(pixels, SIZE, SIZE).astype(np.uint8)


def cell_images(cell: LiberoCell) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Front and wrist image uint8 [256, 256, 3] RGB, and the front camera's depth float32 [256, 256] m."""
    (front, depth), (wrist, _) = cell.render("front"), cell.render("wrist")
    return front, wrist, depth


def led_astray(plan: np.ndarray, rng: np.random.Generator) -> np.ndarray:
    """The inputs float64 [n, 7] of a stretch, from the expert's plan [8, 7]: each value in -1..1."""
    kind = str(rng.choice(list(ASTRAY), p=list(ASTRAY.values())))
    inputs = plan[: rng.integers(STRETCH[0], STRETCH[1] + 1)].copy()
    if kind == "noise":
        inputs[:, :6] += rng.normal(0, [0.35, 0.35, 0.35, 0.05, 0.05, 0.1], (len(inputs), 6))
    elif kind == "pushed":
        way = rng.normal(size=3)
        inputs[:, :3] = rng.uniform(0.3, 1.0) * way / np.linalg.norm(way)
    elif kind == "turned":
        inputs[:, 3:6] = rng.uniform(-1, 1, 3) * [0.1, 0.1, 0.5]
    elif kind == "fingers":
        inputs[:, 6] *= -1
    return np.clip(inputs, -1.0, 1.0)


def astray_episode(cell: LiberoCell, book: ErrandBook, seed: int) -> list[Sample]:
    """The moments of one episode, in the layout that `seed` draws."""
    rng = np.random.default_rng(seed)
    cell.draw(seed)
    labeller, samples, after = LiberoLabeller(cell, book, rng), list[Sample](), 0
    leading = 0 if rng.random() < 0.6 else int(rng.integers(len(labeller.experts)))
    for _ in range(STRETCHES):
        if not labeller.intact:
            break
        samples.append(labeller.sample(*cell_images(cell)))
        expert = labeller.experts[leading]
        state = expert.observe()
        after += expert.is_delivered(state, expert.place())
        if after > AFTER:
            break
        for osc_input in led_astray(expert.plan(state, CHUNK_STEPS).chunk(), rng):
            cell.step(osc_input)
        if rng.random() < ANOTHER:
            leading = int(rng.integers(len(labeller.experts)))
    return samples


def collect_task(number: int, first_seed: int, count: int, out: Path) -> None:
    """Store `count` moments of a task of the book, with seeds from `first_seed` on, in a file."""
    book = errand_book()
    cell, samples, seed = LiberoCell(book.tasks[number]), list[Sample](), first_seed
    while len(samples) < count:
        samples += astray_episode(cell, book, seed)
        seed += 1
    cell.close()
    save_rows(samples[:count], out, partial(Demonstrations, names=book.names))


def collect_libero(
    folder: Path, count: int, workers: int, tasks: Sequence[int], part: int = PART, done: Progress = ignore
) -> list[Path]:
    """Sample `count` moments, rounded up to whole files of `part` for each of the book's `tasks`, into `folder`.

    Existing files are kept. workers: processes, each of which needs 1.5 GB. done: called after each file.
    """
    files = max(1, round(count / (part * len(tasks))))
    jobs: dict[Path, tuple[Any, ...]] = {}
    for n, task in enumerate(task for _ in range(files) for task in tasks):
        out = folder / f"part{n:03d}.npz"
        jobs[out] = task, TRAIN_SEED + n * SEEDS, part, out
    return make_parts(collect_task, jobs, workers, done)
