"""The losses that are trained on: of answers (MolmoAct), and of velocities towards actions (MolmoAct 2)."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Any, ClassVar, Generic, TypeVar

import torch
from torch import Tensor, nn

from molmoact_ros.engine.model.molmoact import DecoderBlock, MolmoAct
from molmoact_ros.engine.molmoact2.expert import Context
from molmoact_ros.engine.molmoact2.model import MolmoAct2, side_by_side
from molmoact_ros.training.finetuning.config import FinetuneConfig
from molmoact_ros.training.finetuning.examples import NO_LOSS, AnswerBatch
from molmoact_ros.training.finetuning.flow_examples import FlowBatch
from molmoact_ros.training.flow_matching import squared_errors
from molmoact_ros.training.soft_targets import SoftTargets

AnyModel = TypeVar("AnyModel", MolmoAct, MolmoAct2)


class TrainingLoss(nn.Module, ABC, Generic[AnyModel]):
    """The loss of a batch under a model: what is trained, and what is sharded as a whole.

    measure: what the second figure of `forward` is called in a run's history.
    """

    measure: ClassVar[str]

    def __init__(self, model: AnyModel, dropout: float) -> None:
        """dropout: of what each attention and MLP of the decoder adds to the residual stream."""
        super().__init__()
        self.model: AnyModel = model
        self._dropped: Tensor | None = None  # bool [B, S, 1], where residuals are dropped
        if dropout:
            self._drop_residuals(dropout)

    @abstractmethod
    def forward(self, batch: Any) -> tuple[Tensor, Tensor]:
        """The loss summed over the batch's `terms`, and what of it is measured alone, detached: float32 [] each."""

    @property
    @abstractmethod
    def layers(self) -> list[DecoderBlock]:
        """The decoder's layers that run as a whole, whose parameters can be gathered one layer at a time."""

    @property
    def tower_layers(self) -> list[nn.Module]:
        """The layers of the vision tower."""
        return list(self.model.model.vision_backbone.image_vit.blocks)

    def is_reached(self, name: str) -> bool:
        """Whether the loss depends on a parameter, by its name in the model."""
        return True

    def _drop_residuals(self, share: float) -> None:
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


class AnswerLoss(TrainingLoss[MolmoAct]):
    """Cross-entropy of the answers' tokens, and a little of their squared log partition."""

    measure = "cross_entropy"

    def __init__(self, model: MolmoAct, config: FinetuneConfig, soft: SoftTargets | None = None) -> None:
        """soft: what the tokens are trained towards instead of themselves."""
        super().__init__(model, config.dropout)  # answers' tokens excepted
        self.z_weight, self.soft = config.z_weight, soft

    @property
    def layers(self) -> list[DecoderBlock]:
        """All layers of the decoder."""
        return self.model.layers

    def forward(self, batch: AnswerBatch) -> tuple[Tensor, Tensor]:
        """The loss summed over the answers' tokens, and its cross-entropy alone, detached: float32 [] each."""
        features = self.model.image_features(batch.crops, batch.pooled)
        there = (batch.pooled >= 0).any(-1)
        learnt = batch.targets != NO_LOSS
        self._dropped = ~learnt.unsqueeze(-1) if self.training else None
        hidden = self.model(batch.ids, features[there].unsqueeze(0))
        logits = self.model.logits(hidden[learnt]).float()
        partition, targets = logits.logsumexp(-1), batch.targets[learnt]
        entropy = (partition - logits.gather(1, targets.unsqueeze(1)).squeeze(1)).sum()
        value = entropy
        if self.soft is not None:
            mean = self.soft.to(logits.device).loss(logits, targets, torch.ones_like(partition))
            value = mean * len(targets)
        return value + self.z_weight * partition.square().sum(), entropy.detach()


class FlowLoss(TrainingLoss[MolmoAct2]):
    """Squared errors of the expert's velocities. Gradients reach the decoder through the keys and values that it reads.

    The decoder reads the prompt as in inference: image tokens read each other, all else what is before it.
    """

    measure = "velocity_error"

    def __init__(self, model: MolmoAct2, config: FinetuneConfig) -> None:
        super().__init__(model, config.dropout)

    @property
    def layers(self) -> list[DecoderBlock]:
        """All layers of the decoder but the last, which ends with its keys and values."""
        return self.model.layers[:-1]

    def is_reached(self, name: str) -> bool:
        """Whether it comes before the last layer's keys and values, or is the expert's."""
        last = f"model.transformer.blocks.{len(self.model.layers) - 1}."
        behind = (*(f"{last}{part}" for part in ("self_attn.attn_out", "self_attn.q_norm", "mlp", "ff_norm")),
                  "model.transformer.ln_f", "lm_head", "model.action_expert_depth_gate")  # fmt: skip
        return not name.startswith(behind)

    def forward(self, batch: FlowBatch) -> tuple[Tensor, Tensor]:
        """The squared errors summed over flow times, actions and their dimensions, and the same, detached: float32 []
        each."""
        found = self.errors(batch).sum()
        return found, found.detach()

    def errors(self, batch: FlowBatch) -> Tensor:
        """The squared errors float32 [B, T, H, A] of the velocities, zero in padding dimensions."""
        context, mask = self.context(batch)
        found = squared_errors(self.model.action_expert, context, mask, batch.actions, batch.noise, batch.times)
        return found * batch.moving

    def context(self, batch: FlowBatch) -> tuple[list[Context], Tensor]:
        """What the expert reads of the prompts, and which of their tokens it may, bool [B, 1, 1, S]."""
        model = self.model
        self._dropped = batch.there.unsqueeze(-1) if self.training else None
        read = model.prefill(self.embed(batch), model.readable(batch.ids))
        context = model.action_expert.context(side_by_side(read.keys), side_by_side(read.values))
        return context, (model.expert_readable(batch.ids) & batch.there)[:, None, None]

    def embed(self, batch: FlowBatch) -> Tensor:
        """The prompts' embeddings [B, S, hidden] with their images."""
        features = self.model.image_features(batch.crops, batch.pooled)
        there = (batch.pooled >= 0).any(-1)
        return self.model.embed(batch.ids, features[there].unsqueeze(0))
