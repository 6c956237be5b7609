"""The record of an episode, and the folder of a session that is resumed from its files alone."""

from __future__ import annotations

import errno
from pathlib import Path

import pytest

from molmoact_ros.datasets.collection import Collection, CollectionState, Outcome
from molmoact_ros.datasets.episode_record import RECORD, SESSION, EpisodeRecord, SessionFolder, session_bags

TASK = "put the cup in the sink"


def record(number: int = 0, outcome: Outcome = Outcome.KEPT) -> EpisodeRecord:
    return EpisodeRecord(
        session="s", number=number, task=TASK, outcome=outcome, notes="slipped", begin=10.25, end=20.5,
        interventions=[(12.0, 13.5)],
    )  # fmt: skip


def episode(session: SessionFolder, number: int, outcome: Outcome | None) -> Path:
    """A bag of an episode, with a record unless its outcome is None."""
    bag = session.bag(number)
    bag.mkdir()
    (bag / f"{bag.name}.mcap").write_bytes(b"bag")
    if outcome is not None:
        record(number, outcome).write(bag)
    return bag


def test_a_record_reads_back_as_it_was_written(tmp_path: Path) -> None:
    record().write(tmp_path)
    assert EpisodeRecord.read(tmp_path) == record()
    assert [file.name for file in tmp_path.iterdir()] == [RECORD], "nothing else is left"


def test_a_bag_of_others_has_no_record(tmp_path: Path) -> None:
    (tmp_path / "file.mcap").write_bytes(b"")
    assert EpisodeRecord.read(tmp_path) is None and EpisodeRecord.read(tmp_path / "file.mcap") is None


@pytest.mark.parametrize("text", ["", "{", "[]", '{"format": 2}', '{"task": 3}'])
def test_a_file_that_is_no_record_is_named_in_one_line(tmp_path: Path, text: str) -> None:
    (tmp_path / RECORD).write_text(text)
    with pytest.raises(ValueError, match=RECORD) as error:
        EpisodeRecord.read(tmp_path)
    assert len(str(error.value).splitlines()) == 1


def test_a_disk_that_is_full_leaves_the_record_of_before(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    record().write(tmp_path)

    def full(_: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        record(outcome=Outcome.FAILED).write(tmp_path)
    assert EpisodeRecord.read(tmp_path) == record()


def test_a_session_is_resumed_from_its_files(tmp_path: Path) -> None:
    session = SessionFolder(tmp_path / "s", TASK, 5)
    for number, outcome in enumerate((Outcome.KEPT, Outcome.FAILED, Outcome.KEPT, None)):
        episode(session, number, outcome)
    again = SessionFolder(tmp_path / "s", "", 0)
    assert (again.task, again.wanted) == (TASK, 5)
    assert again.outcomes() == {0: Outcome.KEPT, 1: Outcome.FAILED, 2: Outcome.KEPT, 3: Outcome.UNREVIEWED}
    collection = Collection(again.wanted, again.outcomes(), again.discarded)
    assert (collection.number, collection.state) == (3, CollectionState.CHECKING)
    assert [bag.name for bag in session_bags(again.folder)] == ["episode_000", "episode_001", "episode_002"]
    assert SessionFolder(tmp_path / "s", "another task", 9).task == "another task"


def test_what_is_discarded_stays_on_the_disk_and_its_number_is_free(tmp_path: Path) -> None:
    session = SessionFolder(tmp_path / "s", TASK, 5)
    for _ in range(2):
        episode(session, 0, Outcome.DISCARDED)
        there = session.discard(0)
        assert (there / "episode_000.mcap").read_bytes() == b"bag" and EpisodeRecord.read(there) is not None
    assert session.discarded == 2 and session.outcomes() == {} and session_bags(session.folder) == []


def test_a_folder_that_is_no_session_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.tex").write_text("x")
    with pytest.raises(ValueError, match="other things than a session"):
        SessionFolder(tmp_path, TASK, 5)
    with pytest.raises(ValueError, match="--episodes"):
        SessionFolder(tmp_path / "new", TASK, 0)
    for nothing in ("", " "):
        with pytest.raises(ValueError, match="--task"):
            SessionFolder(tmp_path / "new", nothing, 5)
    assert not (tmp_path / "new").exists()
    assert not (tmp_path / "new").exists()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / SESSION).write_text("{")
    with pytest.raises(ValueError, match="cannot be read"):
        SessionFolder(tmp_path / "torn", TASK, 5)
