"""The grammar: whatever is written is read back, and nothing else is read."""

from __future__ import annotations

from collections.abc import Callable
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmoact_ros.reasoning.action_tokens import NormStats, values_from_bins
from molmoact_ros.reasoning.answer import RefusedStep, Segment
from molmoact_ros.reasoning.answer_templates import Wording, answer_text, forms
from molmoact_ros.reasoning.grammar import AnswerGrammar
from molmoact_ros.reasoning.tokens import Encode, TextCodec

EOS = 0
DEPTH = arrays(np.uint8, (10, 10), elements=st.integers(0, 127))
TRACE = st.integers(1, 5).flatmap(lambda n: arrays(np.int64, (n, 2), elements=st.integers(0, 255)))
# The last bin, 255, is written for +1 only and reads as 254.
BINS = arrays(np.int64, (8, 7), elements=st.integers(0, 254))


def sample(grammar: AnswerGrammar, choose: Callable[[np.ndarray], int]) -> list[int]:
    """One answer of the grammar's language."""
    state, ids = grammar.start, []
    while not grammar.ended(state):
        ids.append(int(choose(grammar.allowed(state))))
        state = grammar.advance(state, ids[-1])
    return ids


@pytest.fixture(scope="module")
def grammar_of(codec: TextCodec, stats: NormStats) -> Callable[[bool, Wording], AnswerGrammar]:
    """The grammar of a form, which is built once."""
    return cache(lambda steered, wording: AnswerGrammar(codec, EOS, stats, forms(steered, (8,), (wording,))))


@settings(deadline=None, max_examples=40)
@given(DEPTH, TRACE, BINS, st.sampled_from([Wording.ONE_CAMERA, Wording.SEVERAL_CAMERAS]), st.booleans())
def test_an_answer_reads_back_as_it_was_written(
    grammar_of: Callable[[bool, Wording], AnswerGrammar],
    codec: TextCodec,
    stats: NormStats,
    depth: np.ndarray,
    trace: np.ndarray,
    bins: np.ndarray,
    wording: Wording,
    steered: bool,
) -> None:
    grammar = grammar_of(steered, wording)
    said_depth, said_trace = (None, None) if steered else (depth, trace)
    text = answer_text(said_depth, said_trace, values_from_bins(bins), wording)
    reasoning = grammar.parse([*codec.encode(text), EOS])
    assert reasoning.complete
    np.testing.assert_array_equal(reasoning.actions, stats.unnormalise(values_from_bins(bins)))
    if steered:
        assert reasoning.depth_codes is None and reasoning.trace is None
    else:
        np.testing.assert_array_equal(reasoning.depth_codes, depth)
        np.testing.assert_array_equal(reasoning.trace, trace)


@pytest.mark.parametrize("steps", [1, 3])
def test_the_number_of_steps_is_part_of_the_form(codec: TextCodec, stats: NormStats, steps: int) -> None:
    grammar = AnswerGrammar(codec, EOS, stats, forms(True, (steps,), ()))
    ids = [*codec.encode(answer_text(None, None, np.zeros((steps, 7)))), EOS]
    actions = grammar.parse(ids).actions
    assert actions is not None and actions.shape == (steps, 7)
    with pytest.raises(RefusedStep):
        grammar.parse([*codec.encode(answer_text(None, None, np.zeros((steps + 1, 7)))), EOS])


@pytest.mark.parametrize("seed", range(20))
def test_every_walk_through_the_grammar_is_a_well_formed_answer(
    grammar: AnswerGrammar, encode: Encode, seed: int
) -> None:
    rng = np.random.default_rng(seed)
    ids = sample(grammar, rng.choice)
    reasoning = grammar.parse(ids)
    assert reasoning.depth_codes is not None and reasoning.depth_codes.shape == (10, 10)
    assert reasoning.trace is not None and 1 <= len(reasoning.trace) <= 5
    assert reasoning.actions is not None and reasoning.actions.shape == (8, 7)
    rewritten = answer_text(reasoning.depth_codes, reasoning.trace, grammar.stats.normalise(reasoning.actions))
    again = grammar.parse([*encode(rewritten), EOS])
    np.testing.assert_array_equal(again.depth_codes, reasoning.depth_codes)
    np.testing.assert_array_equal(again.trace, reasoning.trace)
    np.testing.assert_array_equal(again.actions, reasoning.actions)


@pytest.mark.parametrize("seed", range(30))
def test_one_wrong_token_refuses_the_answer(grammar: AnswerGrammar, seed: int) -> None:
    rng = np.random.default_rng(seed)
    ids = sample(grammar, rng.choice)
    at = int(rng.integers(len(ids)))
    state = [grammar.start, *grammar.walk(grammar.start, ids)][at]
    wrong = int(rng.choice(np.setdiff1d(np.arange(1222), grammar.allowed(state))))
    with pytest.raises(RefusedStep, match=f"token {at}"):
        grammar.parse([*ids[:at], wrong, *ids[at + 1 :]])


