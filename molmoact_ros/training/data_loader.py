"""Training batches: demonstrations as token sequences with soft targets."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import count

import numpy as np
import torch
from tokenizers import Tokenizer
from torch import Tensor

from molmoact_ros.engine.model.config import MolmoActConfig, ProcessorConfig
from molmoact_ros.engine.model.image_processor import ImageProcessor
from molmoact_ros.reasoning.answer_templates import answer_text
from molmoact_ros.reasoning.depth_tokens import DEPTH_TOKENS, GRID
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.reasoning.tokens import END_OF_TEXT, ImageTokens, sequence_ids
from molmoact_ros.reasoning.trace import trace_from_pixels
from molmoact_ros.sim.scene import TARGETS
from molmoact_ros.training.demonstrations import THINGS, Demonstrations
from molmoact_ros.training.nano_model import PROCESSOR, ordered_tokens, view_patches
from molmoact_ros.training.trace_augmentation import HEIGHT, SOON, WIDTH, Stroke, chunk, draw_stroke, overlay

NOTHING_SAID = "move"
"""The instruction that names nothing, so that only the stroke determines the motion."""
SHORT = 3  # actions of a short answer
AHEAD = 4  # steps along a stroke to the point that its name token points to

Sequence = tuple[np.ndarray, np.ndarray, int]
"""Ids and positions int64 [S] after the images, and the prompt's length."""
Followed = tuple[Stroke, np.ndarray]
"""A stroke, and the displacement of the gripper that follows it after each step, float [8, 3] m."""


