"""The input sequence and the words of a small vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.engine.model.checkpoint import text_codec
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.tokens import Encode, ImageTokens, refuse_unknown_words, sequence_ids
from molmoact_ros.training.tokenizer import build_tokenizer

START, END, PATCH, COLUMN = 1000, 1001, 1002, 1003


def test_one_released_image_has_its_424_tokens_and_no_name(encode: Encode) -> None:
    ids = sequence_ids(" red", [[(14, 14), (14, 14)]], encode, ImageTokens.after(1000), bos_id=0)
    counts = {token: int((ids == token).sum()) for token in (START, END, PATCH, COLUMN)}
    assert counts == {START: 2, END: 2, PATCH: 392, COLUMN: 28}
    assert len(ids) == 1 + 424 + 1 and ids[0] == 0 and ids[-1] == encode(" red")[0]


def test_several_images_are_named_in_order(encode: Encode) -> None:
    ids = sequence_ids(" red", [[(1, 2)], [(2, 1)]], encode, ImageTokens.after(1000), bos_id=0)
    first, second, red = (encode(text)[0] for text in ("Image 1", "Image 2", " red"))
    assert ids.tolist() == [
        *(0, first, START, PATCH, PATCH, COLUMN, END),
        *(second, START, PATCH, COLUMN, PATCH, COLUMN, END, red),
    ]
    assert ids.dtype == np.int64


def test_unknown_words_are_named(encode: Encode) -> None:
    unknown = encode("?")[0]
    refuse_unknown_words("put the red cube in the bowl", encode, unknown)
    with pytest.raises(RefusedStep, match="'purple', 'elephant'"):
        refuse_unknown_words("put the purple elephant in the bowl", encode, unknown)


def test_words_that_are_known_only_inside_a_name_of_several_words_are_known_there() -> None:
    encode = text_codec(build_tokenizer(("pick", "up", "the"), ("alphabet soup", "tomato sauce"))).encode
    unknown = encode("?")[0]
    refuse_unknown_words("pick up the alphabet soup", encode, unknown)
    with pytest.raises(RefusedStep, match="not know 'sauce', 'elephant';"):
        refuse_unknown_words("pick up the alphabet soup sauce elephant", encode, unknown)
    with pytest.raises(RefusedStep, match="not know 'alphabet';"):
        refuse_unknown_words("pick up the alphabet", encode, unknown)


def test_words_that_are_known_but_not_beside_each_other_are_refused() -> None:
    encode = text_codec(build_tokenizer(("pick",), ("wine bottle", "bottle rack"))).encode
    unknown = encode("?")[0]
    with pytest.raises(RefusedStep, match="'pick wine bottle rack'"):
        refuse_unknown_words("pick wine bottle rack", encode, unknown)
