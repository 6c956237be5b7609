"""What a folder holds that is not a checkpoint as it is loaded here, and what to do about it, in one line."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final, Literal

ADAPTER_CONFIG: Final = "adapter_config.json"
ADAPTER_WEIGHTS: Final = ("adapter_model.safetensors", "adapter_model.bin")
_PICKLES: Final = ("pytorch_model.bin", "pytorch_model.bin.index.json", "model.pth", "consolidated.00.pth")
_TRAINERS: Final = ("model.pt", "model_and_optim", "config.yaml")
"""What Ai2's trainer saves: an unsharded or a sharded checkpoint, and its configuration."""


def family(folder: Path) -> Literal["molmoact", "molmoact2"]:
    """Which family of checkpoints a folder's config.json names; "molmoact" also where it cannot be read."""
    try:
        config = json.loads((folder / "config.json").read_text())
    except (OSError, ValueError):
        return "molmoact"
    return "molmoact2" if isinstance(config, dict) and config.get("model_type") == "molmoact2" else "molmoact"


def other_kind(folder: Path) -> str:
    """Why a folder without config.json or without safetensors is no checkpoint; empty where its files do not tell."""
    if (folder / ADAPTER_CONFIG).is_file() or any((folder / name).is_file() for name in ADAPTER_WEIGHTS):
        return f"{folder} is a PEFT adapter, not a whole checkpoint; merge it: molmoact-ros merge {folder} --out DIR"
    if any((folder / name).exists() for name in _TRAINERS):
        return (
            f"{folder} is a checkpoint of Ai2's trainer; convert it first, with its own "
            "`python3 -m olmo.hf_model.molmoact.convert_molmoact_to_hf`"
        )
    if pickled := next((name for name in _PICKLES if (folder / name).is_file()), ""):
        return f"{folder / pickled} is a pickle, which is not loaded; save the weights as safetensors"
    forms = ("snapshots/*/config.json", "*/config.json", f"*/{ADAPTER_CONFIG}")
    if inner := sorted({path.parent for form in forms for path in folder.glob(form)}):
        within = "" if (inner[-1] / "config.json").is_file() else other_kind(inner[-1])
        return f"{folder} is no checkpoint, but holds {len(inner)}; {within or f'give {inner[-1]}'}"
    return ""


def quantised_by(config: Mapping[str, Any]) -> str:
    """The method of `quantization_config` in config.json, such as awq; "another program" where it names none."""
    section = config.get("quantization_config")
    return str((section if isinstance(section, Mapping) else {}).get("quant_method") or "another program")
