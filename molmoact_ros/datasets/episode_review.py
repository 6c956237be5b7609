"""The episode at hand: its record from the beginning to the operator's verdict, and the check in between."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Final

from molmoact_ros.bags.recording import TopicNames
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode_check import examine_bag
from molmoact_ros.datasets.episode_record import EpisodeRecord, SessionFolder

INTERRUPTED: Final = "the session was interrupted in this episode"
"""What ended an episode that has no record."""


class EpisodeReview:
    """Holds one record at a time; what cannot be written stays in memory, and the verdict is asked for again.

    Args:
        session: the folder of the episodes.
        names: topics of the bags.

    Example:
        review = EpisodeReview(session, TopicNames())
        review.begin_episode(0, 12.5)
        review.end_episode(20.0)
        review.start_check(0, recorder.stop)
        review.finish_check()  # None until the check is done, then what was found
        review.judge(Outcome.KEPT)  # "", or why that cannot be written
    """

    def __init__(self, session: SessionFolder, names: TopicNames) -> None:
        self._session, self._names = session, names
        self._pool = ThreadPoolExecutor(1, "check")
        self._checked: Future[EpisodeRecord] | None = None
        self.record: EpisodeRecord | None = None
        """Of the episode that goes on, or was the last one; None: there was none."""

    def close(self) -> None:
        """Wait for a check in progress."""
        self._pool.shutdown()

    def _draft(self, number: int, begin: float, ended_by: str = "") -> EpisodeRecord:
        name, task = self._session.folder.resolve().name, self._session.task
        return EpisodeRecord(session=name, number=number, task=task, begin=begin, end=0.0, ended_by=ended_by)

    def begin_episode(self, number: int, stamp: float) -> None:
        """An episode begins at `stamp`, s."""
        self.record = self._draft(number, stamp)

    def end_episode(self, stamp: float, fault: str = "") -> None:
        """It ends at `stamp`, s; fault: what ended it, one line; empty: the operator."""
        assert self.record is not None
        self.record.end, self.record.ended_by = stamp, fault

    def start_check(self, number: int, close_bag: Callable[[], None]) -> None:
        """Close the bag and check it, in another thread. An episode of before has its record, or was left behind."""
        bag = self._session.bag(number)
        draft = self.record or EpisodeRecord.read(bag) or self._draft(number, 0.0, INTERRUPTED)

        def check() -> EpisodeRecord:
            close_bag()
            return examine_bag(bag, self._names, draft.model_copy())

        self._checked = self._pool.submit(check)

    def finish_check(self) -> list[str] | None:
        """The problems that the check found, one line each, once it is done; None: it goes on."""
        if self._checked is None or not self._checked.done():
            return None
        found, self._checked = self._checked.result(), None
        found.notes = self.record.notes if self.record is not None else found.notes
        found.problems = [*([found.ended_by] if found.ended_by else []), *found.problems]
        self.record = found
        refusal = self._write()
        return [*found.problems, *([refusal] if refusal else [])]

    def note(self, text: str, write: bool) -> str:
        """Set the notes on the episode. Returns why they cannot be stored, in one line; empty: they are.

        write: its bag is closed.
        """
        if self.record is None:
            return "there is no episode yet that notes could belong to"
        self.record.notes = text
        return self._write() if write and self.record.outcome is not Outcome.DISCARDED else ""

    def judge(self, outcome: Outcome) -> str:
        """Store the operator's verdict. Returns why it cannot be stored, and nothing has changed; empty: it is."""
        assert self.record is not None
        before, self.record.outcome = self.record.outcome, outcome
        refusal = self._write()
        if not refusal and outcome is Outcome.DISCARDED:
            number = self.record.number
            refusal = why_not_written(lambda: self._session.discard(number))
        if refusal:
            self.record.outcome = before
        return refusal

    def _write(self) -> str:
        record = self.record
        assert record is not None
        return why_not_written(lambda: record.write(self._session.bag(record.number)))


def why_not_written(write: Callable[[], object]) -> str:
    """Write something; why that is impossible, in one line that says what to do; empty: it is written."""
    try:
        write()
    except OSError as error:
        return f"{error.filename} cannot be written: {error.strerror}; free some space, then decide again"
    return ""
