"""The processes of a run: one, or several of torchrun, each with a device and a shard of the model (FSDP2)."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard

from molmoact_ros.training.finetuning.losses import TrainingLoss


@dataclass(frozen=True)
class Processes:
    """This process among `count`, from 0 on, and its device."""

    rank: int
    count: int
    device: torch.device

    @property
    def first(self) -> bool:
        """Whether this process writes files and reports."""
        return self.rank == 0

    def total(self, value: torch.Tensor) -> torch.Tensor:
        """The sum of a tensor [...] over all processes."""
        if self.count > 1:
            dist.all_reduce(value)
        return value

    def wait(self) -> None:
        """Wait until every process is here."""
        if self.count > 1:
            dist.barrier()

    def shard(self, loss: TrainingLoss[Any]) -> None:
        """Split the parameters among the processes: each layer by itself, and the rest together."""
        if self.count == 1:
            return
        mesh = init_device_mesh(self.device.type, (self.count,))
        for block in [*loss.layers, *loss.tower_layers]:
            fully_shard(block, mesh=mesh)
        fully_shard(loss, mesh=mesh)


@contextmanager
def joined(device: str) -> Iterator[Processes]:
    """The processes of this run while it lasts: those of torchrun, or this one alone. device: cpu, cuda or empty."""
    count, local = int(os.environ.get("WORLD_SIZE", "1")), int(os.environ.get("LOCAL_RANK", "0"))
    kind = device or ("cuda" if torch.cuda.is_available() else "cpu")
    here = torch.device(kind, local) if kind == "cuda" else torch.device(kind)
    if here.type == "cuda":
        if not torch.cuda.is_available():
            raise RuntimeError("torch finds no GPU; give --device cpu, or install torch with CUDA")
        torch.cuda.set_device(here)
    if count == 1:
        yield Processes(0, 1, here)
        return
    dist.init_process_group("nccl" if here.type == "cuda" else "gloo")
    try:
        yield Processes(dist.get_rank(), count, here)
    finally:
        dist.destroy_process_group()


@contextmanager
def whole_parameters(loss: TrainingLoss[Any]) -> Iterator[None]:
    """While it lasts, every process holds all parameters, so that each may run passes of its own."""
    sharded = [module for module in loss.modules() if isinstance(module, FSDPModule)]
    for module in sharded:
        module.set_reshard_after_forward(False, recurse=False)
        module.unshard()
    try:
        yield
    finally:
        for module in sharded:
            module.set_reshard_after_forward(module is not loss, recurse=False)
            module.reshard()
