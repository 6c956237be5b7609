"""The model as it is trained: adapters by PEFT or all weights, gradient checkpointing, and the loss of an answer.

Everything is built on the meta device and filled tensor by tensor, so that a process never holds more than its own
shard of the weights and one tensor beside it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from math import gcd
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.utils.checkpoint import checkpoint

from molmoact_ros.engine.model.checkpoint import CheckpointFolder
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, misfits, read_headers, read_tensor
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method, ModelPart, part_of
from molmoact_ros.training.finetuning.examples import NO_LOSS, AnswerBatch

ADAPTER = "default"
"""PEFT's name of the adapter within the model."""
BASE = ".base_layer"
"""What PEFT adds to the names of a matrix with an adapter beside it."""
NF4_BLOCK = 64
"""Weights that share a scale in nf4."""


class AnswerLoss(nn.Module):
    """The loss of answers under a model: what is trained, and what is sharded as a whole."""

    def __init__(self, model: MolmoAct, z_weight: float, dropout: float = 0.0) -> None:
        """z_weight: of the squared log partition. dropout: of the decoder's residuals, answers' tokens excepted."""
        super().__init__()
        self.model, self.z_weight = model, z_weight
        self._dropped: Tensor | None = None  # bool [B, S, 1], where residuals are dropped
        if dropout:
            self._drop_residuals(dropout)

    def forward(self, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        """The loss summed over the answers' tokens, and its cross-entropy alone, detached: float32 [] each."""
        features = self.model.image_features(batch.crops, batch.pooled)
        there = (batch.pooled >= 0).any(-1)
        learnt = batch.targets != NO_LOSS
        self._dropped = ~learnt.unsqueeze(-1) if self.training else None
        hidden = self.model(batch.ids, features[there].unsqueeze(0))
        logits = self.model.logits(hidden[learnt]).float()
        partition = logits.logsumexp(-1)
        entropy = (partition - logits.gather(1, batch.targets[learnt].unsqueeze(1)).squeeze(1)).sum()
        return entropy + self.z_weight * partition.square().sum(), entropy.detach()

    def _drop_residuals(self, share: float) -> None:
        """Drop a `share` of what each attention and MLP adds to the residual stream, outside of answers."""

        def drop(_: nn.Module, __: Any, output: Tensor) -> Tensor:
            if self._dropped is None:
                return output
            return torch.where(self._dropped, nn.functional.dropout(output, share), output)

        for block in self.model.layers:
            last = (
                (block.attn_norm, block.ff_norm) if block.norm_after else (block.self_attn.attn_out, block.mlp.ff_out)
            )
            for module in last:
                module.register_forward_hook(drop)


def build_model(files: CheckpointFolder, config: FinetuneConfig) -> AnswerLoss:
    """The model of a checkpoint on the meta device: its trained parameters float32, frozen ones in `config.dtype`.

    Raises CheckpointError where the weights do not fit config.json, or are not to be trained.
    """
    with torch.device("meta"):
        model = MolmoAct(files.config)
    weights = read_headers(files.path)
    if lines := misfits(model, weights):
        raise CheckpointError(f"{files.path} does not hold the model: {lines[0]}")
    if weights.scales:
        raise CheckpointError(f"{files.path} is in float8; fine-tune the checkpoint as it was before")
    if config.method is Method.LORA:
        model.to(getattr(torch, config.dtype)).requires_grad_(False)
        add_adapters(model, config)
    else:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(part_of(name) in config.parts)
    for block in [*model.layers, *model.model.vision_backbone.image_vit.transformer.resblocks] * config.recompute:
        forward: Callable[..., Tensor] = block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False)
    return AnswerLoss(model, config.z_weight, config.dropout)


def adapter_config(model: MolmoAct, config: FinetuneConfig) -> Any:
    """PEFT's configuration: every matrix of the trained parts, as in the released command."""
    from peft import LoraConfig

    matrices = [n for n, m in model.named_modules() if isinstance(m, nn.Linear) and part_of(f"{n}.") in config.parts]
    return LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=matrices, bias="none", init_lora_weights="gaussian"
    )


