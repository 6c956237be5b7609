"""Files of a bag in other formats than MCAP: sqlite3, ROS 1, and files that rosbag2 compressed as a whole."""

from __future__ import annotations

import shutil
import sqlite3
from collections.abc import Callable, Collection, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any, Final

import zstandard
from rosbags.rosbag1 import Reader as Ros1Reader

from molmoact_ros.bags.storage import StoredMessage, StoredTopic, message_type

SQLITE: Final = b"SQLite format 3\0"
"""How a database of sqlite3 begins."""
ROS1: Final = b"#ROSBAG"
"""How a bag of ROS 1 begins."""
_SIDES: Final = ("-wal", "-journal")
"""Files beside a database that hold what is not in it yet."""


class SqliteBagFile:
    """An open .db3 file of rosbag2; see `BagFile`."""

    def __init__(self, path: Path, number: int, scratch: Callable[[], Path]) -> None:
        """Open a file.

        scratch: makes an empty folder. A database that its writer did not finish is copied there, since SQLite would
        write beside the original. Raises ValueError or sqlite3.Error where it is no bag.
        """
        self._number, self._name, self._broken = number, path.name, ""
        sides = [Path(f"{path}{side}") for side in _SIDES]
        self._unfinished = any(side.exists() and side.stat().st_size for side in sides)
        if self._unfinished:
            folder = scratch()
            for file in (path, *(side for side in sides if side.exists())):
                shutil.copy(file, folder)
            path = folder / path.name
        mode = "" if self._unfinished else "?immutable=1"
        self._base = sqlite3.connect(f"{path.resolve().as_uri()}{mode}", uri=True)
        try:
            self._ids = self._read_topics()
            first = self._base.execute("SELECT MIN(timestamp), MAX(timestamp) FROM messages").fetchone()
        except BaseException:
            self._base.close()
            raise
        self.topics = list(self._ids.values())
        self.span = None if first[0] is None else (int(first[0]), int(first[1]))

    @property
    def notes(self) -> list[str]:
        """What cannot be read, one line each."""
        unfinished = f"{self._name} was not closed, or is still being written: it is read as far as it is there"
        broken = f"{self._name} is damaged ({self._broken}): it is read up to there"
        return [note for note, true in ((unfinished, self._unfinished), (broken, self._broken)) if true]

    def close(self) -> None:
        """Close the file."""
        self._base.close()

    def _read_topics(self) -> dict[int, StoredTopic]:
        tables = {name for (name,) in self._base.execute("SELECT name FROM sqlite_master WHERE type = 'table'")}
        if not {"messages", "topics"} <= tables:
            raise ValueError("it is a database, but not one of rosbag2")
        definitions: dict[str, tuple[str, str]] = {}
        if "message_definitions" in tables:
            columns = "topic_type, encoded_message_definition, encoding"
            rows = self._base.execute(f"SELECT {columns} FROM message_definitions")
            definitions = {kind: (text, language) for kind, text, language in rows}
        counts = dict(self._base.execute("SELECT topic_id, COUNT(*) FROM messages GROUP BY topic_id").fetchall())
        return {
            number: StoredTopic(
                name, message_type(kind), encoding, *definitions.get(kind, ("", "")), counts.get(number, 0)
            )
            for number, name, kind, encoding in self._base.execute(
                "SELECT id, name, type, serialization_format FROM topics"
            )
        }

    def parts(self, topics: Collection[str]) -> list[Iterator[StoredMessage]]:
        """See `BagFile.parts`."""
        wanted = [number for number, topic in self._ids.items() if topic.name in topics]
        return [self._messages(wanted)] if wanted and self.span else []

    def _messages(self, wanted: list[int]) -> Iterator[StoredMessage]:
        marks = ",".join("?" * len(wanted))
        query = f"SELECT id, topic_id, timestamp, data FROM messages WHERE topic_id IN ({marks}) ORDER BY timestamp, id"
        try:
            with closing(self._base.execute(query, wanted)) as rows:
                for number, topic, stamp, data in rows:
                    yield StoredMessage(stamp, (self._number, number), self._ids[topic], data)
        except sqlite3.DatabaseError as error:
            self._broken = str(error)


class Ros1BagFile:
    """An open .bag file of ROS 1; see `BagFile`."""

    def __init__(self, path: Path, number: int) -> None:
        """Open a file. Raises rosbags' errors where it is no bag."""
        self._number = number
        self._reader = Ros1Reader(path)
        self._reader.open()
        self._topics = {connection.id: _ros1_topic(connection) for connection in self._reader.connections}
        self.topics = list(self._topics.values())
        empty = not self._reader.message_count
        self.span = None if empty else (self._reader.start_time, self._reader.end_time - 1)

    @property
    def notes(self) -> list[str]:
        """None: a file of ROS 1 is read as a whole or not at all."""
        return []

    def close(self) -> None:
        """Close the file."""
        self._reader.close()

    def parts(self, topics: Collection[str]) -> list[Iterator[StoredMessage]]:
        """See `BagFile.parts`."""
        wanted = [connection for connection in self._reader.connections if connection.topic in topics]
        return [self._messages(wanted)] if wanted and self.span else []

    def _messages(self, wanted: list[Any]) -> Iterator[StoredMessage]:
        for connection, stamp, data in self._reader.messages(wanted):
            place = (self._number, stamp, connection.id)
            yield StoredMessage(stamp, place, self._topics[connection.id], data)


def _ros1_topic(connection: Any) -> StoredTopic:
    return StoredTopic(
        connection.topic, connection.msgtype, "ros1", connection.msgdef.data, "ros1msg", connection.msgcount
    )


def begins_with(path: Path, start: bytes) -> bool:
    """Whether a file begins with these bytes."""
    with path.open("rb") as file:
        return file.read(len(start)) == start


def unpack_file(path: Path, scratch: Path) -> Path:
    """Decompress a file that was compressed as a whole; returns the copy. Raises zstandard.ZstdError or OSError."""
    out = scratch / path.stem
    with path.open("rb") as packed, out.open("wb") as plain:
        zstandard.ZstdDecompressor().copy_stream(packed, plain)
    return out
