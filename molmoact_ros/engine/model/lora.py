"""A LoRA adapter as PEFT saves it, and what it changes in a checkpoint's tensors.

LoRA (Hu et al., 2021): a matrix W becomes W + s B A, with A [r, in], B [out, r] and s = alpha / r, or alpha / sqrt(r)
where it is rank-stabilised. Modules have the names of the released model, or those of Ai2's trainer, whose own LoRA
training saves adapters of the same form.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Final, Literal

import torch
from pydantic import BaseModel, ConfigDict, ValidationError
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from molmoact_ros.engine.model.folder_kind import ADAPTER_CONFIG, ADAPTER_WEIGHTS
from molmoact_ros.engine.model.weight_files import CheckpointError, Shape
from molmoact_ros.utils.git_lfs import unread_reason

_PART = re.compile(r"(?P<module>.+)\.lora_(?P<part>A|B|embedding_A|embedding_B)(\.(?!weight$)\w+)?(\.weight)?")
_KEPT: Final = re.compile(r"\.(modules_to_save|original_module)\.(default\.)?|\.base_layer\.")
_ATTENTION, _MLP = ("att_proj", "attn_out", "q_norm", "k_norm"), ("ff_proj", "ff_out")
Change = Callable[[Tensor], Tensor]
"""The merged tensor of a checkpoint's tensor, of the same shape."""


class LoraConfig(BaseModel):
    """`adapter_config.json`: what scales the adapter, and what this code does not compute and therefore refuses."""

    model_config = ConfigDict(extra="allow")
    peft_type: Literal["LORA"]
    base_model_name_or_path: str | None = None
    r: int
    lora_alpha: float
    use_rslora: bool = False
    fan_in_fan_out: bool = False
    alpha_pattern: dict[str, float] = {}
    init_lora_weights: Literal[True, False, "gaussian", "orthogonal", "eva"] = True  # others change the base as well
    use_dora: Literal[False] = False
    lora_bias: Literal[False] = False
    layer_replication: None = None
    target_parameters: None = None
    trainable_token_indices: None = None
    alora_invocation_tokens: None = None
    use_bdlora: Literal[False] | None = None
    use_qalora: Literal[False] = False
    kasa_config: None = None
    velora_config: None = None
    monteclora_config: None = None
    arrow_config: None = None

    @classmethod
    def load(cls, folder: Path) -> LoraConfig:
        """Read it from an adapter's folder. Raises CheckpointError that names the file and the field."""
        path = folder / ADAPTER_CONFIG
        if not path.is_file():
            raise CheckpointError(f"{path} is missing; give the folder that PEFT has saved")
        try:
            return cls.model_validate_json(path.read_text())
        except UnicodeDecodeError as error:
            raise CheckpointError(f"{path}: {error}") from None
        except ValidationError as error:
            first = error.errors()[0]
            where, value = ".".join(map(str, first["loc"])) or "it", first.get("input")
            raise CheckpointError(f"{path}: {where}: {first['msg']}; {value!r} is not merged here") from None

    def scale(self, module: str, rank: int) -> float:
        """s of a module whose matrices have this rank; an entry of alpha_pattern for it takes precedence."""
        fitting = (alpha for name, alpha in self.alpha_pattern.items() if re.fullmatch(rf"(.*\.)?({name})", module))
        alpha = next(fitting, self.lora_alpha)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)


