"""The nano model's tokenizer: the released text format with one token for each phrase, word, coordinate and symbol."""

from __future__ import annotations

import re
from collections.abc import Sequence
from itertools import chain, product

from tokenizers import AddedToken, Regex, Tokenizer
from tokenizers.decoders import Fuse
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Split

from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS
from molmoact_ros.reasoning.answer_templates import NEXT_GROUP, NEXT_VALUE, Phrasing, Wording
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS
from molmoact_ros.reasoning.prompts import prompt_template
from molmoact_ros.reasoning.tokens import END_OF_TEXT, IMAGE_TOKENS
from molmoact_ros.reasoning.trace import MAX_COORDINATE

UNKNOWN = "<unk>"
COLOURS, SHAPES = ("red", "green", "blue", "yellow"), ("cube", "ball", "cylinder", "bar", "rod")
WORDS = ("put", "place", "move", "pick", "up", "the", "in", "into", "on", *COLOURS, *SHAPES, "bowl", "plate", "box")
"""All words of the simulator's instructions."""
NAMES = tuple(f"{colour} {shape}" for colour in COLOURS for shape in SHAPES)
"""Words that always occur together form one token, so that a small model need not compose them."""
_MULTIPLE = 64
"""The vocabulary is padded to a multiple of this, an efficient size for matrix products."""


def build_tokenizer(words: Sequence[str] = WORDS, names: Sequence[str] = NAMES) -> Tokenizer:
    """Build the tokenizer: a base vocabulary of `base_vocab_size` ids, followed by the six image tokens.

    words: those that are one token each. names: texts of several words that are one token. Both are of the
    instructions; of two that fit, the longer one is read. Each stretch of unknown text becomes one `<unk>`.
    """
    return tokenizer_of(_pieces(words, names), END_OF_TEXT, "|<EXTRA_TOKENS_{}>|", IMAGE_TOKENS)


def tokenizer_of(pieces: Sequence[str], end: str, padding: str, behind: Sequence[str]) -> Tokenizer:
    """A tokenizer with one token for each of `pieces`; each stretch of other text becomes one `<unk>`.

    end: the first token, which is special. padding: name of the tokens that fill up the vocabulary, with their number.
    behind: special tokens behind the vocabulary.
    """
    vocabulary = [end, UNKNOWN, *pieces]
    vocabulary += [padding.format(i) for i in range(-len(vocabulary) % _MULTIPLE)]
    tokenizer = Tokenizer(WordLevel({token: i for i, token in enumerate(vocabulary)}, unk_token=UNKNOWN))
    longest_first = sorted(pieces, key=len, reverse=True)
    tokenizer.pre_tokenizer = Split(Regex("|".join(map(re.escape, longest_first))), behavior="isolated")
    tokenizer.decoder = Fuse()
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in (end, *behind)])
    return tokenizer


def known_shapes(tokenizer: Tokenizer) -> tuple[str, ...]:
    """The shapes of the simulator's objects that a tokenizer has names for; the first three for one of another kind."""
    named = [s for s in SHAPES if all(tokenizer.token_to_id(f" {colour} {s}") is not None for colour in COLOURS)]
    return tuple(named) or SHAPES[:3]


def base_vocab_size(tokenizer: Tokenizer) -> int:
    """The rows of the language-model head: the ids before the image tokens."""
    return tokenizer.get_vocab_size(with_added_tokens=False)


def _pieces(words: Sequence[str], names: Sequence[str]) -> list[str]:
    """Every text that is one token, in id order, without duplicates."""
    coordinates = [str(n) for n in range(MAX_COORDINATE + 1)]
    return list(
        dict.fromkeys(
            chain(
                (f"Image {number}" for number in (1, 2)),
                _phrases(),
                (f" {word}" for word in words),
                (NEXT_GROUP,),
                coordinates,
                (NEXT_VALUE + n for n in coordinates),
                ACTION_SYMBOLS,
                (NEXT_VALUE + s for s in ACTION_SYMBOLS),
                (DEPTH_START, DEPTH_END, *DEPTH_TOKENS),
                (f" {name}" for name in names),
            )
        )
    )


def _phrases() -> list[str]:
    """The fixed text of every prompt and answer. A word token includes its leading space; phrases end without one."""
    texts: list[str] = []
    for cameras, steered in product((1, 2), (False, True)):
        before, *rest = prompt_template(cameras, steered).split(" {T}")
        texts += [before, *rest]
        for steps in (1, 8):
            wording = Wording.ONE_CAMERA if cameras == 1 else Wording.SEVERAL_CAMERAS
            form = Phrasing.steering(steps) if steered else Phrasing.reasoning(wording, steps)
            texts += [form.to_depth or "", form.to_trace or "", form.to_actions, form.end]
    return [text for text in (t.replace(DEPTH_START, "").replace(DEPTH_END, "") for t in texts) if text]
