"""The decoder's input sequence: image tokens first, then the prompt (MolmoAct's layout)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.prompts import validate_instruction

Encode = Callable[[str], list[int]]
"""Text to token ids, without special tokens around it."""
Grid = tuple[int, int]
"""Rows and columns of an image's tokens."""
IMAGE_TOKENS = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>", "<im_low>")
"""Names of the image tokens in id order, from the first id after the vocabulary."""
END_OF_TEXT = "<|endoftext|>"
"""The begin, end and padding token."""


@dataclass(frozen=True)
class TextCodec:
    """The tokenizer functions that the grammar needs. decode: token ids to text, without skipping special tokens."""

    encode: Encode
    decode: Callable[[Sequence[int]], str]


@dataclass(frozen=True)
class ImageTokens:
    """Ids of the tokens that frame an image."""

    start: int
    end: int
    patch: int
    column: int

    @classmethod
    def after(cls, vocab_size: int) -> ImageTokens:
        """The ids that follow a vocabulary of `vocab_size` (the rows of the language-model head)."""
        return cls(vocab_size, vocab_size + 1, vocab_size + 2, vocab_size + 3)

    def view(self, grid: Grid) -> list[int]:
        """The ids of one view whose pooled features form `grid` (rows, columns)."""
        rows, columns = grid
        return [self.start, *([self.patch] * columns + [self.column]) * rows, self.end]


def sequence_ids(
    prompt: str, views: Sequence[Sequence[Grid]], encode: Encode, image: ImageTokens, bos_id: int
) -> np.ndarray:
    """Input ids, int64 [T]: the begin token, each image's views (after "Image i" for several images), then the prompt.

    views: for each image, the grids (rows, columns) of its views in the order of their features.
    """
    ids = [bos_id]
    for number, grids in enumerate(views, start=1):
        ids += encode(f"Image {number}") if len(views) > 1 else []
        for grid in grids:
            ids += image.view(grid)
    return np.array(ids + encode(prompt), dtype=np.int64)


def refuse_unknown_words(instruction: str, encode: Encode, unknown_id: int) -> None:
    """Raise RefusedStep with the words of `instruction` that a small vocabulary lacks.

    Such a vocabulary may know a word only inside a name of several words, so that a word counts as known if any words
    around it make it so.
    """
    words = validate_instruction(instruction).split()

    def known(first: int, end: int) -> bool:
        return unknown_id not in encode("".join(f" {word}" for word in words[first:end]))

    if known(0, len(words)):
        return
    spans = [(a, b) for a, b in combinations(range(len(words) + 1), 2) if known(a, b)]
    unknown = [word for i, word in enumerate(words) if not any(a <= i < b for a, b in spans)]
    # Words that are all known, but not beside each other, are named together.
    named = ", ".join(map(repr, unknown or [" ".join(words)]))
    raise RefusedStep(f"this model does not know {named}; say it in words it was trained on")
