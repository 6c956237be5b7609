"""Seams between chunks in three chunk modes, and the cost of a controller cycle."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, get_args

import numpy as np
from rich.console import Console

from molmoact_ros.benchmarks.reporting import new_table, write_figures
from molmoact_ros.control.action_chunk import ActionChunk, join
from molmoact_ros.control.chunk_player import ChunkMode
from molmoact_ros.control.controller import Controller, ControllerConfig
from molmoact_ros.control.limit_checker import LimitChecker
from molmoact_ros.robots.franka import HOME_Q, SINGLE, Arm
from molmoact_ros.utils.arguments import (
    add_json,
    add_seconds,
    add_seed,
)
from molmoact_ros.utils.paths import robot_model

STEP, STEPS = 0.1, 8  # MolmoAct's chunk
PERIOD = 0.3  # s from plan to plan, where the engine is that fast
STRAYS = 0.001  # m, a step: standard deviation by which each plan differs from the true path
SEAM = 0.3  # s after a chunk's arrival that count as its seam
WARM_UP = 3.0  # s dropped at the start, until the first plans have brought the hand onto the path


@dataclass(frozen=True)
class Seams:
    """Peaks at the seams. jerk: of the hand, m/s^3, and of a joint as part of its limit; error: of the hand, mm."""

    mode: str
    latency: float
    jerk: float
    joint_jerk: float
    error: float
    mean_error: float
    within_limits: bool


def true_path(time: float) -> np.ndarray:
    """The hand's reference position at `time`, s: [3] m; from home on, at 0.05 to 0.2 m/s, in the shape of a bow."""
    return np.array([0.48 - 0.06 * np.cos(2.2 * time), 0.12 * np.sin(1.1 * time), 0.25 + 0.03 * np.sin(1.7 * time)])


def seams(robot: Path, latencies: tuple[float, ...], seconds: float = 20.0, seed: int = 0) -> list[Seams]:
    """Every mode at every engine latency, s: an engine that plans the true path with small errors; perfect tracking."""
    return [_seams(robot, mode, latency, seconds, seed) for latency in latencies for mode in get_args(ChunkMode)]


def _seams(robot: Path, mode: ChunkMode, latency: float, seconds: float, seed: int) -> Seams:
    config = ControllerConfig(mode=mode)
    dt, rng = 1.0 / config.rate, np.random.default_rng(seed)
    controller, (checker,) = _started(robot, config)
    hand = controller.arms[0].kinematics.forward
    due, flying, arrived = 0.0, list[ActionChunk](), -np.inf
    path, at_seam = [hand(HOME_Q).position], list[bool]()
    for k in range(round(seconds / dt)):
        now = k * dt
        if now >= due - 1e-9:
            flying.append(plan_along(path[-1], now, rng))
            due = now + max(PERIOD, latency)
        if flying and now >= flying[0].stamp + latency - 1e-9:
            assert controller.on_chunk(flying.pop(0), now), controller.last_refusal
            arrived = now
        (q,) = _cycle(controller, now)
        checker.command(q)
        path.append(hand(q).position)
        at_seam.append(now - arrived < SEAM and now > WARM_UP)
    where, seam = np.array(path[1:]), np.array(at_seam)
    jerk = np.linalg.norm(np.diff(where, 3, axis=0), axis=1) / dt**3
    wanted = np.array([true_path((k + 1) * dt) for k in range(len(where))])
    error = np.linalg.norm(where - wanted, axis=1)[seam] * 1e3
    peak = float(jerk[seam[3:]].max())
    kept = not any(checker.broken.values())
    return Seams(mode, latency, peak, checker.peaks["jerk"], float(error.max()), float(error.mean()), kept)


