"""Loads MolmoAct 2 folders in the released layout. Headers are checked first; code in the folder is never run."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path

import torch
from tokenizers import Tokenizer

from molmoact_ros.engine.model.checkpoint import (
    CONFIG,
    RUN,
    WHOLE_PROCESSOR,
    default_dtype,
    read_config,
    read_tokenizer,
    require_device,
)
from molmoact_ros.engine.model.weight_files import CheckpointError, Weights, digest, fill, read_headers
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config, RobotProcessorConfig, TagRunConfig
from molmoact_ros.engine.molmoact2.model import COMPUTED, IGNORED, MolmoAct2
from molmoact_ros.reasoning.robot_stats import NormStatsFile


@dataclass(frozen=True)
class RobotCheckpoint:
    """The content of a MolmoAct 2 folder; digest: see `weight_files.digest`."""

    config: MolmoAct2Config
    processor: RobotProcessorConfig
    stats: NormStatsFile
    run: TagRunConfig
    tokenizer: Tokenizer
    model: MolmoAct2
    digest: str


class RobotCheckpointFolder:
    """The small files of a MolmoAct 2 folder, each parsed once, when it is first needed.

    Every property raises CheckpointError, which names the file and the field that does not fit.

        files = RobotCheckpointFolder(Path("MolmoAct2-DROID"))
        list(files.stats.metadata_by_tag)  # ["franka_droid"]
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    @cached_property
    def config(self) -> MolmoAct2Config:
        """`config.json`."""
        return read_config(self.path, CONFIG, MolmoAct2Config)

    @cached_property
    def processor(self) -> RobotProcessorConfig:
        """`processor_config.json`."""
        return read_config(self.path, WHOLE_PROCESSOR, RobotProcessorConfig)

    @cached_property
    def stats(self) -> NormStatsFile:
        """Statistics and words by norm_tag, from the file that config.json names."""
        name, config = self.config.norm_stats_filename, self.config
        if Path(name).name != name:
            raise CheckpointError(f"{self.path / CONFIG} names {name!r}, which is not a file of the folder")
        stats = read_config(self.path, name, NormStatsFile)
        for tag, metadata in stats.metadata_by_tag.items():
            where = f"{self.path / name}: metadata_by_tag.{tag}"
            if metadata.action_horizon > config.max_action_horizon:
                raise CheckpointError(
                    f"{where}.action_horizon is {metadata.action_horizon}, and config.json's max_action_horizon "
                    f"{config.max_action_horizon}"
                )
            if metadata.action_stats.dimensions > config.max_action_dim:
                raise CheckpointError(
                    f"{where}.action_stats has {metadata.action_stats.dimensions} dimensions, and config.json's "
                    f"max_action_dim is {config.max_action_dim}"
                )
        return stats

    @cached_property
    def run(self) -> TagRunConfig:
        """`run.json`, or its defaults where the folder has none, as released ones."""
        return read_config(self.path, RUN, TagRunConfig) if (self.path / RUN).exists() else TagRunConfig()

    @cached_property
    def tokenizer(self) -> Tokenizer:
        """`tokenizer.json`."""
        return read_tokenizer(self.path)

    @cached_property
    def weights(self) -> Weights:
        """The headers of the weight files; see `model_weights`."""
        return model_weights(self.path)

    def empty_model(self) -> MolmoAct2:
        """The model on the meta device."""
        with torch.device("meta"):
            return MolmoAct2(self.config)


def model_weights(folder: Path) -> Weights:
    """The headers of a folder's weight files, without tensors that are computed or that nothing reads."""
    weights = read_headers(folder)
    dropped = [name for name in weights.shapes if name == COMPUTED or any(part in name for part in IGNORED)]
    kept = [name for name in weights.shapes if name not in dropped]
    return replace(
        weights, shapes={n: weights.shapes[n] for n in kept}, dtypes={n: weights.dtypes[n] for n in kept},
        file_of={n: weights.file_of[n] for n in kept},
    )  # fmt: skip


def load_robot_checkpoint(
    folder: Path | RobotCheckpointFolder, device: str = "cpu", dtype: torch.dtype | None = None
) -> RobotCheckpoint:
    """Read a folder, its weights to `device` in `dtype` (default: bfloat16 on a GPU, float32 on a CPU).

    Weights load file by file, tensor by tensor. Raises CheckpointError that names the file, tensor or field that does
    not fit.
    """
    files = folder if isinstance(folder, RobotCheckpointFolder) else RobotCheckpointFolder(folder)
    config, processor, stats, run, tokenizer = files.config, files.processor, files.stats, files.run, files.tokenizer
    require_device(device)
    model = files.empty_model()
    fill(model, files.weights, device, dtype or default_dtype(device))
    return RobotCheckpoint(config, processor, stats, run, tokenizer, model.eval(), digest(files.path))
