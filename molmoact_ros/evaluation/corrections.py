"""Rounds of correction: the policy as it is runs in lock-step, and the expert labels the moments that it meets."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
from tqdm import tqdm

from molmoact_ros.control.controller import Controller
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.evaluation.intervals import rate_interval
from molmoact_ros.evaluation.rollout import PERIOD, EpisodeResult, run_episode
from molmoact_ros.reasoning.answer import Reasoning
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.scene import sample_scene
from molmoact_ros.training.demonstrations import Sampler, save_rows
from molmoact_ros.training.met_states import CorrectionRound, label_here
from molmoact_ros.training.part_files import make_parts
from molmoact_ros.utils.whole_file import write_whole

PART = 5  # episodes of a file
PERIODS = (0.0, PERIOD)  # s from image to image at least, of every other episode
APART = 0.5  # s between labelled moments at least: the next ones look nearly the same


def collect_corrections(order: CorrectionRound, robot: Path, workers: int) -> tuple[list[Path], dict[str, float]]:
    """Run a round's episodes, and label each moment at which the policy planned.

    Files of PART episodes are made by `workers` processes; existing files are kept. robot: the arm's MJCF file. Returns
    the files of `Demonstrations`, and the figures of all episodes: how many, the share of success and of the right
    object first.
    """
    jobs = {}
    for first in range(0, order.episodes, PART):
        file = order.folder / f"part{first // PART:03d}.npz"
        jobs[file] = order, robot, order.first_seed + first, min(PART, order.episodes - first), file
    files = make_parts(run_part, jobs, workers, lambda made, of: tqdm.write(_said(order.folder)))
    return files, figures(order.folder)


def run_part(order: CorrectionRound, robot: Path, first_seed: int, episodes: int, out: Path) -> None:
    """Run some episodes; their moments become the file `out`, their outcomes a JSON file beside it.

    Raises RuntimeError if there is nothing to learn from any of them.
    """
    sampler = Sampler(robot, order.varied, order.shapes)
    engine = open_engine(EngineOptions(device=order.device, vision="torch"), order.checkpoint)
    rows, outcomes = [], []
    for seed in range(first_seed, first_seed + episodes):
        met, period = MetMoments(sampler, np.random.default_rng((seed, 21))), PERIODS[seed % len(PERIODS)]
        scene = sample_scene(seed, shapes=order.shapes)
        sampler.cell.dress(sampler.appearance(seed))
        result = run_episode(sampler.cell, engine, Controller(robot), scene, met, period, order.seconds)
        rows += met.rows
        outcomes.append(_outcome(seed, period, result))
    if not rows:
        raise RuntimeError(f"no moment of scenes from {first_seed} on can be labelled; is {order.checkpoint} whole?")
    write_whole(out.with_suffix(".json"), json.dumps(outcomes, indent=1))
    save_rows(rows, out)


class MetMoments:
    """Labels the moments of an episode, `APART` at least, as it goes."""

    def __init__(self, sampler: Sampler, rng: np.random.Generator) -> None:
        self.sampler, self.rng = sampler, rng
        self.rows: list[tuple[dict[str, np.ndarray], list[str]]] = []
        self._last = -np.inf

    def __call__(self, observation: Observation, reasoning: Reasoning) -> None:
        """Process a step of the policy; the workcell still is as its images show it."""
        if observation.stamp - self._last < APART:
            return
        self._last = observation.stamp
        if (row := label_here(self.sampler, self.rng)) is not None:
            self.rows.append(row)


def _outcome(seed: int, period: float, result: EpisodeResult) -> dict[str, object]:
    return {
        "seed": seed, "period": period, "instruction": result.instruction, "success": result.success,
        "right_object_first": result.right_object_first, "seconds": round(result.seconds, 2),
        "refusals": len(result.refusals),
    }  # fmt: skip


def figures(folder: Path) -> dict[str, float]:
    """Figures of a round's episodes so far: how many, the share of success and of the right object first."""
    outcomes = [o for file in sorted(folder.glob("part*.json")) for o in json.loads(file.read_text())]
    count = len(outcomes)
    return {
        "episodes": count,
        **{name: sum(o[name] for o in outcomes) / max(1, count) for name in ("success", "right_object_first")},
    }


def _said(folder: Path) -> str:
    so_far = figures(folder)
    count = int(so_far["episodes"])
    low, high = rate_interval(round(so_far["success"] * count), count)
    return f"{folder.name}: {so_far['success']:.0%} of {count} episodes ({low:.0%} to {high:.0%})"
