"""The input sequence and the words of a small vocabulary."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.tokens import Encode, ImageTokens, refuse_unknown_words, sequence_ids

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
