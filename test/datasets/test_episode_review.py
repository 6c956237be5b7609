"""The episode at hand: its check, the operator's verdict, and a disk that is full when it is to be written."""

from __future__ import annotations

import errno
import time
from pathlib import Path

import pytest

from molmoact_ros.bags.recording import TopicNames
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode_record import EpisodeRecord, SessionFolder
from molmoact_ros.datasets.episode_review import EpisodeReview

from .test_episode_check import BEGIN, END, write


@pytest.fixture
def session(tmp_path: Path) -> SessionFolder:
    return SessionFolder(tmp_path / "s", "wave", 3)


def checked(review: EpisodeReview) -> list[str]:
    """Check episode 0, and wait for what is found."""
    review.start_check(0, lambda: None)
    while (problems := review.finish_check()) is None:
        time.sleep(0.01)
    return problems


def recorded(session: SessionFolder, fault: str = "") -> EpisodeReview:
    """An episode that was recorded and checked."""
    review = EpisodeReview(session, TopicNames())
    review.begin_episode(0, BEGIN)
    assert review.note("slow", write=False) == ""
    review.end_episode(END, fault)
    write(session.bag(0))
    checked(review)
    return review


def full_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(self: EpisodeRecord, bag: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", str(bag / "episode.json"))

    monkeypatch.setattr(EpisodeRecord, "write", full)


def test_a_verdict_is_written_and_what_is_discarded_is_moved_away(session: SessionFolder) -> None:
    review = recorded(session)
    assert review.judge(Outcome.KEPT) == ""
    stored = EpisodeRecord.read(session.bag(0))
    assert stored is not None and (stored.outcome, stored.notes, stored.task) == (Outcome.KEPT, "slow", "wave")
    assert review.note("rather slow", write=True) == ""
    stored = EpisodeRecord.read(session.bag(0))
    assert stored is not None and stored.notes == "rather slow", "also after the verdict"
    assert review.judge(Outcome.DISCARDED) == "" and not session.bag(0).exists() and session.discarded == 1


def test_a_fault_is_the_first_of_the_problems(session: SessionFolder) -> None:
    record = recorded(session, "camera side is silent").record
    assert record is not None and record.problems[0] == record.ended_by == "camera side is silent"
    again = EpisodeReview(session, TopicNames())  # the process was killed before the verdict
    assert checked(again)[0] == "camera side is silent" and again.record is not None
    assert (again.record.notes, again.record.begin, again.record.end) == ("slow", BEGIN, END)


def test_an_episode_without_a_record_was_interrupted(session: SessionFolder) -> None:
    write(session.bag(0))
    assert checked(EpisodeReview(session, TopicNames()))[0] == "the session was interrupted in this episode"


def test_a_full_disk_refuses_the_verdict_and_forgets_nothing(
    session: SessionFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        full_disk(patch)
        review = recorded(session)
        for outcome in (Outcome.KEPT, Outcome.DISCARDED):
            refusal = review.judge(outcome)
            assert "No space left" in refusal and "free some space" in refusal and len(refusal.splitlines()) == 1
        assert session.bag(0).is_dir() and review.record is not None
        assert review.record.outcome is Outcome.UNREVIEWED
    assert review.judge(Outcome.KEPT) == "", "there is room again"
    assert session.outcomes() == {0: Outcome.KEPT}


def test_notes_need_an_episode(session: SessionFolder) -> None:
    assert "no episode yet" in EpisodeReview(session, TopicNames()).note("hm", write=True)


def test_an_episode_needs_room_on_the_disk(session: SessionFolder, monkeypatch: pytest.MonkeyPatch) -> None:
    assert session.why_no_room() == ""
    usage = type("Usage", (), {"free": 100 << 20})
    monkeypatch.setattr("shutil.disk_usage", lambda folder: usage)
    assert session.why_no_room() == ""
    session.bag(0).mkdir()
    with (session.bag(0) / "episode_000.mcap").open("wb") as file:
        file.truncate(80 << 20)
    assert session.why_no_room() == (
        "100 MiB of the disk are free, and an episode needs 120; free some, then begin again"
    )  # fmt: skip
