"""The command `export`: the vision tower as ONNX, compared with torch before it is used."""

from __future__ import annotations

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from rich.console import Console
from tqdm import tqdm

from molmoact_ros.engine.model.image_processor import ImageInputs
from molmoact_ros.engine.vision.onnx_export import GRAPH, Tower, export, relative_error
from molmoact_ros.engine.vision.onnx_runtime import LIMITS, OnnxVision, checked_precision
from molmoact_ros.utils.arguments import above_zero, add_checkpoint, add_json
from molmoact_ros.utils.paths import checkpoint_of
from molmoact_ros.utils.whole_file import write_whole


def export_and_compare(checkpoint: Path, args: argparse.Namespace, console: Console) -> int:
    """Export, compare on `args.frames` synthetic images, print and store the figures; returns 1 where they are off."""
    precision = checked_precision(args.precision)
    with console.status("reading the vision tower"):
        tower = Tower.read(checkpoint, args.frame_size)
    with console.status(f"exporting it in {precision}"):
        folder = export(tower, precision, args.out)
    size = sum(file.stat().st_size for file in folder.iterdir() if file.name.startswith(GRAPH))
    console.print(f"{folder / GRAPH}: {size / 2**20:.1f} MiB")
    if precision == "bfloat16":
        console.print("bfloat16 is TensorRT's to choose; it is compared with torch when the engine opens it")
        return 0
    tower = Tower.read(checkpoint, args.frame_size)  # the exported one has been cast
    vision = OnnxVision(folder, torch.empty(0))
    figures, limit = compare(tower, vision, args.frames), LIMITS[precision]
    console.print(
        f"{args.frames} images by {vision.provider}: largest relative error {figures['worst']:.1e}, "
        f"limit {limit:.0e}; {figures['onnx_ms']:.1f} ms, torch {figures['torch_ms']:.1f} ms"
    )
    if args.json:
        about = {
            "checkpoint": checkpoint.name,
            "precision": precision,
            "frames": args.frames,
            "provider": vision.provider,
        }
        write_whole(args.json, json.dumps(about | figures, indent=1))
    return 0 if figures["worst"] <= limit else 1


def compare(tower: Tower, vision: OnnxVision, frames: int) -> dict[str, float]:
    """The largest relative error over synthetic images, and the median time of a step's images, ms, both ways."""
    errors: list[float] = []
    seconds: dict[str, list[float]] = {"onnx": [], "torch": []}

    def torchs(pictures: ImageInputs) -> torch.Tensor:
        crops, indices = torch.from_numpy(pictures.crops), torch.from_numpy(pictures.indices)
        return tower.backbone(crops[None], indices[None])

    with torch.inference_mode():
        for seed in tqdm(range(frames), unit="picture", mininterval=2):
            pictures, seen = tower.pictures(seed), []
            for name, see in (("onnx", vision), ("torch", torchs)):
                began = time.perf_counter()
                seen.append(see(pictures).numpy())
                seconds[name].append(time.perf_counter() - began)
            errors.append(relative_error(*seen))
    medians = {f"{name}_ms": float(np.median(spent)) * 1e3 for name, spent in seconds.items()}
    return {"worst": max(errors), **medians}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options to `parser`."""
    parser.add_argument("--precision", default="float32", help="float32, float16, or bfloat16 (TensorRT alone)")
    parser.add_argument("--frame-size", default="", help='size of the images, such as 320x240, or "camera"')
    parser.add_argument("--frames", type=above_zero(int), default=50, help="images on which it is compared with torch")
    parser.add_argument("--out", type=Path, help="folder; default: the user's cache, where the engine looks")
    add_json(parser)
    add_checkpoint(parser)


def run(args: argparse.Namespace) -> int:
    """Export the vision tower and compare it with torch; returns 1 where they differ too much."""
    return export_and_compare(checkpoint_of(args), args, Console())
