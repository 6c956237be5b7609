"""What the depth tokens show: decoded from the codes of measured depth, and from those that the model says."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from PIL import Image
from rich.console import Console
from rich.table import Table

from molmoact_ros.benchmarks.depth_agreement import (
    DepthAgreement,
    agreement,
    perplexity,
    summarised,
    summary,
)
from molmoact_ros.benchmarks.depth_moments import DepthMoment, sample_moments
from molmoact_ros.benchmarks.reporting import new_table, write_figures
from molmoact_ros.cameras.depth_noise import with_sensor_noise
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.checkpoint import find_depth_vq, load_depth_vq
from molmoact_ros.engine.model.depth_vq import INPUT, DepthVq, Span, depth_in_metres, inverse_span, relative_depth
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.training.demonstrations import TRAIN_SEED
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_json, not_negative, output_file
from molmoact_ros.utils.paths import checkpoint_of, robot_model
from molmoact_ros.visualization.overlay import colour_depth

PICTURED: Final = 6
"""Moments in the picture."""
MEASURED: Final = "measured codes"
MODEL: Final = "the model's codes"


@dataclass(frozen=True)
class DepthRow:
    """One moment. agreement: of the depth decoded from each kind of codes. codes: int64 [10, 10] of measured depth.

    equal: share of the model's codes that are those of measured depth (NaN without a model). steady: share of codes
    that stay with the noise of a sensor. tiles: the moment's row of the picture, uint8 [320, W, 3] RGB.
    """

    agreement: dict[str, DepthAgreement]
    codes: np.ndarray
    equal: float
    steady: float
    tiles: np.ndarray


def bench_depth(vq: DepthVq, engine: Engine | None, count: int, seed: int) -> list[DepthRow]:
    """Look at `count` moments of the scenes from `seed` on. engine: whose codes `vq` decodes, too."""
    rng = np.random.default_rng(seed)
    return [_row(vq, engine, moment, rng) for moment in sample_moments(robot_model(), count, seed)]


def _row(vq: DepthVq, engine: Engine | None, moment: DepthMoment, rng: np.random.Generator) -> DepthRow:
    measured = moment.observation.depth
    assert measured is not None
    codes = {MEASURED: vq.encode_depth(measured)}
    if engine is not None:
        codes[MODEL] = next(
            said.depth_codes for said in engine.reason(moment.observation) if said.depth_codes is not None
        )
    span = vq.span or inverse_span(moment.depth)
    decoded = {name: vq.decode_codes(some) for name, some in codes.items()}
    return DepthRow(
        {name: agreement(moment, depth_in_metres(relative, span)) for name, relative in decoded.items()},
        codes[MEASURED],
        float((codes[MODEL] == codes[MEASURED]).mean()) if engine is not None else np.nan,
        float((vq.encode_depth(with_sensor_noise(measured, rng)) == codes[MEASURED]).mean()),
        _tiles(moment, span, list(decoded.values())),
    )


def _tiles(moment: DepthMoment, span: Span, decoded: Sequence[np.ndarray]) -> np.ndarray:
    front = cv2.resize(moment.observation.images[0], (INPUT, INPUT), interpolation=cv2.INTER_AREA)
    return np.hstack([front, *(colour_depth(d, INPUT) for d in (relative_depth(moment.depth, span), *decoded))])


def figures(rows: Sequence[DepthRow]) -> dict[str, Any]:
    """The content of the `--json` file."""
    codes = np.stack([row.codes for row in rows])
    kinds = rows[0].agreement
    return {
        **{kind: summarised([row.agreement[kind] for row in rows]) for kind in kinds},
        "equal": summary([row.equal for row in rows]),
        "steady": summary([row.steady for row in rows]),
        "codes_used": len(np.unique(codes)),
        "perplexity": perplexity(codes),
    }


def _table(found: dict[str, Any]) -> Table:
    kinds = [kind for kind in (MEASURED, MODEL) if kind in found]
    table = new_table("decoded beside measured depth: mean (95 %)", "what", *kinds)
    for name in found[MEASURED]:
        table.add_row(name, *(_shown(found[kind][name]) for kind in kinds))
    return table


def _shown(figure: dict[str, Any]) -> str:
    if figure["mean"] is None:
        return "none"
    interval = "" if figure["interval"] is None else " ({:.3g} to {:.3g})".format(*figure["interval"])
    return f"{figure['mean']:.3g}{interval}"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--scenes", type=above_zero(int), default=200, help="how many are looked at; default 200")
    seeds = f"of the first scene; default 40000; training has those from {TRAIN_SEED} on"
    parser.add_argument("--seed", type=not_negative(int), default=40_000, help=seeds)
    add_checkpoint(parser)
    parser.add_argument(
        "--depth-decoder", type=Path, metavar="FILE", help="another depth_vq.safetensors, by measured codes alone"
    )
    parser.add_argument(
        "--picture", type=output_file, metavar="FILE",
        help=f"draw {PICTURED} scenes: image, measured depth, and depth from measured codes and from the model's",
    )  # fmt: skip
    add_json(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""
    if args.seed + args.scenes > TRAIN_SEED:
        raise ValueError(f"the scenes from seed {TRAIN_SEED} on are those of the training; give a lower --seed")
    checkpoint, console = checkpoint_of(args), Console()
    file = args.depth_decoder or find_depth_vq(checkpoint)
    if file is None:
        raise ValueError(f"{checkpoint} has no depth decoder; give --checkpoint with one, or --depth-decoder")
    engine = None if args.depth_decoder else open_engine(EngineOptions(device="cpu", threads=0), checkpoint)
    rows = bench_depth(load_depth_vq(file), engine, args.scenes, args.seed)
    found = figures(rows)
    console.print(_table(found))
    if engine is not None:
        console.print(f"{_shown(found['equal'])} of the model's codes are those of measured depth")
    console.print(
        f"{_shown(found['steady'])} of the codes stay with a sensor's noise; {found['codes_used']} codes are used, "
        f"as much as {found['perplexity']:.0f} would be equally often"
    )
    if args.picture:
        Image.fromarray(np.vstack([row.tiles for row in rows[:PICTURED]])).save(args.picture)
    write_figures(args, {"scenes": args.scenes, **found})
    return 0
