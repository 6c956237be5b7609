"""Training batches: demonstrations as token sequences with soft targets."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from molmoact_ros.engine.config import MolmoActConfig
from molmoact_ros.engine.preprocess import pooled_grid, view_inputs
from molmoact_ros.learn.demonstrations import Demonstrations
from molmoact_ros.learn.nano import NORM_KEY
from molmoact_ros.reasoning.actions import ACTION_SYMBOLS
from molmoact_ros.reasoning.depth_codes import DEPTH_TOKENS
from molmoact_ros.reasoning.phrasing import NEXT_VALUE, answer_text
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import END_OF_TEXT, ImageTokens, sequence_ids
from molmoact_ros.reasoning.trace import MAX_COORDINATE

REACH = 8  # ids on either side that share a soft target
ACTION_SPREAD, TRACE_SPREAD = 3.0, 1.5  # standard deviations of soft targets, in bins and in coordinates


@dataclass
class Batch:
    """B moments, K instructions each. crops float32 [B, 2, P, patch_dim]; prefix int64 [B, F]: begin and images;
    ids, positions, targets int64 [B * K, S]: prompt and answer behind the prefix (target -1: not learnt)."""

    crops: Tensor
    prefix: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor


class BatchMaker:
    """Turns samples into batches; draws them in a seeded order, epoch after epoch."""

    def __init__(
        self, data: Demonstrations, codes: np.ndarray | None, config: MolmoActConfig, tokenizer: Tokenizer
    ) -> None:
        self.data, self.codes, self.config = data, codes, config
        self.encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        (self.end,) = self.encode(END_OF_TEXT)
        self.depth_ids = np.array([tokenizer.token_to_id(t) for t in DEPTH_TOKENS])
        stats = config.norm_stats[NORM_KEY]["action"]
        self.actions = stats.normalise(data.actions)
        grid = pooled_grid(config.vit_config.grid)
        image = ImageTokens.after(config.llm_config.vocab_size)
        views = sequence_ids("", [[grid], [grid]], self.encode, image, self.end)
        self.prefix = torch.from_numpy(views)
        self.prompts = [self.encode(prompt(text, cameras=2)) for text in data.texts]
        self.pooled = torch.from_numpy(view_inputs(data.images[0], config.vit_config)[1])

    def sequence(self, i: int, asked: int, with_depth: bool) -> tuple[np.ndarray, np.ndarray, int]:
        """Ids and positions int64 [S] of sample i behind the images, and the prompt's length.

        Without depth, the codes are left out but what follows keeps the place that it has in a whole answer.
        """
        codes = np.zeros((10, 10), np.int64) if self.codes is None else self.codes[i].astype(np.int64)
        trace, actions = self.data.trace[i, asked].astype(np.int64), self.actions[i, asked]
        start = self.prompts[self.data.instructions[i, asked]]
        ids = np.array([*start, *self.encode(answer_text(codes, trace, actions, cameras=2)), self.end])
        positions = len(self.prefix) + np.arange(len(ids))
        keep = np.ones(len(ids), bool) if with_depth else ~np.isin(ids, self.depth_ids)
        return ids[keep], positions[keep], len(start)

    def batch(self, rows: np.ndarray, asked: int, with_depth: bool, rng: np.random.Generator) -> Batch:
        """The samples `rows`, `asked` instructions each; brightness and contrast of each image varied a little."""
        parts = [self.sequence(int(i), k, with_depth) for i in rows for k in range(asked)]
        length = max(len(ids) for ids, _, _ in parts)
        ids, positions = np.full((len(parts), length), self.end), np.zeros((len(parts), length), np.int64)
        targets = np.full((len(parts), length), -1)
        for row, (tokens, places, start) in enumerate(parts):
            ids[row, : len(tokens)], positions[row, : len(tokens)] = tokens, places
            targets[row, start - 1 : len(tokens) - 1] = tokens[start:]
        crops = view_inputs(self.data.images[rows].reshape(-1, *self.data.images.shape[2:]), self.config.vit_config)[0]
        shape = (len(rows), 2, 1, 1)
        crops = crops.reshape(len(rows), 2, *crops.shape[1:])
        crops = crops * rng.uniform(0.85, 1.15, shape) + rng.uniform(-0.1, 0.1, shape)
        tensors = (torch.from_numpy(x) for x in (crops.astype(np.float32), ids, positions, targets))
        crops_, ids_, positions_, targets_ = tensors
        return Batch(crops_, self.prefix.expand(len(rows), -1), ids_, positions_, targets_)

    def forever(self, size: int, asked: int, with_depth: bool, seed: int) -> Iterator[Batch]:
        """Batches of `size` samples with `asked` instructions each, without end, every sample once an epoch."""
        rng = np.random.default_rng(seed)
        while True:
            order = rng.permutation(len(self.data.images))
            for start in range(0, len(order) - size + 1, size):
                yield self.batch(order[start : start + size], asked, with_depth, rng)


def spread_table(tokenizer: Tokenizer, vocab: int) -> Tensor:
    """Standard deviation of each target id's soft neighbourhood, float32 [vocab]; 0 = exact.

    Action symbols and coordinates are ordered by id, so a near miss is nearly right.
    """
    spread = torch.zeros(vocab)
    for prefix in ("", NEXT_VALUE):
        for texts, sigma in ((ACTION_SYMBOLS, ACTION_SPREAD), (map(str, range(MAX_COORDINATE + 1)), TRACE_SPREAD)):
            for text in texts:
                spread[tokenizer.token_to_id(prefix + text)] = sigma
    return spread


def soft_cross_entropy(logits: Tensor, targets: Tensor, spread: Tensor) -> Tensor:
    """Loss [M] of logits [M, vocab] against ids [M] whose neighbours of the same kind share the target."""
    logp = torch.log_softmax(logits.float(), dim=-1)
    sigma = spread[targets].unsqueeze(1)
    offsets = torch.arange(-REACH, REACH + 1)
    near = (targets.unsqueeze(1) + offsets).clamp(0, len(spread) - 1)
    same = (spread[near] == sigma) & (sigma > 0) | (offsets == 0)
    weight = torch.exp(-0.5 * (offsets / sigma.clamp(min=1e-3)) ** 2) * same
    weight = weight / weight.sum(1, keepdim=True)
    return -(weight * logp.gather(1, near)).sum(1)
