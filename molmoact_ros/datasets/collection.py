"""What happens when demonstrations are collected: a state machine of events, without clocks, files or ROS."""

from __future__ import annotations

from collections.abc import Mapping
from enum import Enum
from typing import Final


class Outcome(Enum):
    """What the operator says of an episode. UNREVIEWED: nothing yet."""

    UNREVIEWED = "unreviewed"
    KEPT = "kept"
    FAILED = "failed"
    DISCARDED = "discarded"


class CollectionState(Enum):
    """WAITING: for the operator. HOMING: the arm moves to its start position, on request. PREPARING: the same before an
    episode. COUNTDOWN: the recorder starts. RECORDING. CHECKING: the bag is closed and checked. REVIEW: the operator
    decides.
    """

    WAITING = "waiting"
    HOMING = "homing"
    PREPARING = "preparing"
    COUNTDOWN = "countdown"
    RECORDING = "recording"
    CHECKING = "checking"
    REVIEW = "review"


class CollectionEvent(Enum):
    """The operator's: BEGIN, END, CANCEL, KEEP, FAIL, DISCARD, REDO, HOME. Of the machine: HOMED and NOT_HOME, COUNTED
    (the countdown is over and the recorder runs), BROKEN (recorder, camera or arm ended the episode), CHECKED.
    """

    BEGIN = "begin"
    END = "end"
    CANCEL = "cancel"
    KEEP = "keep"
    FAIL = "fail"
    DISCARD = "discard"
    REDO = "redo"
    HOME = "home"
    HOMED = "homed"
    NOT_HOME = "not home"
    COUNTED = "counted"
    BROKEN = "broken"
    CHECKED = "checked"


_S, _E = CollectionState, CollectionEvent
TRANSITIONS: Final = {
    (_S.WAITING, _E.BEGIN): _S.PREPARING,
    (_S.WAITING, _E.HOME): _S.HOMING,
    (_S.HOMING, _E.HOMED): _S.WAITING,
    (_S.HOMING, _E.NOT_HOME): _S.WAITING,
    (_S.HOMING, _E.CANCEL): _S.WAITING,
    (_S.PREPARING, _E.HOMED): _S.COUNTDOWN,
    (_S.PREPARING, _E.NOT_HOME): _S.WAITING,
    (_S.PREPARING, _E.CANCEL): _S.WAITING,
    (_S.COUNTDOWN, _E.COUNTED): _S.RECORDING,
    (_S.COUNTDOWN, _E.CANCEL): _S.WAITING,
    (_S.COUNTDOWN, _E.BROKEN): _S.WAITING,
    (_S.RECORDING, _E.END): _S.CHECKING,
    (_S.RECORDING, _E.BROKEN): _S.CHECKING,
    (_S.CHECKING, _E.CHECKED): _S.REVIEW,
    (_S.REVIEW, _E.KEEP): _S.WAITING,
    (_S.REVIEW, _E.FAIL): _S.WAITING,
    (_S.REVIEW, _E.DISCARD): _S.WAITING,
    (_S.REVIEW, _E.REDO): _S.PREPARING,
}
"""A pair that is not listed leaves the state unchanged."""
VERDICTS: Final[dict[CollectionEvent, Outcome]] = {
    _E.KEEP: Outcome.KEPT, _E.FAIL: Outcome.FAILED, _E.DISCARD: Outcome.DISCARDED, _E.REDO: Outcome.DISCARDED,
}  # fmt: skip
"""The outcome that each of the operator's decisions in REVIEW means."""
NEXT: Final = {_S.WAITING: _E.BEGIN, _S.RECORDING: _E.END, _S.REVIEW: _E.KEEP}
"""What a device with a single button means by it; it discards nothing."""
DUE: Final = {
    _S.WAITING: "begin the next episode", _S.HOMING: "the arm moves to its start position; cancel stops it",
    _S.PREPARING: "the arm moves to its start position; cancel stops it",
    _S.COUNTDOWN: "the episode begins soon; cancel stops that", _S.RECORDING: "end the episode when it is done",
    _S.CHECKING: "the episode is being checked; wait a moment", _S.REVIEW: "keep, fail, discard or redo the episode",
}  # fmt: skip
"""What is due in each state, one line."""


class Collection:
    """The state of a session in which `wanted` episodes are to be kept.

    Episodes are numbered from 0; a number is used again when its episode was discarded.

        collection = Collection(wanted=50)
        collection.on(CollectionEvent.BEGIN)  # True: the state is PREPARING
        collection.on(CollectionEvent.KEEP)  # False: `why_not` says what is due
    """

    def __init__(self, wanted: int, outcomes: Mapping[int, Outcome] | None = None, discarded: int = 0) -> None:
        """outcomes: of the episodes that a resumed session has; one that is UNREVIEWED is checked and reviewed first.

        discarded: how many episodes were discarded before.
        """
        self.wanted, self.discarded = wanted, discarded
        known = dict(outcomes or {})
        open_ = sorted(number for number, of in known.items() if of is Outcome.UNREVIEWED)
        self._outcomes: dict[int, Outcome] = {number: of for number, of in known.items() if number not in open_}
        self.state = CollectionState.CHECKING if open_ else CollectionState.WAITING
        self.number = open_[0] if open_ else self._free()

    def _free(self) -> int:
        return max(self._outcomes, default=-1) + 1

    def count(self, outcome: Outcome) -> int:
        """Number of episodes with this outcome."""
        return self.discarded if outcome is Outcome.DISCARDED else list(self._outcomes.values()).count(outcome)

    @property
    def is_complete(self) -> bool:
        """Whether as many episodes were kept as are wanted."""
        return self.count(Outcome.KEPT) >= self.wanted

    def why_not(self, event: CollectionEvent) -> str:
        """Why an event changes nothing now, in one line; empty: it does."""
        if event is CollectionEvent.BEGIN and self.state is CollectionState.WAITING and self.is_complete:
            return f"all {self.wanted} episodes are kept; ask for more with --episodes"
        if (self.state, event) in TRANSITIONS:
            return ""
        return f"{event.value!r} does nothing now: {DUE[self.state]}"

    def on(self, event: CollectionEvent) -> bool:
        """Process an event; whether the state changed."""
        if self.why_not(event):
            return False
        if self.state is CollectionState.REVIEW:
            self._decide(VERDICTS[event])
        self.state = TRANSITIONS[self.state, event]
        return True

    def _decide(self, verdict: Outcome) -> None:
        if verdict is Outcome.DISCARDED:
            self.discarded += 1
        else:
            self._outcomes[self.number] = verdict
        self.number = self._free()
