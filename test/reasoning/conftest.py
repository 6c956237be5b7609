"""The nano tokenizer and statistics with which the grammar is tried."""

from __future__ import annotations

import pytest

from molmoact_ros.engine.model.checkpoint import text_codec
from molmoact_ros.reasoning.action_tokens import NormStats
from molmoact_ros.reasoning.answer_templates import Wording, forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.tokens import Encode, TextCodec
from molmoact_ros.training.tokenizer import build_tokenizer

EOS = 0


@pytest.fixture(scope="session")
def codec() -> TextCodec:
    tokenizer = build_tokenizer()
    assert tokenizer.token_to_id("<|endoftext|>") == EOS
    return text_codec(tokenizer)


@pytest.fixture(scope="session")
def encode(codec: TextCodec) -> Encode:
    return codec.encode


@pytest.fixture(scope="session")
def stats() -> NormStats:
    return NormStats(
        q01=(-0.05, -0.04, -0.03, -0.2, -0.1, -0.3, 0.0), q99=(0.05, 0.06, 0.07, 0.2, 0.1, 0.3, 1.0), mask=(True,) * 7
    )


@pytest.fixture(scope="session")
def grammar(codec: TextCodec, stats: NormStats) -> AnswerGrammar:
    return AnswerGrammar(codec, EOS, stats, forms(False, (8,), (Wording.SEVERAL_CAMERAS,)))
