"""Training batches: demonstrations as token sequences with soft targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from molmoact_ros.engine.model.config import MolmoActConfig
from molmoact_ros.engine.model.image_processor import ImageProcessor
from molmoact_ros.reasoning.answer_templates import answer_text
from molmoact_ros.reasoning.depth_tokens import DEPTH_TOKENS, GRID
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import END_OF_TEXT, ImageTokens, sequence_ids
from molmoact_ros.reasoning.trace import trace_from_pixels
from molmoact_ros.sim.scene import OBJECTS, TARGETS
from molmoact_ros.training.demonstrations import THINGS, Demonstrations
from molmoact_ros.training.nano_model import NORM_KEY, PROCESSOR, ordered_tokens, view_patches
from molmoact_ros.training.trace_augmentation import HEIGHT, SOON, WIDTH, Stroke, chunk, draw_stroke, overlay, projected

REACH = 8  # ids on either side that share a soft target
ACTION_SPREAD, TRACE_SPREAD = 3.0, 1.5  # standard deviations of soft targets, in bins and in coordinates
ACTION_WEIGHT, TRACE_WEIGHT, DEPTH_WEIGHT, FORCED_WEIGHT = 1.0, 4.0, 0.5, 0.1
NOTHING_SAID = "move"
"""The instruction that leaves everything to the stroke."""
AHEAD = 4  # steps along a stroke: where its name points

Sequence = tuple[np.ndarray, np.ndarray, int]
"""Ids and positions int64 [S] behind the images, and the prompt's length."""
Followed = tuple[Stroke, np.ndarray]
"""A stroke, and how far the hand that follows it has moved after each step, float [8, 3] m."""


@dataclass
class Batch:
    """B moments, K instructions each. crops float32 [B, 2, P, patch_dim]; prefix int64 [B, F]: begin and images;
    ids, positions, targets int64 [B * K, S]: prompt and answer behind the prefix (target -1: not learnt);
    news bool [B * K, S]: the target is a value of an action that the action before did not have; points float32
    [B * K, S, 2]: where in the front view the thing is that a token of the prompt names, or where the stroke leads that
    its last token names, in 0..1 (NaN: it names none); offsets float32 [B * K, S, 3]: where a thing so named is from
    the hand, m along the base's axes; hand float32 [B * K, 3]: where the hand is in the base frame, m; moves float32
    [B * K, 4, 3]: how far along the stroke the hand has moved after `SOON` steps, m (NaN: there is no stroke); windows
    float32 [B * K, T, 5]: what each token of the front view shows of it, see `DrawnStroke.windows`.
    """

    crops: Tensor
    prefix: Tensor
    ids: Tensor
    positions: Tensor
    targets: Tensor
    news: Tensor
    points: Tensor
    offsets: Tensor
    hand: Tensor
    moves: Tensor
    windows: Tensor

    def to(self, device: torch.device) -> Batch:
        """The same on a device."""
        return Batch(*(t.to(device) for t in vars(self).values()))


