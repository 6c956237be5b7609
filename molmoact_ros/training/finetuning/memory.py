"""What a run needs: memory of a device by its parts, estimated before it starts, and tokens."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molmoact_ros.engine.checkpoint_folders import AnyFolder
from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.training.finetuning.config import FinetuneConfig, Method
from molmoact_ros.training.finetuning.examples import Example
from molmoact_ros.training.finetuning.flow_examples import FlowExample
from molmoact_ros.training.finetuning.losses import TrainingLoss
from molmoact_ros.training.finetuning.model import NF4_BLOCK, build_model, is_quantised_matrix

NF4_BYTES = 0.5 + 1 / NF4_BLOCK + 4 / (NF4_BLOCK * 256)  # of one weight: a nibble, its share of a scale and of theirs
OVERHEAD = 1.5e9  # bytes on a GPU: CUDA's context, and what the allocator cannot use
USABLE = 0.95  # of the memory that is free
GRADIENT_AND_ADAM = 12  # bytes of a trained parameter beside itself: gradient and two moments, float32


@dataclass(frozen=True)
class SequenceSizes:
    """Sizes of the longest of some examples: tokens, those of the answer, crops, patches and image tokens.

    mean_tokens: of all of them.
    """

    tokens: int
    answer: int
    crops: int
    patches: int
    image_tokens: int
    mean_tokens: float

    @classmethod
    def of(cls, examples: Sequence[Example] | Sequence[FlowExample]) -> SequenceSizes:
        """The sizes of some examples."""
        return cls(
            tokens=max(len(example.ids) for example in examples),
            answer=max(example.answer_tokens for example in examples),
            crops=max(len(example.crops) for example in examples),
            patches=examples[0].crops.shape[1],
            image_tokens=max(len(example.pooled) for example in examples),
            mean_tokens=float(np.mean([len(example.ids) for example in examples])),
        )


@dataclass(frozen=True)
class MemoryEstimate:
    """Bytes on one device. weights: all of them. trained: adapters' gradients and optimiser. passes: activations."""

    weights: float
    trained: float
    passes: float
    overhead: float

    @property
    def total(self) -> float:
        """Bytes altogether."""
        return self.weights + self.trained + self.passes + self.overhead

    def __str__(self) -> str:
        parts = (("weights", self.weights), ("optimiser and gradients", self.trained), ("passes", self.passes))
        return f"{gigabytes(self.total)} ({', '.join(f'{name} {gigabytes(size)}' for name, size in parts)})"


def estimate(
    loss: TrainingLoss[Any], config: FinetuneConfig, sizes: SequenceSizes, micro_batch: int, processes: int, cuda: bool
) -> MemoryEstimate:
    """The memory of a run with a model on any device, meta too."""
    weights, trained, largest = 0.0, 0.0, 0.0
    for name, parameter in loss.model.named_parameters():
        quantised = config.quantize and is_quantised_matrix(name)
        size = parameter.numel() * (NF4_BYTES if quantised else parameter.element_size())
        weights += size
        largest = max(largest, size)
        trained += parameter.numel() * GRADIENT_AND_ADAM * parameter.requires_grad
    gathered = 0.0
    if processes > 1:  # the embeddings, the head and a layer are whole while they compute
        table = loss.model.model.transformer.wte.embedding
        gathered = 2 * table.numel() * table.element_size() + 2 * largest
    passes = micro_batch * _passes(loss.model.config, config, sizes)
    return MemoryEstimate(weights / processes + gathered, trained / processes, passes, OVERHEAD if cuda else 0.0)