def add_adapters(model: MolmoAct, config: FinetuneConfig) -> None:
    """Put an adapter beside every matrix of the trained parts. Raises CheckpointError without PEFT."""
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise CheckpointError(f"{error}; adapters need: pip install 'molmoact_ros[finetune]'") from None
    inject_adapter_in_model(adapter_config(model, config), model, ADAPTER, low_cpu_mem_usage=True)
    for module in adapters(model):
        for matrix in (module.lora_A, module.lora_B):
            matrix.float()


def adapters(model: nn.Module) -> Iterator[Any]:
    """The modules that have an adapter, in order."""
    return (module for module in model.modules() if hasattr(module, "lora_A"))


def fill_model(loss: AnswerLoss, files: CheckpointFolder, config: FinetuneConfig, device: torch.device) -> None:
    """Load the weights of a checkpoint, each to this process' shard, and start the adapters by the seed.

    A starts normal with a standard deviation of 1 / rank (PEFT's "gaussian") and B at zero, so that the model computes
    what the checkpoint does. The numbers are the same on any number of devices.
    """
    model = loss.model
    known = dict(model.named_parameters())
    names = {name.replace(BASE, ""): name for name in known}
    weights = read_headers(files.path)
    for path in weights.files:
        tensors = {}
        with safe_open(path, framework="pt") as file:
            for name in (name for name, holder in weights.file_of.items() if holder == path):
                tensor, place = read_tensor(file, name, weights), names[name]
                if not bool(torch.isfinite(tensor).all()):
                    raise CheckpointError(f"{path}: {name} holds NaN or infinity; copy or download it again")
                quantised = config.quantize and is_quantised_matrix(place)
                tensors[place] = _nf4(tensor, device) if quantised else _shard(tensor, known[place], device)
        model.load_state_dict(tensors, strict=False, assign=True)
    generator = torch.Generator().manual_seed(config.seed)
    started = {}
    for name, parameter in known.items():
        if ".lora_" in name:
            normal = torch.randn(parameter.shape, generator=generator) / config.rank
            start = normal if ".lora_A." in name else torch.zeros(parameter.shape)
            started[name] = _shard(start, parameter, device)
    model.load_state_dict(started, strict=False, assign=True)


def is_quantised_matrix(name: str) -> bool:
    """Whether a frozen tensor is quantised where that is wanted: the matrices of the decoder's layers with adapters."""
    return name.startswith("model.transformer.blocks.") and name.endswith(f"{BASE}.weight")


def _nf4(matrix: Tensor, device: torch.device) -> Tensor:
    """A matrix in nf4 (QLoRA, Dettmers et al., 2023): 64 weights share a scale, up to 256 scales one of theirs."""
    try:
        from torchao.quantization import to_nf4
    except ImportError as error:
        raise CheckpointError(f"{error}; nf4 needs: pip install 'molmoact_ros[quantization]'") from None
    if matrix.numel() % NF4_BLOCK:
        raise CheckpointError(f"nf4 needs matrices of a multiple of {NF4_BLOCK} numbers, not {list(matrix.shape)}")
    scales = gcd(matrix.numel() // NF4_BLOCK, 256)
    quantised: Tensor = to_nf4(matrix.to(device, torch.bfloat16), NF4_BLOCK, scales)
    return quantised


def _shard(whole: Tensor, like: Tensor, device: torch.device) -> Tensor:
    """`whole` [...] on `device` in the dtype of the parameter `like`; of a sharded one, this process' part."""
    whole = whole.to(device, like.dtype, copy=True)
    if not isinstance(like, DTensor):
        return whole
    return distribute_tensor(whole, like.device_mesh, like.placements, src_data_rank=None)


def parameter_groups(loss: AnswerLoss, config: FinetuneConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: the trained parameters of each part with its learning rate."""
    groups: dict[ModelPart, list[nn.Parameter]] = {part: [] for part in config.parts}
    for name, parameter in loss.model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    rates = config.rates()
    return [{"params": found, "lr": 0.0, "highest": rates[part]} for part, found in groups.items() if found]
