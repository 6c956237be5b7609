"""The weight files of a checkpoint folder: safetensors, one or several with an index, their headers checked first."""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import nn

from molmoact_ros.engine.model.float8 import dequantised, is_float8, only_for_kernels, scales_of
from molmoact_ros.engine.model.folder_kind import other_kind, quantised_by
from molmoact_ros.utils.git_lfs import unread_reason

WEIGHTS, INDEX = "model.safetensors", "model.safetensors.index.json"
_CONFIG = "config.json"
_MIB = 2**20
LONG = 256 * _MIB
"""Size above which a weight file is hashed by its length and ends only, bytes."""
Shape = tuple[int, ...]


class CheckpointError(RuntimeError):
    """An unusable checkpoint. The message is one line that says what to do."""


@dataclass(frozen=True)
class Weights:
    """The weight files of a folder and their headers: each tensor's file, shape and dtype ("F32", "BF16").

    scales: the file and the name of the scale of each float8 tensor; scales are no tensors of the model.
    """

    files: tuple[Path, ...]
    shapes: dict[str, Shape] = field(default_factory=dict)
    dtypes: dict[str, str] = field(default_factory=dict)
    file_of: dict[str, Path] = field(default_factory=dict)
    scales: dict[str, tuple[Path, str]] = field(default_factory=dict)

    def below(self, prefix: str) -> Weights:
        """Only the tensors whose names start with `prefix`."""
        names = [name for name in self.shapes if name.startswith(prefix)]
        file_of = {name: self.file_of[name] for name in names}
        shapes, dtypes = {n: self.shapes[n] for n in names}, {n: self.dtypes[n] for n in names}
        return Weights(tuple(dict.fromkeys(file_of.values())), shapes, dtypes, file_of)


def read_headers(folder: Path) -> Weights:
    """Read the headers of a folder's weight files.

    Raises CheckpointError for a file that is missing, is truncated, or lacks a tensor that the index assigns to it, and
    for weights that are quantised to integers, or hold an adapter that was not merged. Of a folder with both,
    model.safetensors counts and not the index, as in transformers.
    """
    names = {} if (folder / WEIGHTS).is_file() or not (folder / INDEX).is_file() else _indexed(folder)
    if not names and not (folder / WEIGHTS).is_file():
        missing = f"{folder / WEIGHTS} is missing, and so is {INDEX}; copy the whole checkpoint folder again"
        raise CheckpointError(other_kind(folder) or missing)
    files = tuple(folder / name for name in sorted(set(names.values()))) or (folder / WEIGHTS,)
    weights = Weights(files)
    for path in files:
        read_header(path, weights)
    for tensor, name in names.items():
        if weights.file_of.get(tensor) != folder / name:
            raise CheckpointError(
                f"{folder / name} lacks the tensor {tensor}, which {INDEX} says it holds; download it again"
            )
    if reason := _unreadable(folder, weights):
        raise CheckpointError(reason)
    return _with_scales(weights)


def _unreadable(folder: Path, weights: Weights) -> str:
    """Why the weights are of a kind that is not loaded, in one line; empty where they are not."""
    if name := next((name for name in weights.shapes if ".lora_" in name or ".base_layer." in name), ""):
        return (
            f"{weights.file_of[name]} holds an adapter that was not merged ({name}); save the adapter alone, and "
            "`molmoact-ros merge` it"
        )
    if name := next((name for name, dtype in weights.dtypes.items() if not dtype.startswith(("F", "BF"))), ""):
        config = json.loads((folder / _CONFIG).read_text()) if (folder / _CONFIG).is_file() else {}
        return (
            f"{weights.file_of[name]}: {name} is stored as {weights.dtypes[name]}, quantised by "
            f"{quantised_by(config)}, which is not read; take the checkpoint as it was before, and `quantization`"
        )
    scales = scales_of(weights.dtypes)
    matched = scales.keys() | set(scales.values())
    if name := next((name for name, dtype in weights.dtypes.items() if is_float8(dtype) and name not in matched), ""):
        return f"{weights.file_of[name]}: {name} is float8 and lacks its scale, {name}_scale; save the checkpoint again"
    return ""