class BatchMaker:
    """Turns samples into batches; draws them in a seeded order, epoch after epoch."""

    def __init__(self, data: Demonstrations, config: MolmoActConfig, tokenizer: Tokenizer) -> None:
        self.data, self.config = data, config
        self.codes: Callable[[np.ndarray], np.ndarray] | None = None  # rows to depth codes int [n, 10, 10]
        self.encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        (self.end,) = self.encode(END_OF_TEXT)
        self.depth_ids = np.array([tokenizer.token_to_id(t) for t in DEPTH_TOKENS])
        stats = config.norm_stats[NORM_KEY].action
        self.actions = stats.normalise(data.actions)
        pictures = ImageProcessor(PROCESSOR)(list(data.images[0]))
        image = ImageTokens.after(config.llm_config.vocab_size)
        views = sequence_ids("", pictures.grids, self.encode, image, self.end)
        self.prefix = torch.from_numpy(views)
        self.prompts = [self.encode(prompt(text, cameras=2)) for text in data.texts]
        self.steered_prompts = [self.encode(prompt(text, 2, steered=True)) for text in [*data.texts, NOTHING_SAID]]
        self.stats, self.stroke_name = stats, torch.tensor(self.steered_prompts[-1][-1])
        self.things = torch.tensor([tokenizer.token_to_id(f" {thing}") for thing in THINGS])
        x, y, first, others = ordered_tokens(tokenizer)
        self.coordinates, self.action_ids = torch.tensor([x, y]), np.array(first + others)
        self.pooled, (self.grid,) = torch.from_numpy(pictures.indices), pictures.grids[0]

    def sequence(self, i: int, asked: int, codes: np.ndarray | None) -> Sequence:
        """The reasoning and actions of sample i for one of its instructions.

        Without codes [10, 10] they are left out, but what follows keeps the place that it has in a whole answer.
        """
        depth = np.zeros(GRID, np.int64) if codes is None else codes
        trace, actions = self.data.trace[i, asked].astype(np.int64), self.actions[i, asked]
        start = self.prompts[self.data.instructions[i, asked]]
        ids = np.array([*start, *self.encode(answer_text(depth, trace, actions)), self.end])
        positions = len(self.prefix) + np.arange(len(ids))
        keep = np.ones(len(ids), bool) if codes is not None else ~np.isin(ids, self.depth_ids)
        return ids[keep], positions[keep], len(start)

    def news(self, ids: np.ndarray) -> np.ndarray:
        """Which of the ids, int [S] of one sequence, are an action's values that the action before did not have."""
        out, places = np.zeros(len(ids), bool), np.flatnonzero(np.isin(ids, self.action_ids))
        values = ids[places].reshape(-1, self.actions.shape[-1])
        new = np.vstack([np.ones_like(values[:1], bool), values[1:] != values[:-1]])
        out[places] = new.ravel()
        return out

    def steered_sequence(self, i: int, rng: np.random.Generator) -> tuple[Sequence, Followed]:
        """A random stroke for sample i and how it is followed, as `sequence` gives it. The instruction is any of the
        sample's, or says nothing."""
        data, hand = self.data, self.data.hand[i].astype(float)
        there = {THINGS[k]: data.places[i, k] * (WIDTH, HEIGHT) for k in range(len(THINGS)) if k != data.held[i]}
        there = {name: pixel for name, pixel in there.items() if not np.isnan(pixel).any()}
        objects = {name: pixel for name, pixel in there.items() if name in OBJECTS}
        targets = [pixel for name, pixel in there.items() if name in TARGETS]
        held, pixel = bool(data.held[i] >= 0), projected(hand[None])[0]
        stroke = draw_stroke(pixel, objects, targets, held, rng)
        actions = chunk(stroke, hand, held)
        said = len(data.texts) if rng.random() < 0.3 else int(rng.choice(data.instructions[i]))
        start = self.steered_prompts[said]
        ids = np.array([*start, *self.encode(answer_text(None, None, self.stats.normalise(actions))), self.end])
        return (ids, len(self.prefix) + np.arange(len(ids)), len(start)), (stroke, actions[:, :3].cumsum(axis=0))

    def batch(self, rows: np.ndarray, asked: int, with_depth: bool, rng: np.random.Generator) -> Batch:
        """The samples `rows`, int [B], `asked` instructions each; brightness and contrast of images varied a little."""
        codes = self.codes(rows) if with_depth and self.codes is not None else [None] * len(rows)
        parts = [self.sequence(int(i), k, c) for i, c in zip(rows, codes, strict=True) for k in range(asked)]
        return self._batch(rows, parts, self.data.images[rows], [None] * len(parts), rng)

    def steered_batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """The samples `rows`, int [B], each with a stroke drawn on its front view and followed; images varied too."""
        parts, followed = zip(*(self.steered_sequence(int(i), rng) for i in rows), strict=True)
        images = self.data.images[rows].astype(np.float32)
        for views, (stroke, _) in zip(images, followed, strict=True):
            views[0] = overlay(views[0], trace_from_pixels(stroke.points, WIDTH, HEIGHT))
        return self._batch(rows, list(parts), images, list(followed), rng)

    def _batch(
        self,
        rows: np.ndarray,
        parts: list[Sequence],
        images: np.ndarray,
        followed: list[Followed | None],
        rng: np.random.Generator,
    ) -> Batch:
        """images [B, 2, rows, columns, 3] in 0..255; parts and followed: of B * K sequences."""
        asked, length = len(parts) // len(rows), max(len(ids) for ids, _, _ in parts)
        ids, positions = np.full((len(parts), length), self.end), np.zeros((len(parts), length), np.int64)
        targets = np.full((len(parts), length), -1)
        points, offsets = (np.full((len(parts), length, n), np.nan, np.float32) for n in (2, 3))
        news = np.zeros((len(parts), length), bool)
        for row, (tokens, places, start) in enumerate(parts):
            ids[row, : len(tokens)], positions[row, : len(tokens)] = tokens, places
            targets[row, start - 1 : len(tokens) - 1] = tokens[start:]
            news[row, start - 1 : len(tokens) - 1] = self.news(tokens)[start:]
        row_, column, thing = (ids[..., None] == self.things.numpy()).nonzero()
        moment = rows[row_ // asked]
        points[row_, column] = self.data.places[moment, thing]
        offsets[row_, column] = self.data.things[moment, thing] - self.data.hand[moment]
        crops = view_patches(images.reshape(-1, *images.shape[2:]))
        shape = (len(rows), 2, 1, 1)
        crops = crops.reshape(len(rows), 2, *crops.shape[1:])
        crops = crops * rng.uniform(0.85, 1.15, shape) + rng.uniform(-0.1, 0.1, shape)
        prefix = self.prefix.expand(len(rows), -1)
        hand = self.data.hand[rows].repeat(asked, axis=0)
        moves = np.full((len(parts), len(SOON), 3), np.nan, np.float32)
        windows = np.full((len(parts), self.grid[0] * self.grid[1], 5), np.nan, np.float32)
        for row, known in enumerate(followed):
            if known is not None:
                stroke, path = known
                start = parts[row][2]
                ahead = path[AHEAD - 1]
                points[row, start - 1] = projected((hand[row] + ahead)[None])[0] / (WIDTH, HEIGHT)
                offsets[row, start - 1] = ahead
                moves[row] = path[np.array(SOON) - 1]
                windows[row] = stroke.windows(*self.grid)
        arrays = (ids, positions, targets, news, points, offsets, hand, moves, windows)
        return Batch(torch.from_numpy(crops.astype(np.float32)), prefix, *map(torch.from_numpy, arrays))

    def in_picture(self, windows: Tensor) -> Tensor:
        """Where in the front view, [N, T, 2] in 0..1, the stroke's middles in `windows` [N, T, 5] are."""
        rows, columns = self.grid
        window = torch.arange(rows * columns, device=windows.device)
        corner = torch.stack([window % columns, window // columns], dim=1)
        return (corner + windows[..., :2]) / torch.tensor([columns, rows], device=windows.device)

    def batches(
        self, size: int, asked: int, depth: float, seed: int, first: int = 0, steered: float = 0.0
    ) -> Iterator[Batch]:
        """Batches of `size` samples with `asked` instructions each, without end, every sample once an epoch.

        depth: the share of batches that have depth codes in their answers. steered: the share that has strokes on its
        pictures; a picture with a stroke has one instruction, so these are of twice as many samples, drawn at random.
        first: the batch to begin with; a seed and a number always give the same batch.
        """
        in_epoch = len(self.data.images) // size
        for number in count(first):
            epoch, place = divmod(number, in_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(self.data.images))
            rng = np.random.default_rng((seed, epoch, place))
            if rng.random() < steered:
                yield self.steered_batch(rng.integers(0, len(self.data.images), 2 * size), rng)
            else:
                rows = order[place * size : (place + 1) * size]
                yield self.batch(rows, asked, rng.random() < depth, rng)


@dataclass(frozen=True)
class SoftTargets:
    """What a token's target is and how much it counts, float32 [vocab] each.

    spread: standard deviation of the target among neighbouring ids of the same kind; 0: only the token itself is right.
    Action symbols and coordinates are ordered by id, so a near miss is nearly right. weight: coordinates count most, as
    everything later follows from them; what the grammar forces hardly counts.
    """

    spread: Tensor
    weight: Tensor

    @staticmethod
    def of(tokenizer: Tokenizer, vocab: int) -> SoftTargets:
        """The targets for a vocabulary of `vocab` ids."""
        spread, weight = torch.zeros(vocab), torch.full((vocab,), FORCED_WEIGHT)
        x, y, first, others = ordered_tokens(tokenizer)
        kinds = ((first + others, ACTION_SPREAD, ACTION_WEIGHT), (x + y, TRACE_SPREAD, TRACE_WEIGHT))
        for ids, sigma, importance in kinds:
            spread[ids], weight[ids] = sigma, importance
        weight[[tokenizer.token_to_id(text) for text in DEPTH_TOKENS]] = DEPTH_WEIGHT
        return SoftTargets(spread, weight)

    def to(self, device: torch.device) -> SoftTargets:
        """The same on a device."""
        return SoftTargets(self.spread.to(device), self.weight.to(device))

    def loss(self, logits: Tensor, targets: Tensor, factors: Tensor) -> Tensor:
        """Weighted mean cross-entropy of logits [M, vocab] for ids int64 [M]. factors [M]: beside the ids' weights."""
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
    """How far the words that name things are from saying where these are.

    scores [M, 2, 256]: of each coordinate, x and y in 256ths of the picture; points [M, 2] in 0..1.
    """
    units = torch.arange(scores.shape[-1], device=scores.device)
    share = torch.softmax(-0.5 * ((units - scores.shape[-1] * points.unsqueeze(-1)) / TRACE_SPREAD) ** 2, dim=-1)
    return -(share * scores.log_softmax(dim=-1)).sum(-1).mean()
