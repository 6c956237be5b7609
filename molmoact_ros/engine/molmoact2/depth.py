"""The depth part of MolmoAct 2-Think: 100 codes of the first image, decoded greedily among the depth tokens alone.

Codes of the step before are drafts, which one pass verifies; in the mode reuse those of unchanged cells are taken over.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

import numpy as np
from PIL import Image

from molmoact_ros.engine.decoding.constrained import CancelledStep, SegmentCounts
from molmoact_ros.engine.decoding.decoder import CachedDecoder
from molmoact_ros.engine.decoding.speculative import DraftConfig, Tree
from molmoact_ros.engine.molmoact2.config import MolmoAct2Config
from molmoact_ros.reasoning.answer import RefusedStep

GRID: Final = 10
CELLS: Final = GRID * GRID
SIDE: Final = 320  # pixels to which images are scaled before they are compared
SIMILAR: Final = 0.996  # cosine from which on a cell counts as unchanged
UNKNOWN: Final = -1
MOST_STRAY: Final = 8  # tokens after the last code, at least, before an answer without an end is refused


@dataclass(frozen=True)
class DepthMemory:
    """The last step's first image, uint8 [320, 320, 3], and its codes, int64 [100]."""

    image: np.ndarray
    codes: np.ndarray


def scaled(image: np.ndarray) -> np.ndarray:
    """A camera image uint8 [H, W, 3] RGB as uint8 [320, 320, 3]."""
    if image.shape[:2] == (SIDE, SIDE):
        return image
    return np.asarray(Image.fromarray(image).resize((SIDE, SIDE), Image.Resampling.BILINEAR))


def cell_similarity(image: np.ndarray, before: np.ndarray) -> np.ndarray:
    """Cosine of the RGB values of each of the 10x10 cells of two images uint8 [320, 320, 3], float32 [100]."""
    a, b = _cells(image), _cells(before)
    product = np.linalg.norm(a, axis=1) * np.linalg.norm(b, axis=1)
    cosine = (a * b).sum(axis=1) / (product + np.float32(1e-12))
    return np.where(product < np.float32(1e-8), np.float32(1), cosine)


def _cells(image: np.ndarray) -> np.ndarray:
    side = SIDE // GRID
    cells = image.reshape(GRID, side, GRID, side, 3).transpose(0, 2, 1, 3, 4)
    return cells.reshape(CELLS, -1).astype(np.float32)


def kept_codes(image: np.ndarray, memory: DepthMemory | None) -> np.ndarray:
    """The codes int64 [100] that the mode reuse takes over for an image uint8 [320, 320, 3]; UNKNOWN where changed."""
    if memory is None:
        return np.full(CELLS, UNKNOWN)
    return np.where(cell_similarity(image, memory.image) < SIMILAR, UNKNOWN, memory.codes)


class DepthDecoder:
    """Decodes a depth map behind a prompt that is in a decoder's cache.

    codes, tokens = DepthDecoder(config, NARROW).decode(decoder, kept, guess, counts)
    """

    def __init__(self, config: MolmoAct2Config, draft: DraftConfig) -> None:
        self.start, self.end, self.first = config.depth_ids
        self._codes = np.arange(self.first, self.first + config.num_depth_tokens)
        self._all = np.arange(config.llm_config.vocab_size)
        self.most_stray = max(MOST_STRAY, config.max_action_horizon)
        self._draft = draft

    def decode(
        self, decoder: CachedDecoder, kept: np.ndarray, guess: np.ndarray, counts: SegmentCounts,
        wanted: Callable[[], bool] = lambda: True,
    ) -> tuple[np.ndarray, list[int]]:  # fmt: skip
        """The codes int64 [100], and all tokens, from the start to the end token, which are then in the cache.

        kept: int64 [100], codes that are given; UNKNOWN: decode. guess: int64 [100], drafts; UNKNOWN: none. wanted: is
        called before every pass. Raises CancelledStep once it returns False, and RefusedStep without an end token.
        """
        tokens, fed, width = [self.start], 0, 2
        while len(tokens) <= CELLS:
            cell = len(tokens) - 1
            if kept[cell] != UNKNOWN:
                tokens.append(self.first + int(kept[cell]))
                continue
            drafts = self._drafts(cell, kept, guess, width)
            accepted = self._pass(decoder, tokens, fed, drafts, wanted)
            counts.passes, counts.guessed, counts.held = (
                counts.passes + 1, counts.guessed + len(drafts), counts.held + accepted,
            )  # fmt: skip
            fed = len(tokens) - 1  # the last token was chosen, and is fed by the next pass
            more = self._draft.patient or accepted == len(drafts)
            width = min(max(2 * width, 2), self._draft.nodes) if more else max(2, width // 4)
        self._finish(decoder, tokens, fed, counts, wanted)
        return np.array(tokens[1 : 1 + CELLS]) - self.first, tokens

    def _drafts(self, cell: int, kept: np.ndarray, guess: np.ndarray, most: int) -> list[int]:
        """Drafts for the cells from `cell` on that are decoded, except the last of them."""
        end = cell
        while end < min(CELLS, cell + most) and kept[end] == UNKNOWN and guess[end] != UNKNOWN:
            end += 1
        if end == CELLS or kept[min(end, CELLS - 1)] != UNKNOWN:
            end -= 1
        return [self.first + int(code) for code in guess[cell : max(cell, end)]]

    def _pass(
        self, decoder: CachedDecoder, tokens: list[int], fed: int, drafts: list[int], wanted: Callable[[], bool]
    ) -> int:
        """Feed the tokens from `fed` on; append those that follow; return how many drafts were right."""
        if not wanted():
            raise CancelledStep
        decoder.feed(tokens[fed:], Tree(drafts, list(range(-1, len(drafts) - 1))))
        accepted = 0
        tokens.append(decoder.choose(-1, self._codes))
        while accepted < len(drafts) and tokens[-1] == drafts[accepted]:
            tokens.append(decoder.choose(accepted, self._codes))
            accepted += 1
        decoder.keep(range(accepted))
        return accepted

    def _finish(
        self, decoder: CachedDecoder, tokens: list[int], fed: int, counts: SegmentCounts, wanted: Callable[[], bool]
    ) -> None:
        """Decode what follows the last code, among all tokens, up to the end token; tokens in between stay."""
        for _ in range(self.most_stray):
            if not wanted():
                raise CancelledStep
            decoder.feed(tokens[fed:], Tree())
            fed = len(tokens)
            tokens.append(decoder.choose(-1, self._all))
            counts.passes += 1
            if tokens[-1] == self.end:
                decoder.feed(tokens[fed:], Tree())
                return
        raise RefusedStep("the depth map does not end; check the weights with `molmoact-ros doctor`")
