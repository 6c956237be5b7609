"""Metrics of an evaluation: agreement of the plans with the expert's, a summary, and the machine's provenance."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.reasoning.trace import pixels_from_trace
from molmoact_ros.sim.scene import LONG_SHAPES, SHAPES, Scene, Task
from molmoact_ros.sim.table_workcell import Workcell
from molmoact_ros.training.expert import Expert
from molmoact_ros.utils.provenance import machine


@dataclass(frozen=True)
class Row:
    """Metrics of one episode.

    trace_error: mean error of the first plan's trace, pixels of 640x480. depth_accuracy: fraction of equal depth codes,
    0..1. seconds: simulated time; step_seconds: time of a reasoning step, s.
    """

    seed: int
    instruction: str
    success: bool
    first_lifted: str
    right_object_first: bool
    seconds: float
    step_seconds: float
    trace_error: float
    depth_accuracy: float
    message: str = ""

    @property
    def kind(self) -> str:
        """The kind of task: the target's name, or `pick up`."""
        return Task.parse(self.instruction).target or "pick up"


def trace_error(robot: Path, scene: Scene, trace: np.ndarray) -> float:
    """Mean distance in pixels between the first plan's trace, int [n, 2] in 0..255, and the expert's from home."""
    cell = Workcell(robot, shapes=SHAPES + LONG_SHAPES)
    cell.reset(scene)
    return trace_error_in(cell, scene, trace)


def trace_error_in(cell: Workcell, scene: Scene, trace: np.ndarray) -> float:
    """The same, for a trace int [n, 2], from where the gripper of `cell` is and by the camera as it stands."""
    wanted = cell.project(Expert.from_start(scene, cell.arm.tcp_position).trace())
    k = cell.cameras["front"]
    got = pixels_from_trace(trace, k.width, k.height)
    # A trace may have fewer points than the expert's: compare at equal fractions of the path.
    share = np.linspace(0, 1, len(got))
    expected = np.stack([np.interp(share, np.linspace(0, 1, len(wanted)), wanted[:, i]) for i in range(2)], axis=1)
    return float(np.linalg.norm(got - expected, axis=1).mean())


def depth_accuracy(vq: DepthVq, codes: np.ndarray, depth: np.ndarray) -> float:
    """Fraction of codes [10, 10] that equal those of the measured depth, float [H, W] m."""
    return float((vq.encode_depth(depth) == codes).mean())


def summary(rows: Sequence[Row]) -> dict[str, dict[str, float]]:
    """Metrics by name for each kind of task and for all."""
    kinds = {"all": list(rows)} | {kind: [r for r in rows if r.kind == kind] for kind in sorted({r.kind for r in rows})}
    return {kind: _figures(some) for kind, some in kinds.items()}


def _figures(rows: Sequence[Row]) -> dict[str, float]:
    steps = [r.step_seconds for r in rows]
    return {
        "episodes": len(rows),
        "success": float(np.mean([r.success for r in rows])),
        "right_object_first": float(np.mean([r.right_object_first for r in rows])),
        "trace_error_px": _mean([r.trace_error for r in rows]),
        "depth_code_accuracy": _mean([r.depth_accuracy for r in rows]),
        "step_ms": float(np.nanmedian(steps) * 1e3),
        "seconds": float(np.median([r.seconds for r in rows])),
    }


def _mean(values: Sequence[float]) -> float:
    """The mean of the values that are not NaN; NaN without one."""
    known = [value for value in values if not np.isnan(value)]
    return float(np.mean(known)) if known else float("nan")


def report(rows: Sequence[Row], digest: str, seed: int) -> dict[str, object]:
    """The content of the `--json` file."""
    figures = {"seed": seed, **machine(digest), "summary": summary(rows), "episodes": [asdict(r) for r in rows]}
    return {name: _without_nan(value) for name, value in figures.items()}


def _without_nan(value: Any) -> Any:
    """The same with None in place of NaN, which JSON lacks."""
    if isinstance(value, dict):
        return {name: _without_nan(v) for name, v in value.items()}
    if isinstance(value, list):
        return [_without_nan(v) for v in value]
    return None if isinstance(value, float) and np.isnan(value) else value
