"""Action symbols against MolmoAct's published table, and normalisation."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from pydantic import ValidationError

from molmoact_ros.reasoning.action_tokens import (
    ACTION_SYMBOLS,
    NormStats,
    bin_from_symbol,
    bins_from_values,
    values_from_bins,
)
from molmoact_ros.reasoning.answer import RefusedStep


@pytest.mark.parametrize(
    ("k", "code_points"),
    [
        (0, [0xE2, 0xBD, 0x139]),
        (1, [0xE2, 0xBA, 0x141]),
        (2, [0xE2, 0x12F, 0xA8]),
        (3, [0xE1, 0x137, 0xB7]),
        (254, [0xF0, 0x141, 0x130, 0xBF]),
        (255, [0xF0, 0x141, 0x130, 0x133]),
    ],
)
def test_symbols_are_the_released_ones(k: int, code_points: list[int]) -> None:
    assert [ord(c) for c in ACTION_SYMBOLS[k]] == code_points


def test_symbols_are_distinct_and_hold_no_ascii() -> None:
    assert len(set(ACTION_SYMBOLS)) == 256
    assert all(ord(c) > 127 for symbol in ACTION_SYMBOLS for c in symbol)


def test_every_symbol_reads_as_its_own_bin_and_nothing_else_reads_at_all() -> None:
    assert [bin_from_symbol(symbol) for symbol in ACTION_SYMBOLS] == list(range(256))
    with pytest.raises(RefusedStep, match="not an action symbol"):
        bin_from_symbol("x")


@pytest.mark.parametrize(("value", "k", "decoded"), [(0.0, 127, 0.0), (1.0, 255, 0.996078), (-1.0, 0, -0.996078)])
def test_published_round_trips(value: float, k: int, decoded: float) -> None:
    assert bins_from_values(np.array(value)) == k
    assert values_from_bins(np.array(k)) == pytest.approx(decoded, abs=1e-6)


def test_bins_begin_at_their_lower_edge() -> None:
    edges = np.linspace(-1, 1, 256)
    assert bins_from_values(edges).tolist() == list(range(256))
    assert bins_from_values(np.nextafter(edges[1:], -2)).tolist() == list(range(255))
    assert bins_from_values(np.array([-7.0, 7.0])).tolist() == [0, 255]


def test_bin_centres_return_to_their_bin() -> None:
    assert bins_from_values(values_from_bins(np.arange(255))).tolist() == list(range(255))


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_nothing_infinite_is_ever_encoded(bad: float, stats: NormStats) -> None:
    with pytest.raises(RefusedStep):
        bins_from_values(np.array([0.0, bad]))
    for convert in (stats.normalise, stats.unnormalise):
        with pytest.raises(RefusedStep, match="NaN"):
            convert(np.array([0, 0, 0, bad, 0, 0, 1]))


@pytest.mark.parametrize("bins", [[256], [-1], [0.5]])
def test_no_bin_outside_the_table_is_decoded(bins: list[float]) -> None:
    with pytest.raises(RefusedStep):
        values_from_bins(np.array(bins))


@given(arrays(np.float64, (8, 7), elements=st.floats(-1, 1)))
def test_normalisation_returns_what_it_was_given(values: np.ndarray) -> None:
    stats = NormStats(q01=(-0.05,) * 6 + (0,), q99=(0.07,) * 6 + (1,), mask=(True,) * 7)
    np.testing.assert_allclose(stats.normalise(stats.unnormalise(values)), values, atol=1e-6)


def test_the_gripper_is_never_normalised_and_a_constant_dimension_becomes_zero() -> None:
    stats = NormStats(q01=(0.2, 0.0), q99=(0.2, 0.5), mask=(True, True))
    assert stats.normalise(np.array([0.9, 0.25])).tolist() == [0.0, 0.25]
    assert stats.unnormalise(np.array([0.9, 0.25])).tolist() == pytest.approx([0.2, 0.25])


def test_statistics_of_actions_put_their_quantiles_at_the_ends() -> None:
    actions = np.random.default_rng(3).normal(0.1, 0.3, (5000, 7))
    stats = NormStats.from_actions(actions)
    inside = np.abs(stats.normalise(actions)[:, :6]) < 1
    np.testing.assert_allclose(inside.mean(0), 0.98, atol=0.002)
    assert NormStats.model_validate_json(stats.model_dump_json()) == stats


@pytest.mark.parametrize(
    "wrong",
    [
        {"q01": [0, 0], "q99": [1]},
        {"q01": [1.0], "q99": [0.0]},
        {"q01": [float("nan")], "q99": [1]},
        {"q01": [], "q99": []},
    ],
)
def test_broken_statistics_are_refused(wrong: dict[str, list[float]]) -> None:
    with pytest.raises(ValidationError):
        NormStats.model_validate(wrong)


def test_wrong_number_of_dimensions_is_refused(stats: NormStats) -> None:
    with pytest.raises(RefusedStep, match="7 dimensions"):
        stats.unnormalise(np.zeros((8, 6)))


@pytest.mark.parametrize(("dimensions", "grippers"), [(7, 1), (8, 1), (14, 2), (16, 2)])
def test_h8_no_gripper_is_normalised_with_one_arm_or_two(dimensions: int, grippers: int) -> None:
    stats = NormStats(q01=(-0.5,) * dimensions, q99=(0.5,) * dimensions, mask=(True,) * dimensions)
    values = np.linspace(-1, 1, dimensions)
    out = stats.unnormalise(values)
    np.testing.assert_array_equal(out[-grippers:], values[-grippers:])
    np.testing.assert_allclose(out[:-grippers], values[:-grippers] * 0.5, atol=1e-7)
