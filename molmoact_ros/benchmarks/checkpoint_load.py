"""Time to load a checkpoint, and peak memory beyond the result."""

from __future__ import annotations

import argparse
import json
import resource
import sys
import time
from pathlib import Path

from rich.console import Console

from molmoact_ros.engine.model.checkpoint import load_checkpoint, torch_dtype
from molmoact_ros.engine.model.weight_files import read_headers
from molmoact_ros.utils.arguments import (
    add_checkpoint,
    add_dtype,
    add_json,
)
from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.utils.whole_file import write_whole


def bench_load(folder: Path, dtype: str = "") -> dict[str, float]:
    """Load a folder into host memory once. seconds; result: GB of the model's tensors; above: GB by which this process'
    peak exceeds the result and the memory before, pages of the mapped file included; largest: GB of the largest weight
    file.

    Only the first call in a process is meaningful, since a process' peak never falls.
    """
    if sys.platform != "linux":
        raise RuntimeError("memory is measured on Linux only")
    largest = max(path.stat().st_size for path in read_headers(folder).files)
    before, began = _peak(), time.perf_counter()
    loaded = load_checkpoint(folder, "cpu", torch_dtype(dtype))
    seconds, peak = time.perf_counter() - began, _peak()
    result = sum(t.numel() * t.element_size() for t in loaded.model.state_dict().values())
    return {
        "seconds": seconds,
        "result": result / 1e9,
        "above": (peak - before - result) / 1e9,
        "largest": largest / 1e9,
    }


def _peak() -> int:
    """Peak memory of this process so far, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    add_json(parser)
    add_dtype(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Run the benchmark, print its results, and return the exit status."""

    figures = bench_load(checkpoint_of(args), args.dtype)
    Console().print(
        f"{figures['seconds']:.1f} s; {figures['result']:.2f} GB stay, {figures['above']:.2f} GB more at the peak; "
        f"largest file {figures['largest']:.2f} GB"
    )
    if args.json:
        write_whole(args.json, json.dumps(figures, indent=1))
    return 0
