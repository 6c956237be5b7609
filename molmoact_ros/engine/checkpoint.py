"""A checkpoint folder: config.json, model.safetensors, tokenizer.json, depth_vq.safetensors."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from pathlib import Path

import torch
from pydantic import ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer

from molmoact_ros.engine.config import MolmoActConfig
from molmoact_ros.engine.depth_vq import DepthVq
from molmoact_ros.engine.model import MolmoAct

CONFIG, WEIGHTS, TOKENIZER, DEPTH = "config.json", "model.safetensors", "tokenizer.json", "depth_vq.safetensors"


class CheckpointError(RuntimeError):
    """A checkpoint that cannot be used; its message is one line that says what to do."""


@dataclass(frozen=True)
class Checkpoint:
    """What a folder holds. `digest`: SHA-256 of the weights, first 12 hexadecimal digits."""

    config: MolmoActConfig
    model: MolmoAct
    tokenizer: Tokenizer
    depth_vq: DepthVq
    digest: str


def load_checkpoint(folder: Path) -> Checkpoint:
    """Read a folder. Raises CheckpointError naming the file, tensor or field that does not fit."""
    if not folder.is_dir():
        raise CheckpointError(f"no checkpoint at {folder}; give the folder with --checkpoint, or train one")
    for name in (CONFIG, WEIGHTS, TOKENIZER, DEPTH):
        if not (folder / name).is_file():
            raise CheckpointError(f"{folder / name} is missing; copy the whole checkpoint folder again")
    try:
        config = MolmoActConfig.read(folder / CONFIG)
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "it"
        raise CheckpointError(f"{folder / CONFIG}: {where}: {first['msg']}") from None
    try:
        tokenizer = Tokenizer.from_file(str(folder / TOKENIZER))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{folder / TOKENIZER} is not a tokenizer: {error}") from None
    model = MolmoAct(config)
    _fill(model, folder / WEIGHTS)
    return Checkpoint(config, model.eval(), tokenizer, load_depth_vq(folder / DEPTH), digest(folder / WEIGHTS))


def load_depth_vq(path: Path) -> DepthVq:
    """The depth VQ-VAE in a safetensors file; its widths are read off the tensors. Raises CheckpointError."""
    tensors = _read(path)
    try:
        hidden, (codes, dim) = len(tensors["encoder.0.weight"]), tensors["_vq_vae._embedding"].shape
    except KeyError as error:
        raise CheckpointError(f"{path} lacks the tensor {error}; it is not a depth VQ-VAE") from None
    model = DepthVq(hidden, dim, codes)
    _fill(model, path)
    return model.eval()


def save_checkpoint(folder: Path, model: MolmoAct, tokenizer: Tokenizer, depth_vq: DepthVq) -> None:
    """Write a folder that `load_checkpoint` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / CONFIG).write_text(model.config.model_dump_json(indent=1))
    tokenizer.save(str(folder / TOKENIZER))
    for name, module in ((WEIGHTS, model), (DEPTH, depth_vq)):
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / name)


def digest(path: Path) -> str:
    """First 12 hexadecimal digits of a file's SHA-256."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:12]


def _read(path: Path) -> dict[str, torch.Tensor]:
    try:
        return load_file(path)
    except (SafetensorError, OSError, ValueError) as error:
        raise CheckpointError(f"{path} is corrupt ({error}); copy or download it again") from None


def _fill(module: torch.nn.Module, path: Path) -> None:
    """Load every tensor by name and shape; the first that does not fit is named."""
    tensors, wanted = _read(path), module.state_dict()
    for name, tensor in wanted.items():
        if name not in tensors:
            raise CheckpointError(f"{path} lacks the tensor {name}; it does not belong to this config.json")
        if tensors[name].shape != tensor.shape:
            found, expected = list(tensors[name].shape), list(tensor.shape)
            raise CheckpointError(f"{path}: {name} has shape {found}, config.json asks for {expected}")
        if tensors[name].is_floating_point() and not bool(torch.isfinite(tensors[name]).all()):
            raise CheckpointError(f"{path}: {name} holds NaN or infinity; copy or download it again")
    extra = sorted(set(tensors) - set(wanted))
    if extra:
        raise CheckpointError(f"{path} holds the unknown tensor {extra[0]}; it does not belong to this config.json")
    module.load_state_dict(tensors)
