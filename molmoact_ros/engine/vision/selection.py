"""Chooses what runs the vision tower, and compares it with torch before it is used."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import torch

from molmoact_ros.engine.model.checkpoint import cache_folder
from molmoact_ros.engine.model.config import RunConfig
from molmoact_ros.engine.model.image_processor import ImageProcessor
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.vision.cpu_tower import CpuTower, can_encode
from molmoact_ros.engine.vision.onnx_export import sample_pictures
from molmoact_ros.engine.vision.onnx_runtime import (
    CHECKED,
    LIMITS,
    Features,
    error_against,
    find_export,
    open_vision,
    providers,
)

VISIONS = ("auto", "compiled", "onnx", "torch")
"""What may run the vision tower; `auto`: the fastest of the others that is usable."""


def fastest(folder: Path, model: MolmoAct, frame_size: str = "") -> str:
    """The fastest of VISIONS that runs here and computes in float32, as torch does: then it changes no token.

    That order was measured on the nano (docs/backends.md). ONNX Runtime counts where the tower has been exported.
    """
    if can_encode(model):
        return "compiled"
    weight = model.lm_head.weight
    if weight.device.type != "cpu" or weight.dtype != torch.float32 or not (cache_folder() / "vision").is_dir():
        return "torch"
    installed = bool(providers()) and importlib.util.find_spec("onnx") is not None
    return "onnx" if installed and find_export(folder, "float32", frame_size).is_dir() else "torch"


def open_compiled(model: MolmoAct, torchs: Features, processor: ImageProcessor, run: RunConfig) -> CpuTower:
    """The compiled tower of a model, compared with `torchs`. Raises CheckpointError if the two differ, or if this
    model's tower is not of the kind that was compiled for."""
    if not can_encode(model):
        raise CheckpointError(
            "the compiled vision tower is for small models of the nano's kind in float32 on a CPU; see with torch"
        )
    tower = CpuTower(model)
    error = error_against(tower, torchs, [sample_pictures(processor, run, seed) for seed in range(CHECKED)])
    if not error <= LIMITS["float32"]:
        raise CheckpointError(
            f"the compiled vision tower differs from torch's by {error:.1e} of the largest feature, more than "
            f"{LIMITS['float32']:.0e}; compile it again (`make setup`), or see with torch"
        )
    return tower


def open_tower(
    vision: str, folder: Path, model: MolmoAct, torchs: Features, processor: ImageProcessor, run: RunConfig,
    precision: str = "", frame_size: str = "",
) -> tuple[str, Features]:  # fmt: skip
    """What runs the tower by its name in VISIONS, and from images to features [1, T, hidden].

    torchs: the tower in torch. processor, run: of the checkpoint. precision, frame_size: of the exported tower (see
    `open_vision`). Raises CheckpointError.
    """
    name = fastest(folder, model, frame_size) if vision == "auto" else vision
    if name == "compiled":
        return name, open_compiled(model, torchs, processor, run)
    if name == "onnx":
        return name, open_vision(folder, torchs, model.lm_head.weight, precision, frame_size)
    return name, torchs