def _with_scales(weights: Weights) -> Weights:
    """The same with the scales of float8 tensors told apart, and without what only a float8 kernel needs."""
    scales = scales_of(weights.dtypes)
    if not scales:
        return weights
    dropped = {*scales.values(), *only_for_kernels(weights.shapes)}
    kept = [name for name in weights.shapes if name not in dropped]
    return Weights(
        weights.files, {n: weights.shapes[n] for n in kept}, {n: weights.dtypes[n] for n in kept},
        {n: weights.file_of[n] for n in kept}, {n: (weights.file_of[s], s) for n, s in scales.items()},
    )  # fmt: skip


def _indexed(folder: Path) -> dict[str, str]:
    """The file name of each tensor, from the index."""
    try:
        names: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
    except (json.JSONDecodeError, KeyError, TypeError, UnicodeDecodeError) as error:
        raise CheckpointError(f"{folder / INDEX} is corrupt ({error!r}); download it again") from None
    strange = next((name for name in names.values() if Path(name).name != name), None)
    if strange is not None:
        raise CheckpointError(f"{folder / INDEX} names {strange!r}, which is not a file of the folder")
    return names


def read_header(path: Path, weights: Weights) -> None:
    """Add the tensors of one safetensors file to `weights`. Raises CheckpointError."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; `molmoact-ros fetch` gets what is missing")
    try:
        with safe_open(path, framework="pt") as file:
            for name in file.keys():  # noqa: SIM118
                piece = file.get_slice(name)
                weights.shapes[name], weights.dtypes[name] = tuple(piece.get_shape()), piece.get_dtype()
                weights.file_of[name] = path
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt ({unread_reason(path, error)}); copy or download it again") from None


def misfits(model: nn.Module, weights: Weights) -> list[str]:
    """Mismatches between a model (on any device, meta too) and weight files; one line per tensor."""
    wanted = {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}
    lines = []
    for name, shape in wanted.items():
        if name not in weights.shapes:
            lines.append(f"the tensor {name} {list(shape)} is missing")
        elif weights.shapes[name] != shape:
            lines.append(f"{name} has shape {list(weights.shapes[name])}, not {list(shape)}")
    unknown = sorted(weights.shapes.keys() - wanted.keys())
    return lines + [f"{weights.file_of[name].name} holds the unknown tensor {name}" for name in unknown]


def fill(model: nn.Module, weights: Weights, device: str, dtype: torch.dtype) -> None:
    """Load the tensors of weight files into `model` (on meta). Raises CheckpointError that names a mismatch."""
    if lines := misfits(model, weights):
        more = f" (and {len(lines) - 1} more; see `molmoact-ros doctor --checkpoint`)" if len(lines) > 1 else ""
        where = weights.files[0] if len(weights.files) == 1 else weights.files[0].parent
        raise CheckpointError(f"{where} does not hold the model: {lines[0]}{more}")
    for path in weights.files:
        with safe_open(path, framework="pt") as file:
            tensors = {}
            for name in (name for name, holder in weights.file_of.items() if holder == path):
                tensor = read_tensor(file, name, weights)
                if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
                    raise CheckpointError(f"{path}: {name} holds NaN or infinity; copy or download it again")
                # A copy, never a view of the memory-mapped file: a late page fault would stall a step.
                tensors[name] = tensor.to(device, dtype, copy=True)
            model.load_state_dict(tensors, strict=False, assign=True)


def read_tensor(file: Any, name: str, weights: Weights) -> torch.Tensor:
    """A tensor [...] of an open weight file; one in float8 as float32, by its scale. Raises CheckpointError."""
    stored: torch.Tensor = file.get_tensor(name)
    if name not in weights.scales:
        return stored
    path, scale = weights.scales[name]
    with safe_open(path, framework="pt") as other:
        try:
            return dequantised(stored, other.get_tensor(scale))
        except ValueError as error:
            raise CheckpointError(f"{path}: {scale}: {error}; save the checkpoint without float8") from None


def digest(folder: Path) -> str:
    """First 12 hexadecimal digits of a SHA-256 that identifies a checkpoint by its weight files.

    Files larger than `LONG` contribute only their length and their first and last MiB.
    """
    total = hashlib.sha256()
    for path in read_headers(folder).files:
        size = path.stat().st_size
        with path.open("rb") as file:
            if size > LONG:
                total.update(size.to_bytes(8, "little") + file.read(_MIB))
                file.seek(size - _MIB)
            total.update(file.read())
    return total.hexdigest()[:12]


def short_hash(path: Path) -> str:
    """First 12 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]
