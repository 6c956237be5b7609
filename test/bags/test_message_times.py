"""Stamps that cannot be believed are noticed, named and replaced or left out, and good ones are never touched."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmoact_ros.bags.message_times import CLOCK, StampedTopic, check_times

START = 1_700_000_000.0


def topic(stamps: np.ndarray | list[float], received: np.ndarray | list[float], name: str = "images on /a",
          offset: int = 0) -> StampedTopic:  # fmt: skip
    """Messages that were written in the order of `received`, ten places apart."""
    stamps, received = np.asarray(stamps, np.float64), np.asarray(received, np.float64)
    return StampedTopic(name, stamps, received, [(10 * k + offset,) for k in range(len(stamps))])


def ticks(n: int, period: float = 0.1, start: float = START) -> np.ndarray:
    return start + period * np.arange(n)


def left(times: np.ndarray) -> np.ndarray:
    return np.asarray(times[np.isfinite(times)])


@given(
    st.lists(st.floats(0.001, 5.0), min_size=1, max_size=40), st.floats(1.0, 2e9), st.floats(-1.0, 1.0),
    st.floats(0.3, 2.0),
)  # fmt: skip
def test_good_stamps_are_used_as_they_are(gaps: list[float], start: float, delay: float, speed: float) -> None:
    """Whatever their rate, pauses, delay and the speed of their clock."""
    stamps = start + np.cumsum(gaps)
    checked = check_times([topic(stamps, START + (stamps - start) / speed + delay)])
    assert checked.times[0].tolist() == stamps.tolist() and not checked.notes and checked.window == (None, None)


@given(
    st.lists(st.tuples(st.sampled_from([0.0, 5.0, 5.1, 5.2, 7.0, 1e9, START, START + 1]), st.floats(0, 1e6)),
             max_size=30),
    st.lists(st.tuples(st.floats(0, 2e9), st.floats(0, 2e9)), max_size=30),
)  # fmt: skip
def test_whatever_stamps_say_times_advance_and_nothing_is_lost_unsaid(
    first: list[tuple[float, float]], second: list[tuple[float, float]]
) -> None:
    topics = [
        topic([s for s, _ in of], [r for _, r in of], f"images on /{k}", k) for k, of in enumerate((first, second))
    ]
    try:
        checked = check_times(topics)
    except ValueError as refusal:
        assert "neither the stamps of images on /" in str(refusal) and "\n" not in str(refusal)
        return
    for of, times in zip(topics, checked.times, strict=True):
        assert len(times) == len(of.stamps)
        assert (np.diff(left(times)) > 0).all()
        if not np.array_equal(times, of.stamps):
            assert checked.notes and not any("\n" in note for note in checked.notes)
        covered = np.array([checked.covers(place) for place in of.places], bool)
        assert not np.isfinite(times[~covered]).any()
        assert covered.any() or not len(of.stamps) or checked.window != (None, None)


@given(st.integers(2, 50), st.floats(0.0, 0.5))
def test_stamps_of_zero_are_replaced_by_times_of_receipt(n: int, delay: float) -> None:
    received = ticks(n) + delay
    checked = check_times([topic(np.zeros(n), received)])
    assert checked.times[0].tolist() == received.tolist()
    assert checked.notes == ["images on /a are stamped 0: their times of receipt are used"]


def test_stamps_of_whole_seconds_are_replaced_too() -> None:
    received = ticks(40)
    checked = check_times([topic(np.floor(received), received)])
    assert checked.times[0].tolist() == received.tolist()
    assert "36 repeat the one before" in checked.notes[0] and "times of receipt are used" in checked.notes[0]


@given(st.integers(12, 60), st.data())
def test_one_bad_stamp_costs_one_message(n: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(1, n - 2))
    bad = data.draw(st.sampled_from([0.0, "repeats", START - 100.0, START + 1e6, 4e9, "late"]))
    stamps = ticks(n)
    stamps[at] = stamps[at - 1] - (bad == "late") * 0.15 if isinstance(bad, str) else bad
    checked = check_times([topic(stamps, ticks(n))])
    assert np.flatnonzero(np.isnan(checked.times[0])).tolist() == [at]
    assert len(checked.notes) == 1 and f"1 of {n} images on /a are left out" in checked.notes[0]


@given(st.integers(11, 40), st.integers(11, 40), st.floats(0.5, 50.0))
def test_of_a_loop_the_longer_pass_is_read(first: int, second: int, back: float) -> None:
    """By all topics alike, whether the times of receipt go on or are the loop's own."""
    seen = ticks(first + second)
    stamps = seen - np.where(np.arange(first + second) < first, 0.0, back + 0.1)
    for received in (seen, stamps + 0.01):
        images = topic(stamps, received)
        joints = topic(seen, seen, "joint states on /j", 1)  # of another clock, which went on
        checked = check_times([images, joints])
        kept = slice(0, first) if first >= second else slice(first, None)
        assert left(checked.times[0]).tolist() == stamps[kept].tolist()
        assert np.isfinite(checked.times[1]).sum() <= max(first, second)
        assert "go back by" in checked.notes[0] and f"after {first} of {first + second}" in checked.notes[0]
        assert f"{max(first, second)} of {first + second} images on /a" in checked.notes[0]


def test_a_clock_that_was_set_cuts_the_bag() -> None:
    """As of a computer that learns the time after its start."""
    stamps = np.concatenate([ticks(5, start=10.0), ticks(30)])
    for received in (stamps, ticks(35)):
        checked = check_times([topic(stamps, received)])
        assert left(checked.times[0]).tolist() == ticks(30).tolist() and "jump ahead by" in checked.notes[0]


@given(st.floats(-1e9, 1e9).filter(lambda by: abs(by) > CLOCK + 0.1))
def test_another_clock_is_translated_by_times_of_receipt(by: float) -> None:
    received = ticks(50)
    images, joints = topic(received, received + 0.05), topic(received + by, received + 0.06, "joint states on /j")
    checked = check_times([images, joints])
    assert checked.times[0].tolist() == received.tolist()
    assert np.abs(checked.times[1] - received).max() < 0.02
    (note,) = checked.notes
    assert "joint states on /j differ by" in note and "belong to another clock" in note
    assert checked.time_of(START) == START


def test_times_of_receipt_are_read_by_the_stamps_clock() -> None:
    """A simulation at a third of the speed, recorded by the machine's clock."""
    received = ticks(60)
    simulated = 5.0 + (received - START) / 3
    images, joints = topic(simulated, received), topic(np.zeros(60), received, "joint states on /j")
    checked = check_times([images, joints])
    assert np.allclose(checked.times[1], simulated)
    assert np.allclose(checked.time_of(received + 0.05), simulated + 0.05 / 3, atol=0.04)
    assert checked.time_of(received[-1] + 2) == pytest.approx(simulated[-1] + 2)


def test_neither_stamps_nor_times_of_receipt() -> None:
    with pytest.raises(ValueError, match="neither the stamps of images on /a nor their times of receipt advance"):
        check_times([topic(np.zeros(10), np.full(10, 3.0))])
    assert check_times([topic([], [])]).times[0].size == 0
    assert check_times([]).times == []
