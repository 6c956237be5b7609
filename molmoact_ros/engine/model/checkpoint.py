"""Loads checkpoint folders in the released Hugging Face layout or the nano's; file headers are checked first.

Loading runs no code from the folder and loads no pickle, except the released depth VQ-VAE: only its tensors are
unpickled (`weights_only`), and they are stored as safetensors.
"""

from __future__ import annotations

import json
import os
import pickle
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TypeVar

import torch
from pydantic import BaseModel, ValidationError
from safetensors.torch import save_file
from tokenizers import Tokenizer

from molmoact_ros.engine.model.config import MolmoActConfig, ProcessorConfig, RunConfig
from molmoact_ros.engine.model.depth_vq import DepthVq
from molmoact_ros.engine.model.folder_kind import other_kind
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import (
    WEIGHTS,
    CheckpointError,
    Weights,
    digest,
    fill,
    read_header,
    read_headers,
    short_hash,
)
from molmoact_ros.reasoning.tokens import TextCodec
from molmoact_ros.utils.git_lfs import unread_reason

CONFIG, PROCESSOR, RUN, TOKENIZER = "config.json", "preprocessor_config.json", "run.json", "tokenizer.json"
WHOLE_PROCESSOR = "processor_config.json"
"""Where transformers 5 puts what version 4 saved as PROCESSOR, in the field `image_processor`."""
DEPTH, RELEASED_DEPTH = "depth_vq.safetensors", "vae-final.pt"
DEFAULT_DTYPE = {"cpu": torch.float32, "cuda": torch.bfloat16}
"""Default dtype of the weights on each kind of device."""
Config = TypeVar("Config", bound=BaseModel)


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint folder.

    digest: see the function. depth_vq: None if the folder has no depth decoder. codebook: first 12 hexadecimal digits
    of the SHA-256 of the depth decoder's file; empty without one.
    """

    config: MolmoActConfig
    processor: ProcessorConfig
    run: RunConfig
    model: MolmoAct
    tokenizer: Tokenizer
    depth_vq: DepthVq | None
    codebook: str
    digest: str

    @property
    def codec(self) -> TextCodec:
        """The tokenizer functions that the grammar needs."""
        return text_codec(self.tokenizer)


class CheckpointFolder:
    """The small files of a checkpoint folder, each parsed once, when it is first needed.

    Every property raises CheckpointError, which names the file and the field that does not fit.

        files = CheckpointFolder(Path("models/nano"))
        files.config.norm_stats.keys()  # the un-normalisation keys
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> MolmoActConfig:
        """`config.json`: shapes of the network, and statistics by un-normalisation key."""
        return read_config(self.path, CONFIG, MolmoActConfig)

    @property
    def processor_file(self) -> Path:
        """The file that has the image processor; where both are there, processor_config.json, as in transformers."""
        return self.path / (PROCESSOR if _nested_processor(self.path) is None else WHOLE_PROCESSOR)

    @cached_property
    def processor(self) -> ProcessorConfig:
        """How images become patches: `image_processor` of processor_config.json, else preprocessor_config.json."""
        nested = _nested_processor(self.path)
        if nested is None:
            return read_config(self.path, PROCESSOR, ProcessorConfig)
        return _validated(ProcessorConfig, json.dumps(nested), f"{self.path / WHOLE_PROCESSOR}: image_processor")

    @cached_property
    def run(self) -> RunConfig:
        """`run.json`, or its defaults where the folder has none, as released ones."""
        return read_config(self.path, RUN, RunConfig) if (self.path / RUN).exists() else RunConfig()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """`tokenizer.json`."""
        return read_tokenizer(self.path)


def load_checkpoint(
    folder: Path | CheckpointFolder, device: str = "cpu", dtype: torch.dtype | None = None
) -> Checkpoint:
    """Read a folder, its weights to `device` in `dtype` (default: bfloat16 on a GPU, float32 on a CPU).

    Weights load file by file, tensor by tensor: memory holds at most one file besides the result. Raises
    CheckpointError that names the file, tensor or field that does not fit.
    """
    files = folder if isinstance(folder, CheckpointFolder) else CheckpointFolder(folder)
    path, config, processor, run, tokenizer = files.path, files.config, files.processor, files.run, files.tokenizer
    require_device(device)
    dtype = dtype or default_dtype(device)
    with torch.device("meta"):
        model = MolmoAct(config)
    fill(model, read_headers(path), device, dtype)
    depth = find_depth_vq(path)
    depth_vq, codebook = (load_depth_vq(depth), short_hash(depth)) if depth else (None, "")
    return Checkpoint(config, processor, run, model.eval(), tokenizer, depth_vq, codebook, digest(path))


def require_device(device: str) -> None:
    """Raise CheckpointError for a GPU that torch does not find."""
    if torch.device(device).type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"torch finds no GPU for {device!r}; use the device cpu, or install torch with CUDA")


def default_dtype(device: str) -> torch.dtype:
    """The default dtype of weights on a device."""
    return DEFAULT_DTYPE.get(torch.device(device).type, torch.float32)


