"""The grammar over the released 7B-D's vocabulary, where a value is several byte-pair tokens."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats, values_from_bins
from molmoact_ros.reasoning.answer import RefusedStep, Segment
from molmoact_ros.reasoning.answer_parser import AnswerReader
from molmoact_ros.reasoning.answer_templates import Wording, answer_text, forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.tokens import TextCodec

EOS = 151_643
STEPS = (1, 8)
Say = Callable[..., str]


def stats(dimensions: int) -> NormStats:
    return NormStats(q01=(-0.02,) * dimensions, q99=(0.04,) * dimensions, mask=(True,) * dimensions)


@pytest.fixture(scope="module", params=[7, 14])
def grammar(request: pytest.FixtureRequest, qwen_codec: TextCodec) -> AnswerGrammar:
    return AnswerGrammar(qwen_codec, EOS, stats(request.param), forms(False, STEPS, Wording))


@pytest.fixture(scope="module")
def steered(qwen_codec: TextCodec) -> AnswerGrammar:
    return AnswerGrammar(qwen_codec, EOS, stats(7), forms(True, STEPS, ()))


def random_answer(seed: int, dimensions: int) -> tuple[np.ndarray, np.ndarray, np.ndarray, Wording]:
    rng = np.random.default_rng(seed)
    wording = list(Wording)[seed % 3]
    trace = rng.integers(0, 256, (1 + seed % 5, 2))
    return rng.integers(0, 128, (10, 10)), trace, rng.integers(0, 255, (STEPS[seed % 2], dimensions)), wording


@pytest.mark.parametrize("seed", range(60))
def test_what_the_model_was_trained_to_say_is_allowed_and_read_back(grammar: AnswerGrammar, seed: int) -> None:
    depth, trace, bins, wording = random_answer(seed, grammar.stats.dimensions)
    text = answer_text(depth, trace, values_from_bins(bins), wording)
    said = grammar.parse([*grammar.codec.encode(text), EOS])
    np.testing.assert_array_equal(said.depth_codes, depth)
    np.testing.assert_array_equal(said.trace, trace)
    np.testing.assert_array_equal(said.actions, grammar.stats.unnormalise(values_from_bins(bins)))
    assert (said.second_trace is not None) == (wording is Wording.TWO_ARMS)


@pytest.mark.parametrize("k", range(256))
def test_every_bin_is_spelt_in_every_place(steered: AnswerGrammar, qwen_codec: TextCodec, k: int) -> None:
    """First, last and in between, and beside itself: joins with the text on both sides."""
    reader = AnswerReader(steered.forms, steered.stats)
    values = values_from_bins(np.full((8, 7), k))
    text = answer_text(None, None, values).replace(ACTION_SYMBOLS[min(k, 254)], ACTION_SYMBOLS[k])
    said = steered.parse([*qwen_codec.encode(text), EOS])
    np.testing.assert_array_equal(said.actions, steered.stats.unnormalise(values))
    np.testing.assert_array_equal(reader.read(text).actions, said.actions)


@pytest.mark.parametrize("seed", range(30))
def test_no_spelling_is_allowed_but_the_tokenizers_own(grammar: AnswerGrammar, seed: int) -> None:
    rng = np.random.default_rng(seed)
    state, ids = grammar.start, []
    while not grammar.ended(state):
        ids.append(int(rng.choice(grammar.allowed(state))))
        state = grammar.advance(state, ids[-1])
    assert grammar.codec.encode(grammar.codec.decode(ids[:-1])) == ids[:-1]
    assert grammar.parse(ids).actions is not None


def test_an_answer_has_the_length_that_was_counted(grammar: AnswerGrammar) -> None:
    """About 457 tokens for reasoning and 8 x 7 values, of them about 262 for the actions and 102 for the depth."""
    arms = grammar.stats.dimensions / 7
    rng, lengths = np.random.default_rng(0), []
    for _ in range(50):
        trace, actions = rng.integers(0, 256, (5, 2)), rng.uniform(-1, 1, (8, grammar.stats.dimensions))
        text = answer_text(rng.integers(0, 128, (10, 10)), trace, actions)
        ids = [*grammar.codec.encode(text), EOS]
        states = [grammar.start, *grammar.walk(grammar.start, ids)]
        segments = [grammar.segment(state) for state in states[:-1]]
        lengths.append([len(ids), segments.count(Segment.ACTION), segments.count(Segment.DEPTH)])
    whole, actions_, depth = np.mean(lengths, axis=0)
    assert 190 + 250 * arms < whole < 200 + 270 * arms and 250 * arms < actions_ < 270 * arms and depth == 100


WRONG = st.sampled_from(
    [*ACTION_SYMBOLS[:3], "Ġ", "é", "", " ", ",", "[", "]", "]]", "0", "nan", "<DEPTH_3>", "<DEPTH_200>"]
)


@settings(deadline=None, max_examples=300)
@given(st.integers(0, 10_000), st.integers(0, 3000), st.integers(0, 6), WRONG)
def test_no_text_reads_as_actions_that_the_grammar_does_not_allow(
    grammar: AnswerGrammar, seed: int, at: int, cut: int, put: str
) -> None:
    depth, trace, bins, wording = random_answer(seed, grammar.stats.dimensions)
    text = answer_text(depth, trace, values_from_bins(bins), wording)
    at %= len(text)
    changed = text[:at] + put + text[at + cut :]
    reader = AnswerReader(grammar.forms, grammar.stats)
    try:
        read = reader.read(changed)
    except RefusedStep:
        return
    ids = [*grammar.codec.encode(changed), EOS]
    assert len(grammar.walk(grammar.start, ids)) == len(ids)
    np.testing.assert_array_equal(grammar.parse(ids).actions, read.actions)


def test_an_unknown_symbol_is_refused_and_named(steered: AnswerGrammar) -> None:
    reader = AnswerReader(steered.forms, steered.stats)
    text = re.sub(ACTION_SYMBOLS[127], "éé", answer_text(None, None, np.zeros((8, 7))), count=1)
    with pytest.raises(RefusedStep, match="'éé' is not an action symbol"):
        reader.read(text)
