"""The nano tokenizer keeps every text, one token a value."""

from __future__ import annotations

import re
from itertools import product
from pathlib import Path

import numpy as np
import pytest
from tokenizers import Tokenizer

from molmoact_ros.reasoning.answer_templates import Wording, answer_text
from molmoact_ros.reasoning.prompts import prompt
from molmoact_ros.sim.scene import OBJECTS
from molmoact_ros.training.tokenizer import UNKNOWN, WORDS, base_vocab_size, build_tokenizer


@pytest.fixture(scope="module")
def tokenizer() -> Tokenizer:
    return build_tokenizer()


@pytest.mark.parametrize(("cameras", "steered"), list(product((1, 2), (False, True))))
def test_prompts_round_trip_without_unknowns(tokenizer: Tokenizer, cameras: int, steered: bool) -> None:
    for instruction in ("put the red cube in the bowl", " ".join(WORDS)):
        text = prompt(instruction, cameras, steered)
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids) == text
        assert UNKNOWN not in encoded.tokens
        words = re.sub("|".join(OBJECTS), "object", instruction).split()  # an object's name is one token
        assert len(encoded.ids) == (2 - steered) * len(words) + 3 - steered


@pytest.mark.parametrize("seed", range(10))
def test_answers_round_trip_without_unknowns(tokenizer: Tokenizer, seed: int) -> None:
    rng = np.random.default_rng(seed)
    wordings = (Wording.ONE_CAMERA, Wording.SEVERAL_CAMERAS)
    for wording, steered, steps in product(wordings, (False, True), (1, 8)):
        points = int(rng.integers(1, 6))
        depth, trace = (None, None) if steered else (rng.integers(0, 128, (10, 10)), rng.integers(0, 256, (points, 2)))
        text = answer_text(depth, trace, rng.uniform(-1, 1, (steps, 7)), wording)
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.ids) == text
        assert UNKNOWN not in encoded.tokens
        actions = 1 + 7 * steps + (steps - 1) + 1  # phrase, values, separators, end
        assert len(encoded.ids) == actions + (0 if steered else 1 + 102 + 1 + 3 * points - 1)


def test_image_tokens_follow_the_padded_vocabulary(tokenizer: Tokenizer) -> None:
    size = base_vocab_size(tokenizer)
    assert size % 64 == 0
    names = ("<im_start>", "<im_end>", "<im_patch>", "<im_col>", "<|image|>", "<im_low>")
    assert [tokenizer.token_to_id(name) for name in names] == list(range(size, size + 6))
    assert tokenizer.get_vocab_size() == size + 6
    assert [len(tokenizer.encode(f"Image {i}").ids) for i in (1, 2)] == [1, 1]


def test_the_end_token_is_not_part_of_the_text(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode(" red cube<|endoftext|>").ids
    assert ids[-1] == tokenizer.token_to_id("<|endoftext|>")
    assert tokenizer.decode(ids) == " red cube"


@pytest.mark.parametrize("text", [" purple", " redish", "Put"])
def test_foreign_text_is_unknown(tokenizer: Tokenizer, text: str) -> None:
    assert UNKNOWN in tokenizer.encode(text).tokens


def test_a_saved_tokenizer_is_the_same(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    text = prompt("move the blue ball onto the plate", 2) + answer_text(None, None, np.zeros((8, 7)))
    assert Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == tokenizer.encode(text).ids