@settings(deadline=None, max_examples=200)
@given(st.lists(st.integers(0, 1221), max_size=200))
def test_random_tokens_are_never_an_answer(grammar: AnswerGrammar, ids: list[int]) -> None:
    with pytest.raises(RefusedStep):
        grammar.parse(ids)


def test_a_cut_or_prolonged_answer_is_refused(grammar: AnswerGrammar) -> None:
    ids = sample(grammar, lambda allowed: allowed[-1])
    for cut in range(len(ids)):
        with pytest.raises(RefusedStep, match="before its end"):
            grammar.parse(ids[:cut])
    with pytest.raises(RefusedStep):
        grammar.parse([*ids, EOS])


def test_parts_appear_as_soon_as_they_are_complete(grammar: AnswerGrammar) -> None:
    ids = sample(grammar, np.random.default_rng(4).choice)
    whole = grammar.parse(ids)
    segments = [grammar.segment(s) for s in (grammar.start, *grammar.walk(grammar.start, ids[:-1]))]
    for n in range(len(ids) + 1):
        partial = grammar.parse_partial(ids[:n])
        assert (partial.depth_codes is not None) == (n > max(i for i, s in enumerate(segments) if s is Segment.DEPTH))
        assert (partial.trace is not None) == (n >= segments.index(Segment.ACTION))
        assert (partial.actions is not None) == (n >= len(ids) - 1)
        assert partial.complete == (n == len(ids))
        if partial.depth_codes is not None:
            np.testing.assert_array_equal(partial.depth_codes, whole.depth_codes)
        if partial.trace is not None:
            np.testing.assert_array_equal(partial.trace, whole.trace)


def test_segments_count_what_the_answer_holds(grammar: AnswerGrammar, encode: Encode) -> None:
    trace = np.array([[1, 2], [3, 4]])
    ids = [*encode(answer_text(np.zeros((10, 10), dtype=np.uint8), trace, np.zeros((8, 7)))), EOS]
    states = [grammar.start, *grammar.walk(grammar.start, ids)]
    segments = [grammar.segment(state) for state in states]
    assert segments.count(Segment.DEPTH) == 100
    assert segments.count(Segment.TRACE) == 2 * 2 + 2  # two points; after each, whether another follows
    assert segments.count(Segment.ACTION) == 8 * 7 + 7
    assert grammar.ended(states[-1]) and grammar.segment(states[-1]) is Segment.END


def test_forced_runs_are_the_only_way_on_and_stop_at_a_choice(grammar: AnswerGrammar) -> None:
    ids = sample(grammar, np.random.default_rng(7).choice)
    for state in (grammar.start, *grammar.walk(grammar.start, ids)):
        for token in grammar.forced_run(state):
            assert grammar.allowed(state).tolist() == [token]
            state = grammar.advance(state, token)
        assert len(grammar.allowed(state)) != 1


def test_a_walk_is_cut_where_a_draft_no_longer_fits(grammar: AnswerGrammar) -> None:
    ids = sample(grammar, lambda allowed: allowed[0])
    states = grammar.walk(grammar.start, [*ids[:50], EOS, *ids[50:]])
    assert len(states) == 50
    with pytest.raises(RefusedStep, match="not allowed"):
        grammar.advance(states[-1], EOS)


@pytest.fixture(scope="module")
def by_character(stats: NormStats) -> AnswerGrammar:
    return AnswerGrammar(BY_CHARACTER, EOS, stats, forms(False, (8,), (Wording.ONE_CAMERA,)))


@settings(deadline=None, max_examples=15)
@given(TRACE, BINS)
def test_values_may_take_several_tokens(
    by_character: AnswerGrammar, stats: NormStats, trace: np.ndarray, bins: np.ndarray
) -> None:
    """With one token a character, values share beginnings ("1", "12") and the automaton becomes a trie."""
    grammar, depth = by_character, np.arange(100).reshape(10, 10)
    ids = [*BY_CHARACTER.encode(answer_text(depth, trace, values_from_bins(bins), Wording.ONE_CAMERA)), EOS]
    assert grammar.ended(grammar.walk(grammar.start, ids)[-1])
    reasoning = grammar.parse(ids)
    np.testing.assert_array_equal(reasoning.depth_codes, depth)
    np.testing.assert_array_equal(reasoning.trace, trace)
    np.testing.assert_array_equal(reasoning.actions, stats.unnormalise(values_from_bins(bins)))


def test_a_tokenizer_that_cannot_tell_two_values_apart_is_refused(stats: NormStats) -> None:
    same = TextCodec(lambda text: [1] * len(text), lambda ids: "x" * len(ids))
    with pytest.raises(ValueError, match="ambiguous"):
        AnswerGrammar(same, EOS, stats, forms(False, (8,), (Wording.ONE_CAMERA,)))


BY_CHARACTER = TextCodec(lambda text: [ord(character) for character in text], lambda ids: "".join(map(chr, ids)))
