"""Models of any shape with random weights, for measurements of time: that does not depend on the weights' values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.quantization import LEAST, check
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.engine.molmoact2.model import MolmoAct2

COPIED = 2**29
"""Bytes copied to measure a device's bandwidth: more than the caches of processors and GPUs hold."""
CAMERAS = 2
Figures = dict[str, float]


@dataclass(frozen=True)
class Case:
    """A measurement. quantization: of the weights ("": none); prompt, tokens: of the prompt and of an answer; passes:
    counts for which a step's time is reported; repeats: of each measurement."""

    config: MolmoActConfig | MolmoAct2Config
    device: torch.device
    dtype: torch.dtype
    quantization: str
    prompt: int
    tokens: int
    passes: Sequence[float]
    repeats: int


def possible(case: Case) -> list[str]:
    """The quantizations that a case's device supports, "none" among them."""

    def fits(kind: str) -> bool:
        try:
            check(kind, case.device, case.dtype)
        except CheckpointError:
            return False
        return True

    return ["none", *filter(fits, LEAST)]


def device_name(device: torch.device) -> str:
    """The name of a device."""
    return (
        torch.cuda.get_device_name(device)
        if device.type == "cuda"
        else f"the processor, {torch.get_num_threads()} threads"
    )


def check_case(case: Case) -> None:
    """Raise CheckpointError for a device that is not there, or that does not support such weights."""
    check(case.quantization, case.device, case.dtype)
    if case.device.type == "cuda" and not torch.cuda.is_available():
        raise CheckpointError(f"torch finds no GPU for {str(case.device)!r}; use the device cpu")


def random_model(case: Case) -> MolmoAct | MolmoAct2:
    """A model of that shape whose activations stay finite: its matrices preserve the norm of their input."""
    with torch.device("meta"):
        config = case.config
        model = MolmoAct2(config) if isinstance(config, MolmoAct2Config) else MolmoAct(config)
    model = model.to(case.dtype).to_empty(device=case.device)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.normal_(std=parameter.shape[-1] ** -0.5)
            else:
                parameter.fill_(float(name.endswith("norm.weight") or name.endswith("ln_f.weight")))
    return model.eval()


def random_pictures(case: Case, views: int) -> tuple[Tensor, Tensor]:
    """A crop for each camera, and the patches of each image token, as MolmoAct.image_features takes them.

    Crops float [1, N, P, patch_dim], and indices int64 [1, T, 4]. views: how often each image stands in the prompt.
    """
    rows, columns = case.config.vit_config.grid
    crops = torch.rand(1, CAMERAS, rows * columns, case.config.vit_config.patch_dim, dtype=case.dtype)
    patches = np.full((-(-rows // 2) * 2, -(-columns // 2) * 2), -1)
    patches[:rows, :columns] = np.arange(rows * columns).reshape(rows, columns)
    windows = patches.reshape(len(patches) // 2, 2, -1, 2).transpose(0, 2, 1, 3).reshape(-1, 4)
    of_all = [np.where(windows < 0, -1, windows + i * rows * columns) for i in range(CAMERAS) for _ in range(views)]
    return crops.to(case.device), torch.from_numpy(np.concatenate(of_all))[None].to(case.device)