def plan_along(hand: np.ndarray, now: float, rng: np.random.Generator) -> ActionChunk:
    """A chunk of an engine with small errors: at `now`, s, from `hand` [3] m back onto the true path and along it."""
    strays = np.cumsum(rng.normal(0, STRAYS, (STEPS, 3)), axis=0)
    points = np.array([true_path(now + (k + 1) * STEP) for k in range(STEPS)]) + strays
    actions = np.zeros((STEPS, 7))
    actions[:, :3], actions[:, 6] = np.diff(points, axis=0, prepend=hand[None]), 1.0
    actions[:, :3] *= np.minimum(1.0, 0.04 / np.maximum(np.linalg.norm(actions[:, :3], axis=1), 1e-9))[:, None]
    return ActionChunk(actions, STEP, now, round(now * 1e3))


def cycle_cost(
    robot: Path, cycles: int = 2000, seed: int = 0, arms: Sequence[Arm] = (SINGLE,)
) -> dict[str, float]:  # fmt: skip
    """Cost of a cycle in motion: us of processor time (median, p99), and blocks of memory that it retains."""
    controller, _ = _started(robot, ControllerConfig(), arms)
    rng, dt = np.random.default_rng(seed), 1.0 / controller.config.rate
    told, took, blocks = [HOME_Q for _ in arms], np.zeros(cycles), 0
    for k in range(cycles):
        now = k * dt
        if k % 30 == 0:
            hands = [arm.kinematics.forward(q).position for arm, q in zip(controller.arms, told, strict=True)]
            plans = [plan_along(hand, now, rng) for hand in hands]
            controller.on_chunk(replace(plans[0], actions=join([p.actions for p in plans], plans[0].space)), now)
        if k == cycles // 2:
            blocks = sys.getallocatedblocks()
        began = time.thread_time()
        told = _cycle(controller, now)
        took[k] = time.thread_time() - began
    kept = (sys.getallocatedblocks() - blocks) / (cycles - cycles // 2)
    return {"median": float(np.median(took) * 1e6), "p99": float(np.percentile(took, 99) * 1e6), "kept": kept}


def _started(
    robot: Path, config: ControllerConfig, arms: Sequence[Arm] = (SINGLE,)
) -> tuple[Controller, list[LimitChecker]]:  # fmt: skip
    controller = Controller(robot, config, arms)
    for number in range(len(arms)):
        controller.update_joints(HOME_Q, 0.08, 0.0, number)
    assert controller.start(0.0)
    return controller, [
        LimitChecker(robot, 1.0 / config.rate, config.fractions, config.surroundings, arm) for arm in arms
    ]


def _cycle(controller: Controller, now: float) -> list[np.ndarray]:
    """Run one cycle of arms with perfect tracking, beside a live engine; returns the joints [7] rad of each."""
    controller.on_engine(now)
    commands = controller.step(now)
    assert commands is not None
    for number, command in enumerate(commands):
        controller.update_joints(command.position, 0.08, now, number)
    return [command.position for command in commands]


LATENCIES = (0.0, 0.1, 0.2, 0.4)  # s


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_seed(parser)
    add_seconds(parser, 20.0)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    figures, good = _measure(args, Console())
    write_figures(args, figures)
    return 0 if good else 1


def _measure(args: argparse.Namespace, console: Console) -> tuple[Any, bool]:

    rows = seams(robot_model(), LATENCIES, args.seconds, args.seed)
    title = f"seams between chunks, {args.seconds:g} s each, seed {args.seed}"
    table = new_table(title, "latency", "mode", "peak jerk",
                   "of the joints' limit", "path error", "mean", "limits")  # fmt: skip
    for row in rows:
        table.add_row(
            f"{row.latency * 1e3:.0f} ms", row.mode, f"{row.jerk:.0f} m/s^3", f"{row.joint_jerk:.0%}",
            f"{row.error:.1f} mm", f"{row.mean_error:.1f} mm", "kept" if row.within_limits else "[red]broken[/]",
        )  # fmt: skip
    console.print(table)
    return [asdict(row) for row in rows], all(row.within_limits for row in rows)