def torch_dtype(name: str) -> torch.dtype | None:
    """The torch dtype for float32, bfloat16 or float16; None for "". Raises CheckpointError for any other name."""
    names = {"": None, "float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
    if name not in names:
        raise CheckpointError(f"weights cannot be computed in {name!r}; choose float32, bfloat16 or float16")
    return names[name]


def read_config(folder: Path, name: str, kind: type[Config]) -> Config:
    """Read and validate one of a folder's JSON files. Raises CheckpointError that names file and field."""
    if not folder.is_dir():
        raise CheckpointError(
            f"no checkpoint at {folder}; give the folder with --checkpoint, or `molmoact-ros fetch` one"
        )
    if not (folder / name).is_file():
        reason = other_kind(folder) if name == CONFIG else ""
        raise CheckpointError(reason or f"{folder / name} is missing; copy the whole checkpoint folder again")
    try:
        return _validated(kind, (folder / name).read_text("utf-8-sig"), str(folder / name))
    except UnicodeDecodeError as error:
        raise CheckpointError(f"{folder / name}: {error}") from None


def _validated(kind: type[Config], text: str, where: str) -> Config:
    try:
        return kind.model_validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        reason = first["msg"].removeprefix("Value error, ")
        raise CheckpointError(f"{where}: {'.'.join(map(str, first['loc'])) or 'it'}: {reason}") from None


def _nested_processor(folder: Path) -> object:
    """The image processor within processor_config.json, as transformers 5 saves it; None where it has none."""
    path = folder / WHOLE_PROCESSOR
    if not path.is_file():
        return None
    try:
        whole = json.loads(path.read_text())
    except ValueError as error:
        raise CheckpointError(f"{path}: {error}") from None
    return whole.get("image_processor") if isinstance(whole, dict) else None


def read_tokenizer(folder: Path) -> Tokenizer:
    """The folder's tokenizer.json. Raises CheckpointError."""
    path = folder / TOKENIZER
    if not path.is_file():
        raise CheckpointError(f"{path} is missing; copy the whole checkpoint folder again")
    try:
        return Tokenizer.from_file(str(path))
    except Exception as error:  # the library raises bare Exception
        raise CheckpointError(f"{path} is not a tokenizer: {unread_reason(path, error)}") from None


def text_codec(tokenizer: Tokenizer) -> TextCodec:
    """A codec that adds no special tokens when encoding and skips none when decoding."""
    return TextCodec(
        lambda text: tokenizer.encode(text, add_special_tokens=False).ids,
        lambda ids: tokenizer.decode(list(ids), skip_special_tokens=False),
    )


def find_depth_vq(folder: Path) -> Path | None:
    """The file of the folder's depth decoder, or None.

    A released one is converted first, next to itself, or into the user's cache if the folder is not writable.
    """
    if (folder / DEPTH).is_file() or not (folder / RELEASED_DEPTH).is_file():
        return folder / DEPTH if (folder / DEPTH).is_file() else None
    released = folder / RELEASED_DEPTH
    target = folder / DEPTH if os.access(folder, os.W_OK) else cache_folder() / f"{short_hash(released)}.safetensors"
    if not target.is_file():
        convert_depth_vq(released, target)
    return target


def load_depth_decoder(folder: Path) -> DepthVq | None:
    """Load the folder's depth VQ-VAE; None without one. Raises CheckpointError."""
    path = find_depth_vq(folder)
    return None if path is None else load_depth_vq(path)


def cache_folder() -> Path:
    """The user's cache folder for files derived from checkpoints."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "molmoact_ros"


def convert_depth_vq(pickled: Path, target: Path) -> None:
    """Convert the released VQ-VAE file to safetensors. It unpickles tensors only; else it raises CheckpointError."""
    try:
        state = torch.load(pickled, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError, ValueError) as error:
        reason = unread_reason(pickled, str(error).partition("\n")[0])
        raise CheckpointError(f"{pickled} is not a file of plain tensors ({reason}); download it again") from None
    state = state.get("weights", state) if isinstance(state, Mapping) else {}
    tensors = {str(k).removeprefix("module."): v.contiguous() for k, v in state.items() if isinstance(v, torch.Tensor)}
    target.parent.mkdir(parents=True, exist_ok=True)
    partial = target.with_suffix(".partial")
    save_file(tensors, partial)
    try:
        load_depth_vq(partial)
    except CheckpointError as error:
        partial.unlink()
        raise CheckpointError(f"{pickled}: {str(error).removeprefix(f'{partial} ')}") from None
    partial.rename(target)


def load_depth_vq(path: Path) -> DepthVq:
    """Load a depth VQ-VAE from a safetensors file; its widths follow from the tensors. Raises CheckpointError."""
    weights = Weights((path,))
    read_header(path, weights)
    try:
        hidden, (codes, dim) = weights.shapes["encoder.0.weight"][0], weights.shapes["_vq_vae._embedding"]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{path} lacks the tensor {error}; it is not a depth VQ-VAE") from None
    with torch.device("meta"):
        model = DepthVq(hidden, dim, codes, (0.0, 1.0) if "_span" in weights.shapes else None)
    fill(model, weights, "cpu", torch.float32)
    return model.eval()


def save_checkpoint(
    folder: Path, model: MolmoAct, tokenizer: Tokenizer, depth_vq: DepthVq, processor: ProcessorConfig, run: RunConfig
) -> None:
    """Write a folder that `load_checkpoint` reads."""
    folder.mkdir(parents=True, exist_ok=True)
    configs: dict[str, BaseModel] = {CONFIG: model.config, PROCESSOR: processor, RUN: run}
    for name, config in configs.items():
        (folder / name).write_text(config.model_dump_json(indent=1))
    tokenizer.save(str(folder / TOKENIZER))
    for name, module in ((WEIGHTS, model), (DEPTH, depth_vq)):
        save_file({k: v.contiguous() for k, v in module.state_dict().items()}, folder / name)
