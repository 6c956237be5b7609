"""Merges a LoRA adapter into a checkpoint: a new folder, built beside its place and renamed once it is whole."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Final

from safetensors import safe_open
from safetensors.torch import save_file

from molmoact_ros.engine.checkpoint_folders import open_folder
from molmoact_ros.engine.model.checkpoint import (
    CONFIG,
    DEPTH,
    PROCESSOR,
    RELEASED_DEPTH,
    RUN,
    TOKENIZER,
    WHOLE_PROCESSOR,
    CheckpointFolder,
)
from molmoact_ros.engine.model.lora import Change, LoraAdapter, LoraConfig
from molmoact_ros.engine.model.weight_files import INDEX, CheckpointError, Weights, misfits, read_headers
from molmoact_ros.engine.molmoact2.checkpoint import RobotCheckpointFolder
from molmoact_ros.utils.progress import Progress, ignore

_TRAINED_WITH: Final = (
    PROCESSOR, WHOLE_PROCESSOR, TOKENIZER, "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json",
    "chat_template.jinja", "chat_template.json", "generation_config.json", RUN,
)  # fmt: skip
"""Small files that an adapter's folder may have too; its own count, since the adapter was trained with them."""
NORM_STATS: Final = "norm_stats.json"
"""Statistics of MolmoAct 2, unless its config.json names another file."""
_COPIED: Final = (*_TRAINED_WITH, CONFIG, INDEX, "vocab.json", "merges.txt", "model.yaml", DEPTH, RELEASED_DEPTH)


def base_of(adapter: Path, given: Path | None) -> Path:
    """The checkpoint that an adapter belongs to: `given`, else the folder that its configuration names.

    A repository of the Hub counts as the folder of its name, as `molmoact-ros fetch` makes it here. Raises
    CheckpointError where there is no such folder.
    """
    if given is not None:
        return given
    named = LoraConfig.load(adapter).base_model_name_or_path or ""
    for folder in (Path(named), Path(named.rpartition("/")[2])):
        if named and folder.is_dir():
            return folder
    raise CheckpointError(f"{adapter} is for {named or 'a checkpoint that it does not name'}; say where, with --base")


def merge(adapter: Path, base: Path, out: Path, norm_stats: Path | None = None, progress: Progress = ignore) -> None:
    """Write the checkpoint `base` with an adapter merged into it to the new folder `out`.

    norm_stats: a file of statistics by un-normalisation key, such as the dataset_statistics.json of Ai2's scripts; it
    replaces those of config.json. progress: tensors written, of how many. Tensors keep their dtype; memory holds one
    weight file. Raises CheckpointError, in one line; then, and when it is interrupted, nothing is left behind.
    """
    if out.exists():
        raise CheckpointError(f"{out} exists; give a folder that does not")
    if not out.absolute().parent.is_dir():
        raise CheckpointError(f"{out.absolute().parent} does not exist; make it first")
    files = open_folder(base)
    weights = files.weights
    if lines := misfits(files.empty_model(), weights):
        raise CheckpointError(f"{base} does not hold the model: {lines[0]}")
    if weights.scales:
        raise CheckpointError(f"{base} is in float8; merge into the checkpoint as it was before")
    if norm_stats is not None and isinstance(files, RobotCheckpointFolder):
        raise CheckpointError("statistics of MolmoAct 2 lie in norm_stats.json; put them there, without --norm-stats")
    changes = LoraAdapter.load(adapter).changes(weights.shapes)
    beside = out.with_name(f".{out.name}.partial")
    shutil.rmtree(beside, ignore_errors=True)
    try:
        beside.mkdir()
        copy_small_files([adapter, base], beside)
        if norm_stats is not None:
            _set_norm_stats(beside, norm_stats)
        write_weights(read_headers(base), changes, beside, progress)
        beside.rename(out)
    finally:
        shutil.rmtree(beside, ignore_errors=True)


def copy_small_files(folders: Sequence[Path], to: Path) -> None:
    """Copy a checkpoint's files beside its weights: each from the first folder that has it; the last is the checkpoint.

    Only what a fine-tune may have of its own is taken from the others.
    """
    own = json.loads((folders[-1] / CONFIG).read_text()).get("norm_stats_filename", NORM_STATS)
    for name in (*_COPIED, own):
        sources = [folder / name for folder in (folders if name in _TRAINED_WITH else folders[-1:])]
        if source := next((path for path in sources if path.is_file()), None):
            shutil.copyfile(source, to / name)


def _set_norm_stats(folder: Path, file: Path) -> None:
    path = folder / CONFIG
    try:
        stats = json.loads(file.read_text())
    except ValueError as error:
        raise CheckpointError(f"{file}: {error}") from None
    path.write_text(json.dumps(json.loads(path.read_text()) | {"norm_stats": stats}, indent=1))
    try:
        config = CheckpointFolder(folder).config
    except CheckpointError as error:
        raise CheckpointError(str(error).replace(f"{path}: ", f"{file}: ", 1)) from None
    if not config.norm_stats:
        raise CheckpointError(f"{file} holds no statistics; give a dataset_statistics.json")


def write_weights(weights: Weights, changes: dict[str, Change], to: Path, progress: Progress = ignore) -> None:
    """Write all weight files of a checkpoint to a folder, the tensors in `changes` changed, file by file."""
    done = 0
    for path in weights.files:
        tensors = {}
        with safe_open(path, framework="pt") as file:
            for name in (name for name, holder in weights.file_of.items() if holder == path):
                old = file.get_tensor(name)
                tensors[name] = changes[name](old).contiguous() if name in changes else old
                done += 1
                progress(done, len(weights.shapes))
        save_file(tensors, to / path.name, metadata={"format": "pt"})