def _passes(model: MolmoActConfig | MolmoAct2Config, config: FinetuneConfig, sizes: SequenceSizes) -> float:
    """Bytes of one sequence's activations: what each layer keeps with gradient checkpointing, the connector, and the
    largest part that is computed again at a time (a layer of the decoder, one of the tower, or the scores)."""
    llm, vit, adapter = model.llm_config, model.vit_config, model.adapter_config
    number = 2 if config.dtype == "bfloat16" else 4
    stream = number if config.method is Method.LORA else 4
    patches = sizes.crops * sizes.patches
    kept = sizes.tokens * llm.hidden_size * stream * llm.num_hidden_layers
    kept += patches * vit.hidden_size * stream * (vit.num_hidden_layers + len(adapter.vit_layers))
    heads = (llm.num_attention_heads + 2 * llm.num_key_value_heads) * llm.head_dim
    layer = sizes.tokens * (8 * llm.hidden_size * 4 + 4 * heads * number + 10 * llm.intermediate_size * number)
    scores = patches * sizes.patches * vit.num_attention_heads * (3 * 4 + 2 * number)
    tower = patches * (12 * vit.hidden_size + 4 * vit.intermediate_size) * number + scores
    features = vit.hidden_size * len(adapter.vit_layers)
    connector = sizes.image_tokens * (4 * 4 * features + 8 * adapter.intermediate_size) * number
    head: float = sizes.answer * llm.vocab_size * (number + 3 * 4)
    if isinstance(model, MolmoAct2Config):
        head = _expert(model, config, sizes, number)
    if config.recompute:
        return float(kept + connector + max(layer, tower, head))
    # Half of what a layer touches is kept until its gradient is computed.
    return float(connector + (layer * llm.num_hidden_layers + tower * vit.num_hidden_layers) / 2 + head)


def _expert(model: MolmoAct2Config, config: FinetuneConfig, sizes: SequenceSizes, number: int) -> float:
    """Bytes of the action expert's activations: chunks of all flow times, and what it reads of each layer."""
    expert = model.action_expert_config
    rows = config.flow_times * model.max_action_horizon
    chunk = rows * (24 * expert.hidden_size + 4 * expert.inner_size) * 4
    read = sizes.tokens * 4 * expert.hidden_size * number
    scores = rows * expert.num_heads * (sizes.tokens + model.max_action_horizon) * 2 * number
    return float(expert.num_layers * (chunk + read + scores))


def available(device: torch.device) -> float:
    """Bytes that are free on a device: a GPU's, or this machine's memory."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        return float(free)
    lines = dict(line.split(":") for line in Path("/proc/meminfo").read_text().splitlines())
    return float(lines["MemAvailable"].split()[0]) * 1024


def choose_micro_batch(
    loss: TrainingLoss[Any], config: FinetuneConfig, sizes: SequenceSizes, processes: int, free: float, cuda: bool
) -> int:
    """The size of a forward pass: the wanted one, or the largest of 1, 2, 4, ... that should fit `free` bytes."""
    if config.micro_batch:
        return config.micro_batch
    most, size = config.batch // processes, 1
    while 2 * size <= most:
        if estimate(loss, config, sizes, 2 * size, processes, cuda).total > USABLE * free:
            break
        size *= 2
    return size


def advice(
    files: AnyFolder, config: FinetuneConfig, sizes: SequenceSizes, processes: int, free: float, cuda: bool
) -> str:
    """What would make a run fit that does not: the smallest changes first; those that are not enough are left out."""
    lora = config.method is Method.LORA
    changes: list[tuple[str, FinetuneConfig]] = []
    if config.micro_batch > 1:
        changes.append(("--micro-batch 1", config.model_copy(update={"micro_batch": 1})))
    if not config.recompute:
        changes.append(("gradient checkpointing", config.model_copy(update={"recompute": True})))
    if config.dtype == "float32":
        changes.append(("--dtype bfloat16", config.model_copy(update={"dtype": "bfloat16"})))
    if not lora:
        changes.append(("--method lora", config.model_copy(update={"method": Method.LORA})))
    if lora and config.rank > 8:
        changes.append(("--rank 8", config.model_copy(update={"rank": 8})))
    if lora and not config.quantize and processes == 1:
        changes.append(("--quantize nf4", config.model_copy(update={"quantize": "nf4", "dtype": "bfloat16"})))
    fitting = []
    for text, changed in changes:
        need = estimate(build_model(files, changed), changed, sizes, changed.micro_batch or 1, processes, cuda)
        if need.total <= USABLE * free:
            fitting.append(text)
    return f"use {' or '.join(fitting)}" if fitting else "use more GPUs by torchrun, or smaller images"


def gigabytes(size: float) -> str:
    """A size in bytes for people."""
    return f"{size / 1e9:.3g} GB"