@dataclass(frozen=True)
class LoraAdapter:
    """pairs: A and B of each module. whole: tensors that replace the checkpoint's (modules_to_save, biases)."""

    config: LoraConfig
    pairs: dict[str, tuple[Tensor, Tensor]]
    whole: dict[str, Tensor] = field(default_factory=dict)

    @classmethod
    def load(cls, folder: Path) -> LoraAdapter:
        """Read an adapter's folder. Raises CheckpointError that names what does not fit."""
        config = LoraConfig.load(folder)
        parts: dict[str, dict[str, Tensor]] = {}
        whole: dict[str, Tensor] = {}
        for key, tensor in _tensors(folder).items():
            name = key.removeprefix("base_model.model.")
            if found := _PART.fullmatch(name):
                parts.setdefault(found["module"], {})[found["part"].removeprefix("embedding_")] = tensor
            elif ".lora_" in name or "trainable_tokens" in name:
                raise CheckpointError(f"{folder}: what {key} does is not merged here; merge it with PEFT")
            elif ".original_module." not in name:
                whole[_KEPT.sub(".", name)] = tensor
        if lone := next((module for module, both in parts.items() if len(both) < 2), None):
            raise CheckpointError(f"{folder}: {lone} lacks lora_A or lora_B; copy the adapter again")
        return cls(config, {module: (both["A"], both["B"]) for module, both in parts.items()}, whole)

    def changes(self, shapes: Mapping[str, Shape]) -> dict[str, Change]:
        """What changes, by the name of the tensor among `shapes` of a checkpoint. Raises CheckpointError."""
        found: dict[str, Change] = {}
        for module, (a, b) in self.pairs.items():
            name = _name_in(shapes, f"{module}.weight")
            delta_shape = (a.shape[1], b.shape[0]) if self.config.fan_in_fan_out else (b.shape[0], a.shape[1])
            if a.dim() != 2 or a.shape[0] != b.shape[1] or shapes[name] != delta_shape:
                sizes = f"lora_A {list(a.shape)} and lora_B {list(b.shape)}"
                raise CheckpointError(f"{module}: {sizes} do not fit {name} {list(shapes[name])}")
            found[name] = self._addition(module, a, b)
        for key, tensor in self.whole.items():
            name = _name_in(shapes, key)
            if shapes[name] != tuple(tensor.shape):
                raise CheckpointError(f"the adapter's {key} {list(tensor.shape)} does not fit {list(shapes[name])}")
            found[name] = partial(replaced, tensor)
        if not found:
            raise CheckpointError("the adapter holds no tensors; copy it again")
        return found

    def _addition(self, module: str, a: Tensor, b: Tensor) -> Change:
        scale = self.config.scale(module, a.shape[0])

        def merged(old: Tensor) -> Tensor:
            delta = b.float() @ a.float() * scale
            return (old.float() + (delta.T if self.config.fan_in_fan_out else delta)).to(old.dtype)

        return merged


def replaced(new: Tensor, old: Tensor) -> Tensor:
    """`new` [...] in the dtype of `old` [...], which it replaces."""
    return new.to(old.dtype)


def released_name(name: str) -> str:
    """The released model's name of a tensor or module of Ai2's trainer.

    There, attention and MLP have no module of their own, and the head is `transformer.ff_out`.
    """
    if name.startswith("transformer.ff_out"):
        return name.replace("transformer.ff_out", "lm_head", 1)
    found = re.fullmatch(r"(transformer\.blocks\.\d+\.)((\w+).*)", name)
    if found is None:
        return f"model.{name}"
    block, part, first = found.groups()
    return f"model.{block}{'self_attn.' if first in _ATTENTION else 'mlp.' if first in _MLP else ''}{part}"


def _name_in(shapes: Mapping[str, Shape], name: str) -> str:
    for candidate in (name, released_name(name), f"model.{name}"):
        if candidate in shapes:
            return candidate
    raise CheckpointError(f"the checkpoint has no tensor {name}; is the adapter for another one? give it with --base")


def _tensors(folder: Path) -> dict[str, Tensor]:
    safe, pickled = (folder / name for name in ADAPTER_WEIGHTS)
    path = safe if safe.is_file() else pickled
    if not path.is_file():
        raise CheckpointError(f"{safe} is missing; copy the adapter again")
    try:
        tensors: dict[str, Tensor] = load_file(path) if path is safe else torch.load(path, "cpu", weights_only=True)
    except (SafetensorError, OSError, ValueError, RuntimeError, EOFError, ImportError) as error:
        reason = unread_reason(path, str(error).partition("\n")[0])
        raise CheckpointError(f"{path} is corrupt ({reason}); copy it again") from None
    if bad := next((name for name, t in tensors.items() if not bool(torch.isfinite(t).all())), None):
        raise CheckpointError(f"{path}: {bad} holds NaN or infinity; train again, or copy it again")
    return tensors
