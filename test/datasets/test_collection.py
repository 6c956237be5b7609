"""The state machine of a collection: whatever comes in whatever order, no episode is lost, doubled or begun unasked."""

from __future__ import annotations

from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.datasets.collection import (
    DUE,
    NEXT,
    TRANSITIONS,
    Collection,
    CollectionEvent,
    CollectionState,
    Outcome,
)

S, E = CollectionState, CollectionEvent
EPISODE = (E.BEGIN, E.HOMED, E.COUNTED, E.END, E.CHECKED)
VERDICTS = {E.KEEP: Outcome.KEPT, E.FAIL: Outcome.FAILED, E.DISCARD: Outcome.DISCARDED, E.REDO: Outcome.DISCARDED}
EVENTS = st.lists(st.sampled_from([*E, *EPISODE, *EPISODE, E.KEEP]), max_size=120)


def collected(collection: Collection, verdict: CollectionEvent) -> None:
    for event in (*EPISODE, verdict):
        assert collection.on(event), (event, collection.state)


@settings(max_examples=400, deadline=None)
@given(events=EVENTS, wanted=st.integers(1, 4))
def test_every_order_of_events_keeps_the_books(events: list[CollectionEvent], wanted: int) -> None:
    collection = Collection(wanted)
    verdicts: list[tuple[int, Outcome]] = []
    trail = [collection.state]
    for event in events:
        before, number = collection.state, collection.number
        why = collection.why_not(event)
        assert collection.on(event) is (why == ""), "what it says beforehand is what it does"
        after = collection.state
        if why:
            assert after is before and collection.number == number and len(why.splitlines()) == 1
            continue
        trail.append(after)
        if before is S.REVIEW:
            verdicts.append((number, VERDICTS[event]))
        else:
            assert collection.number == number, "a number changes with a verdict alone"
        if after in (S.HOMING, S.PREPARING):
            assert event in (E.BEGIN, E.HOME, E.REDO), "the arm is sent home by the operator alone"
        if after is S.RECORDING:
            assert not collection.is_complete or verdicts[-1][1] is Outcome.DISCARDED
    for state, then in pairwise(trail):
        assert then is not S.RECORDING or state is S.COUNTDOWN, "no episode without a countdown"
        assert then is not S.COUNTDOWN or state is S.PREPARING
        assert state is not S.RECORDING or then is S.CHECKING, "what was begun is checked and reviewed"
    begun = trail.count(S.RECORDING)
    assert len(verdicts) == begun - (collection.state in (S.RECORDING, S.CHECKING, S.REVIEW))
    stored = [(number, of) for number, of in verdicts if of is not Outcome.DISCARDED]
    assert [number for number, _ in stored] == list(range(len(stored))), "numbers follow each other, none twice"
    for outcome in (Outcome.KEPT, Outcome.FAILED, Outcome.DISCARDED):
        assert collection.count(outcome) == [of for _, of in verdicts].count(outcome)
    assert collection.count(Outcome.KEPT) <= wanted
    assert collection.is_complete is (collection.count(Outcome.KEPT) == wanted)


def test_an_episode_is_kept_failed_discarded_or_done_again() -> None:
    collection = Collection(2)
    for verdict in (E.FAIL, E.KEEP, E.DISCARD):
        collected(collection, verdict)
    assert collection.number == 2 and collection.state is S.WAITING, "what was discarded gives its number back"
    for event in (*EPISODE, E.REDO):
        assert collection.on(event)
    assert collection.state is S.PREPARING and collection.number == 2, "it begins again at once"
    for event in (*EPISODE[1:], E.KEEP):
        assert collection.on(event)
    assert [collection.count(of) for of in (Outcome.KEPT, Outcome.FAILED, Outcome.DISCARDED)] == [2, 1, 2]
    assert not collection.on(E.BEGIN) and "--episodes" in collection.why_not(E.BEGIN)


def test_a_session_goes_on_where_it_was() -> None:
    collection = Collection(3, {0: Outcome.KEPT, 1: Outcome.FAILED}, discarded=4)
    assert (collection.number, collection.state, collection.count(Outcome.DISCARDED)) == (2, S.WAITING, 4)
    torn = Collection(3, {0: Outcome.KEPT, 1: Outcome.UNREVIEWED})
    assert (torn.number, torn.state) == (1, S.CHECKING), "the episode that was cut off is reviewed first"
    assert torn.on(E.CHECKED) and torn.on(E.KEEP)
    assert (torn.number, torn.count(Outcome.KEPT)) == (2, 2)


def test_a_single_button_goes_through_an_episode_and_discards_nothing() -> None:
    assert set(NEXT.values()) == {E.BEGIN, E.END, E.KEEP}
    collection = Collection(1)
    for event in EPISODE:
        assert collection.on(NEXT.get(collection.state, event))
    assert collection.on(NEXT[collection.state]) and collection.is_complete


@pytest.mark.parametrize("state", S)
def test_each_state_says_what_is_due_and_can_be_left(state: CollectionState) -> None:
    assert len(DUE[state].splitlines()) == 1
    assert any(before is state for before, _ in TRANSITIONS)
