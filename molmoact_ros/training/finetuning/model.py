"""The model as it is trained: adapters by PEFT or all weights, and gradient checkpointing.

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

from molmoact_ros.engine.checkpoint_folders import AnyFolder
from molmoact_ros.engine.model.molmoact import MolmoAct
from molmoact_ros.engine.model.weight_files import CheckpointError, misfits, read_tensor
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method, ModelPart, part_of
from molmoact_ros.training.finetuning.losses import AnswerLoss, FlowLoss, TrainingLoss
from molmoact_ros.training.soft_targets import SoftTargets

ADAPTER = "default"
"""PEFT's name of the adapter within the model."""
BASE = ".base_layer"
"""What PEFT adds to the names of a matrix with an adapter beside it."""
NF4_BLOCK = 64
"""Weights that share a scale in nf4."""


def build_model(files: AnyFolder, config: FinetuneConfig) -> TrainingLoss[Any]:
    """The model of a checkpoint in its loss on the meta device: trained parameters float32, frozen ones in
    `config.dtype`.

    Raises CheckpointError where the weights do not fit config.json, or are not to be trained.
    """
    model, weights = files.empty_model(), files.weights
    if lines := misfits(model, weights):
        raise CheckpointError(f"{files.path} does not hold the model: {lines[0]}")
    if weights.scales:
        raise CheckpointError(f"{files.path} is in float8; fine-tune the checkpoint as it was before")
    if isinstance(model, MolmoAct):
        loss: TrainingLoss[Any] = AnswerLoss(model, config, soft_targets(files, config))
    else:
        loss = FlowLoss(model, config)
    for name, parameter in model.named_parameters():
        whole = config.method is Method.FULL or part_of(name) is ModelPart.EXPERT
        parameter.requires_grad_(whole and part_of(name) in config.parts and loss.is_reached(name))
        if not parameter.requires_grad and config.method is Method.LORA:
            parameter.data = parameter.data.to(getattr(torch, config.dtype))
    if config.method is Method.LORA:
        add_adapters(loss, config)
    for block in [*loss.layers, *loss.tower_layers] * config.recompute:
        forward: Callable[..., Tensor] = block.forward
        block.forward = partial(checkpoint, forward, use_reentrant=False)
    return loss


def soft_targets(files: AnyFolder, config: FinetuneConfig) -> SoftTargets | None:
    """What the answers' tokens are trained towards; None: themselves.

    Raises CheckpointError where the tokenizer has no tokens for coordinates.
    """
    if config.targets == "hard":
        return None
    try:
        return SoftTargets.of(files.tokenizer, files.config.llm_config.vocab_size)
    except KeyError:
        raise CheckpointError(
            f"{files.path} writes coordinates in several tokens; --targets soft is for the small models of `train`"
        ) from None


def adapter_config(loss: TrainingLoss[Any], config: FinetuneConfig) -> Any:
    """PEFT's configuration: every matrix of the trained parts, as in the released command; not of the expert, which is
    trained whole."""
    from peft import LoraConfig

    parts = set(config.parts) - {ModelPart.EXPERT}
    linear = [name for name, module in loss.model.named_modules() if isinstance(module, nn.Linear)]
    matrices = [name for name in linear if part_of(f"{name}.") in parts and loss.is_reached(name)]
    return LoraConfig(
        r=config.rank, lora_alpha=config.alpha, target_modules=matrices, bias="none", init_lora_weights="gaussian"
    )


def add_adapters(loss: TrainingLoss[Any], config: FinetuneConfig) -> None:
    """Put an adapter beside every matrix of the trained parts. Raises CheckpointError without PEFT."""
    try:
        from peft import inject_adapter_in_model
    except ImportError as error:
        raise CheckpointError(f"{error}; adapters need: pip install 'molmoact_ros[finetune]'") from None
    settings = adapter_config(loss, config)
    trained = [parameter for parameter in loss.parameters() if parameter.requires_grad]
    if settings.target_modules:
        inject_adapter_in_model(settings, loss.model, ADAPTER, low_cpu_mem_usage=True)
    for parameter in trained:  # PEFT has frozen it
        parameter.requires_grad_(True)
    for module in adapters(loss.model):
        for matrix in (module.lora_A, module.lora_B):
            matrix.float()


def adapters(model: nn.Module) -> Iterator[Any]:
    """The modules that have an adapter, in order."""
    return (module for module in model.modules() if hasattr(module, "lora_A"))


def fill_model(loss: TrainingLoss[Any], files: AnyFolder, config: FinetuneConfig, device: torch.device) -> None:
    """Load the weights of a checkpoint, each to this process' shard, and start the adapters by the seed.

    A starts normal with a standard deviation of 1 / rank (PEFT's "gaussian") and B at zero, so that the model computes
    what the checkpoint does. The numbers are the same on any number of devices.
    """
    model = loss.model
    known = dict(model.named_parameters())
    names, weights = {name.replace(BASE, ""): name for name in known}, files.weights
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


def parameter_groups(loss: TrainingLoss[Any], config: FinetuneConfig) -> list[dict[str, Any]]:
    """The optimiser's groups: the trained parameters of each part with its learning rate."""
    groups: dict[ModelPart, list[nn.Parameter]] = {part: [] for part in config.parts}
    for name, parameter in loss.model.named_parameters():
        if parameter.requires_grad:
            groups[part_of(name)].append(parameter)
    rates = config.rates()
    return [{"params": found, "lr": 0.0, "highest": rates[part]} for part, found in groups.items() if found]
