"""Soft targets: a near miss of a number is nearly right."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tokenizers import Tokenizer
from torch import Tensor

from molmoact_ros.reasoning.depth_tokens import DEPTH_TOKENS
from molmoact_ros.training.nano_model import ordered_tokens

REACH = 8  # ids on either side that a soft target covers
ACTION_SPREAD, TRACE_SPREAD = 3.0, 1.5  # standard deviations of soft targets, in bins and in coordinates
ACTION_WEIGHT, TRACE_WEIGHT, DEPTH_WEIGHT, FORCED_WEIGHT = 1.0, 4.0, 0.5, 0.1


@dataclass(frozen=True)
class SoftTargets:
    """Soft target and loss weight of each token, float32 [vocab] each.

    spread: standard deviation of the target over neighbouring ids of the same kind; 0: a hard target. Action symbols
    and coordinates are ordered by id, so a near miss is nearly right. weight: coordinates weigh most, since everything
    later follows from them; tokens that the grammar forces weigh little.
    """

    spread: Tensor
    weight: Tensor

    @staticmethod
    def of(tokenizer: Tokenizer, vocab: int) -> SoftTargets:
        """The targets for a vocabulary of `vocab` ids. Raises KeyError where a number is not one token."""
        spread, weight = torch.zeros(vocab), torch.full((vocab,), FORCED_WEIGHT)
        x, y, first, others = ordered_tokens(tokenizer)
        kinds = ((first + others, ACTION_SPREAD, ACTION_WEIGHT), (x + y, TRACE_SPREAD, TRACE_WEIGHT))
        for ids, sigma, importance in kinds:
            spread[ids], weight[ids] = sigma, importance
        weight[[tokenizer.token_to_id(text) for text in DEPTH_TOKENS]] = DEPTH_WEIGHT
        return SoftTargets(spread, weight)

    def to(self, device: torch.device) -> SoftTargets:
        """The targets on another device."""
        return SoftTargets(self.spread.to(device), self.weight.to(device))

    def loss(self, logits: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
        """Weighted mean cross-entropy of logits [M, vocab] for ids int64 [M]. factors: [M], multiply the weights."""
        logp = torch.log_softmax(logits.float(), dim=-1)
        sigma = self.spread[targets].unsqueeze(1)
        offsets = torch.arange(-REACH, REACH + 1, device=targets.device)
        near = (targets.unsqueeze(1) + offsets).clamp(0, len(self.spread) - 1)
        same = (self.spread[near] == sigma) & (sigma > 0) | (offsets == 0)
        share = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)) ** 2) * same
        share = share / share.sum(1, keepdim=True)
        losses = -(share * logp.gather(1, near)).sum(1)
        weight = self.weight[targets] * factors
        return (losses * weight).sum() / weight.sum()


def pointing_loss(scores: Tensor, points: Tensor) -> Tensor:
    """Cross-entropy loss of localisation: tokens that name objects should predict the objects' image coordinates.

    scores: [M, 2, 256], of each coordinate, x and y in 256ths of the image. points: [M, 2] in 0..1.
    """
    units = torch.arange(scores.shape[-1], device=scores.device)
    share = torch.softmax(-0.5 * ((units - scores.shape[-1] * points.unsqueeze(-1)) / TRACE_SPREAD) ** 2, dim=-1)
    return -(share * scores.log_softmax(dim=-1)).sum(-1).mean()