@dataclass
class Batch:
    """A training batch of B states with K instructions each.

    crops: float32 [B, 2, P, patch_dim]. prefix: int64 [B, F], begin token and images. ids, positions, targets: int64
    [B * K, S], prompt and answer after the prefix (target -1: no loss). news: bool [B * K, S], whether the target is an
    action value that differs from the previous action's. points: float32 [B * K, S, 2], image position in the front
    view, in 0..1, of the object that a prompt token names, or of the stroke's continuation for the prompt's last token
    (NaN: it names none). offsets: float32 [B * K, S, 3], m, from the gripper to the object so named, along the base
    frame's axes. hand: float32 [B * K, 3], gripper position in the base frame, m. moves: float32 [B * K, 4, 3],
    displacement of the gripper along the stroke after `SOON` steps, m (NaN: no stroke). windows: float32 [B * K, T, 5],
    the part of the stroke that each token of the front view shows, see `Stroke.windows`.
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
        """The batch on another device."""
        return Batch(*(t.to(device) for t in vars(self).values()))


class BatchMaker:
    """Makes batches from demonstrations in a seeded random order, epoch after epoch.

    Example:
        maker = BatchMaker(demonstrations, config, tokenizer)
        batch = next(maker.batches(size=16, asked=3, depth=0.2, seed=0))
    """

    def __init__(
        self, data: Demonstrations, config: MolmoActConfig, tokenizer: Tokenizer,
        processor: ProcessorConfig = PROCESSOR,
    ) -> None:  # fmt: skip
        self.data, self.config = data, config
        self.codes: Callable[[np.ndarray], np.ndarray] | None = None  # rows to depth codes int [n, 10, 10]
        self.encode = lambda text: tokenizer.encode(text, add_special_tokens=False).ids
        (self.end,) = self.encode(END_OF_TEXT)
        self.depth_ids = np.array([tokenizer.token_to_id(t) for t in DEPTH_TOKENS])
        (stats,) = (data_set.action for data_set in config.norm_stats.values())
        self.actions = stats.normalise(data.actions)
        pictures = ImageProcessor(processor)(list(data.images[0]))
        image = ImageTokens.after(config.llm_config.vocab_size)
        views = sequence_ids("", pictures.grids, self.encode, image, self.end)
        self.prefix = torch.from_numpy(views)
        self.prompts = [self.encode(prompt(text, cameras=2)) for text in data.texts]
        self.steered_prompts = [self.encode(prompt(text, 2, steered=True)) for text in [*data.texts, NOTHING_SAID]]
        self.stats, self.stroke_name = stats, torch.tensor(self.steered_prompts[-1][-1])
        names = [tokenizer.token_to_id(f" {thing}") for thing in data.names]
        self.things = torch.tensor([-1 if name is None else name for name in names])  # -1: there is no token for it
        x, y, first, others = ordered_tokens(tokenizer)
        self.coordinates, self.action_ids = torch.tensor([x, y]), np.array(first + others)
        self.pooled, (self.grid,) = torch.from_numpy(pictures.indices), pictures.grids[0]

    def sequence(self, i: int, asked: int, codes: np.ndarray | None, short: bool = False) -> Sequence:
        """Prompt and answer of sample i for one of its instructions: ids and positions int64 [S].

        Without codes [10, 10] the answer omits the depth tokens; later tokens keep their positions of a whole answer. A
        short one ends after `SHORT` actions.
        """
        depth = np.zeros(GRID, np.int64) if codes is None else codes
        trace, actions = self.data.trace[i, asked].astype(np.int64), self.actions[i, asked]
        start = self.prompts[self.data.instructions[i, asked]]
        ids = np.array([*start, *self.encode(answer_text(depth, trace, actions)), self.end])
        positions = len(self.prefix) + np.arange(len(ids))
        keep = np.ones(len(ids), bool) if codes is not None else ~np.isin(ids, self.depth_ids)
        if short:
            keep[self.short_end(ids) :] = False
        return ids[keep], positions[keep], len(start)

    def short_end(self, ids: np.ndarray) -> int:
        """Where an answer's ids, int [S], end if they end after `SHORT` actions."""
        return int(np.flatnonzero(np.isin(ids, self.action_ids))[SHORT * self.actions.shape[-1] - 1]) + 1

    def news(self, ids: np.ndarray) -> np.ndarray:
        """Mask bool [S] of the ids, int [S] of one sequence, that are action values unlike the previous action's."""
        out, places = np.zeros(len(ids), bool), np.flatnonzero(np.isin(ids, self.action_ids))
        values = ids[places].reshape(-1, self.actions.shape[-1])
        new = np.vstack([np.ones_like(values[:1], bool), values[1:] != values[:-1]])
        out[places] = new.ravel()
        return out

    def steered_sequence(self, i: int, rng: np.random.Generator) -> tuple[Sequence, Followed]:
        """Prompt and answer [S] for following a random stroke in sample i, and the stroke with its displacements.

        The instruction is any of the sample's, or names nothing.
        """
        data, hand = self.data, self.data.hand[i].astype(float)
        there = {THINGS[k]: data.places[i, k] * (WIDTH, HEIGHT) for k in range(len(THINGS)) if k != data.held[i]}
        there = {name: pixel for name, pixel in there.items() if not np.isnan(pixel).any()}
        objects = {name: pixel for name, pixel in there.items() if name not in TARGETS}
        targets = [pixel for name, pixel in there.items() if name in TARGETS]
        view = data.view(i)
        held, pixel = bool(data.held[i] >= 0), view.project(hand[None])[0]
        stroke = draw_stroke(pixel, objects, targets, held, rng, view)
        actions = chunk(stroke, hand, held)
        said = len(data.texts) if rng.random() < 0.3 else int(rng.choice(data.instructions[i]))
        start = self.steered_prompts[said]
        ids = np.array([*start, *self.encode(answer_text(None, None, self.stats.normalise(actions))), self.end])
        return (ids, len(self.prefix) + np.arange(len(ids)), len(start)), (stroke, actions[:, :3].cumsum(axis=0))

    def batch(
        self, rows: np.ndarray, asked: int, with_depth: bool, rng: np.random.Generator, short: bool = False
    ) -> Batch:
        """The batch of samples `rows`, int [B], with `asked` instructions each; brightness and contrast augmented.

        short: whether answers end after `SHORT` actions.
        """
        codes = self.codes(rows) if with_depth and self.codes is not None else [None] * len(rows)
        parts = [self.sequence(int(i), k, c, short) for i, c in zip(rows, codes, strict=True) for k in range(asked)]
        return self._batch(rows, parts, self.data.images[rows], [None] * len(parts), rng)

    def steered_batch(self, rows: np.ndarray, rng: np.random.Generator) -> Batch:
        """The batch of samples `rows`, int [B], each with a followed stroke on its front view; augmented as `batch`."""
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
        """images: [B, 2, rows, columns, 3] in 0..255. parts, followed: one per sequence, B * K of them."""
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
                points[row, start - 1] = stroke.view.project((hand[row] + ahead)[None])[0] / (WIDTH, HEIGHT)
                offsets[row, start - 1] = ahead
                moves[row] = path[np.array(SOON) - 1]
                windows[row] = stroke.windows(*self.grid)
        arrays = (ids, positions, targets, news, points, offsets, hand, moves, windows)
        return Batch(torch.from_numpy(crops.astype(np.float32)), prefix, *map(torch.from_numpy, arrays))

    def in_picture(self, windows: Tensor) -> Tensor:
        """Positions in the front view, [N, T, 2] in 0..1, of the stroke's midpoints in `windows` [N, T, 5]."""
        rows, columns = self.grid
        window = torch.arange(rows * columns, device=windows.device)
        corner = torch.stack([window % columns, window // columns], dim=1)
        return (corner + windows[..., :2]) / torch.tensor([columns, rows], device=windows.device)

    def batches(
        self, size: int, asked: int, depth: float, seed: int, first: int = 0, steered: float = 0.0, short: float = 0.0
    ) -> Iterator[Batch]:
        """Yield batches of `size` samples with `asked` instructions each, endlessly, every sample once per epoch.

        depth: fraction of batches with depth codes in their answers. steered: fraction of batches with strokes on their
        images; an image with a stroke has one instruction, so these have twice as many samples, drawn at random. short:
        fraction of the other batches whose answers are short. first: number of the first batch; a seed and a number
        always give the same batch.
        """
        in_epoch = max(1, len(self.data.images) // size)
        for number in count(first):
            epoch, place = divmod(number, in_epoch)
            order = np.random.default_rng((seed, epoch)).permutation(len(self.data.images))
            rng = np.random.default_rng((seed, epoch, place))
            if rng.random() < steered:
                yield self.steered_batch(rng.integers(0, len(self.data.images), 2 * size), rng)
            else:
                rows = order[place * size : (place + 1) * size]
                yield self.batch(rows, asked, rng.random() < depth, rng, rng.random() < short)
