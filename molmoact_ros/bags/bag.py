"""Reading and writing of MCAP bags, compatible with `ros2 bag` and Foxglove, without a ROS installation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import ExitStack
from copy import deepcopy
from dataclasses import dataclass, field, replace
from heapq import merge
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import TracebackType
from typing import Any, Final, Self

import yaml

from molmoact_ros.bags.bag_files import (
    ABOUT,
    Contents,
    PlainDumper,
    one_line,
    repair_own,
    storage_files,
    write_metadata,
)
from molmoact_ros.bags.definitions import READABLE, Definitions
from molmoact_ros.bags.mcap_reader import McapBagFile
from molmoact_ros.bags.mcap_repair import MAX_CHUNK
from molmoact_ros.bags.mcap_writer import McapFile
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.other_files import ROS1, SQLITE, Ros1BagFile, SqliteBagFile, begins_with, unpack_file
from molmoact_ros.bags.storage import ZSTD, BagFile, StoredTopic, unpacked_message
from molmoact_ros.utils.git_lfs import unread_reason

CHUNK: Final = 1 << 20
"""Bytes of messages per chunk, unless `flush` ends it earlier; the default of mcap's tools, too."""
LATCHED: Final = 100
"""Messages of a latched topic that are repeated in the next file of a bag, the last ones: as many as tf2 keeps."""
FRESH_NS: Final = 1_000_000_000
"""ns: a latched topic whose last LATCHED messages came at most this far apart is periodic, and is not repeated."""
Qos = dict[str, Any]
"""A QoS profile that a publisher offers, in the form of metadata.yaml."""


@dataclass(frozen=True)
class BagMessage:
    """One recorded message.

    topic: its topic. type_name: its type, such as `sensor_msgs/msg/Image`. data: the serialized message, CDR.
    stamp_ns: time of reception, ROS time in ns. place: where a bag holds it; places increase in the order of writing.
    """

    topic: str
    type_name: str
    data: bytes
    stamp_ns: int
    place: tuple[int, ...] = field(default=(), compare=False)


class BagWriter:
    """Writes a rosbag2 folder with MCAP files. Use it in a `with` block, which leaves a complete bag even on errors.

    Messages are buffered until they fill a chunk, or until `flush`. Not thread-safe. The first file has the name of the
    folder, the others append `_1`, `_2` and so on. Each file can be read by itself: it holds all message definitions,
    and starts with the last messages of latched topics, stamped with the start of the file.

        with BagWriter(Path("episode")) as bag:
            message = bag.types.make("std_msgs/msg/String", data="pick up the red cube")
            bag.write(BagMessage("/task", "std_msgs/msg/String", bag.types.encode(message), stamp_ns=20_000_000_000))
    """

    def __init__(
        self, folder: Path, interfaces: Collection[Path] | None = None, about: Mapping[str, str] | None = None,
        max_bytes: int = 0, max_ns: int = 0,
    ) -> None:  # fmt: skip
        """Create the bag.

        Args:
            folder: must not exist yet. Raises FileExistsError if it does.
            interfaces: see `Types`.
            about: metadata of the recording.
            max_bytes: size at which a new file starts, bytes; 0: never.
            max_ns: duration at which a new file starts, ns; 0: never.
        """
        if folder.exists():
            raise FileExistsError(f"{folder} exists already; record into another folder or move it away")
        self.types, self.about = Types(interfaces), dict(about or {})
        self._folder, self._max_bytes, self._max_ns = folder, max_bytes, max_ns
        self._channels: dict[str, int] = {}
        self._topics: dict[str, tuple[str, dict[str, str]]] = {}  # type, and metadata of the channel
        self._latched: dict[str, deque[BagMessage]] = {}
        self._waiting: list[tuple[int, int, bytes]] = []
        self.waiting_bytes, self._described = 0, 0
        folder.mkdir(parents=True)
        self._before, self._before_bytes = Contents(), 0  # of the finished files
        self._file_name = f"{folder.name}.mcap"
        self._file = McapFile(folder / self._file_name)
        if self.about:
            self._file.add_metadata(ABOUT[0], self.about)
        self._write_metadata()

    def add_topic(self, topic: str, type_name: str, qos: Sequence[Qos] = ()) -> None:
        """Declare a topic and the QoS of its publishers before its first message. Raises ValueError like `write`."""
        known, _ = self._topics.get(topic, (None, {}))
        if known is not None and known != type_name:
            raise ValueError(f"{topic} carries {known}, not {type_name}; a topic has one type, rename one of them")
        if known is None:
            if not self.types.knows(type_name):
                raise ValueError(f"{type_name} on {topic} is not defined anywhere; source the workspace that holds it")
            more = {
                "offered_qos_profiles": yaml.dump(list(qos), Dumper=PlainDumper) if qos else "",
                "topic_type_hash": self.types.store.hash_rihs01(type_name),
            }
            self._topics[topic] = type_name, more
            self._add_channel(topic)
            if any(offer.get("durability") == "transient_local" for offer in qos):
                self._latched[topic] = deque(maxlen=LATCHED)

    def _add_channel(self, topic: str) -> None:
        type_name, more = self._topics[topic]
        definition, _ = self.types.store.generate_msgdef(type_name, ros_version=2)
        self._channels[topic] = self._file.add_channel(topic, type_name, definition, "ros2msg", more)

    def write(self, message: BagMessage) -> None:
        """Add one message.

        Raises ValueError if its type is not defined, or if its topic was recorded with another type before. Raises
        OSError if a chunk could not be written; the buffered messages wait for the next `flush`, or for `forget`.
        """
        self.add_topic(message.topic, message.type_name)
        self._put(message)
        if message.topic in self._latched:
            self._latched[message.topic].append(message)
        if self.waiting_bytes > CHUNK:
            self.flush()

    def _put(self, message: BagMessage) -> None:
        self._waiting.append((self._channels[message.topic], message.stamp_ns, message.data))
        self.waiting_bytes += len(message.data)

    def flush(self, sync: bool = False) -> None:
        """Write buffered messages to the file, and with `sync` to the disk.

        Raises OSError if that fails; the messages stay buffered, and the file stays complete.
        """
        self._append_waiting()
        if self._is_full():
            self._split()
            self._append_waiting()
        elif len(self._channels) > self._described:
            self._write_metadata()
        if sync:
            self._file.sync()

    def _append_waiting(self) -> None:
        while self._waiting:
            count = _fitting(self._waiting)
            self._file.append(self._waiting[:count])
            self._set_waiting(self._waiting[count:])

    def _set_waiting(self, messages: list[tuple[int, int, bytes]]) -> None:
        self._waiting, self.waiting_bytes = messages, sum(len(data) for _, _, data in messages)

    def _is_full(self) -> bool:
        begin, end = self._file.index.span
        return 0 < self._max_bytes <= self._file.size or 0 < self._max_ns <= end - begin

    def _split(self) -> None:
        """Continue in a new file.

        Raises OSError if it cannot be created, and the bag continues in the old one until the next flush; or if the end
        of the old one cannot be written, which `repair` then adds.
        """
        name = f"{self._folder.name}_{len(self._before.files) + 1}.mcap"
        new = McapFile(self._folder / name)
        old, index = self._file, self._file.index
        self._before.add_file(self._file_name, index)
        self._before_bytes += old.size
        self._file, self._file_name = new, name
        for topic in self._channels:
            self._add_channel(topic)
        for message in self._repeated(index.span[1]):
            self._put(message)
        try:
            old.close()
        finally:
            self._write_metadata()
            if self.about:
                new.add_metadata(ABOUT[0], self.about)

    def _repeated(self, now: int) -> list[BagMessage]:
        """The last messages of latched topics that are not periodic, stamped `now`, ns."""
        held = [of for of in self._latched.values() if not _is_periodic([message.stamp_ns for message in of], now)]
        messages = sorted((message for of in held for message in of), key=lambda message: message.stamp_ns)
        return [replace(message, stamp_ns=now) for message in messages]

    def forget(self, which: Callable[[str], bool]) -> int:
        """Drop the buffered messages of the topics that `which` selects; returns their number."""
        dropped = {number for topic, number in self._channels.items() if which(topic)}
        kept = [entry for entry in self._waiting if entry[0] not in dropped]
        count = len(self._waiting) - len(kept)
        self._set_waiting(kept)
        return count

    @property
    def size(self) -> int:
        """Bytes in the files."""
        return self._before_bytes + self._file.size

    def close(self) -> None:
        """Finish the bag. Raises OSError if its end cannot be written, which `repair` then adds."""
        try:
            self._append_waiting()
            if self.about:
                self._file.add_metadata(ABOUT[1], self.about)
            self._write_metadata()
        finally:
            self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_metadata(self) -> None:
        self._described = len(self._channels)
        contents = deepcopy(self._before)
        contents.add_file(self._file_name, self._file.index)
        write_metadata(self._folder, contents, self.about)


def _is_periodic(stamps: list[int], now: int) -> bool:
    """Whether a latched topic is periodic: LATCHED messages, and `now` after them, less than FRESH_NS apart each."""
    gaps = (after - before for before, after in pairwise([*stamps, now]))
    return len(stamps) == LATCHED and all(gap < FRESH_NS for gap in gaps)


def _fitting(messages: Sequence[tuple[int, int, bytes]]) -> int:
    """How many of the first messages fit into a chunk that any reader accepts; at least one."""
    size = 0
    for count, (_, _, data) in enumerate(messages):
        size += len(data)
        if count and size > MAX_CHUNK // 4:
            return count
    return len(messages)


class BagReader:
    """Reads a bag, folder or file: MCAP or sqlite3 of ROS 2, or ROS 1, with the message definitions that it carries.

    Use it in a `with` block. The files of a folder are read as one bag, with and without metadata.yaml. A bag whose
    recorder was killed is repaired first if the recorder was ours; the bags of others are never written to, and are
    read as far as they are there. `notes` has one line for whatever is not read.

        with BagReader(Path("episode")) as bag:
            for message in bag.messages(["/joint_states"]):
                print(message.stamp_ns, bag.decode(message).position)
    """

    def __init__(self, bag: Path, interfaces: Collection[Path] | None = None) -> None:
        """Open a bag. interfaces: see `Types`; for bags without message definitions, such as those in sqlite3.

        Raises FileNotFoundError if there is none and ValueError, in one line, if nothing of it is readable.
        """
        if not bag.exists():
            raise FileNotFoundError(f"{bag} does not exist; give the folder of a recorded bag")
        self._bag, self._stack = bag, ExitStack()
        try:
            self.repaired = repair_own(bag)
            paths, self._notes = storage_files(bag)
            self._files = self._open(paths)
        except OSError as error:
            self._stack.close()
            raise ValueError(f"{bag} is not a readable bag: {one_line(error)}") from None
        except BaseException:
            self._stack.close()
            raise
        stored = [topic for file in self._files for topic in file.topics]
        self._definitions = Definitions(stored, Types(interfaces))
        self._topics = [topic for topic in stored if topic.encoding in READABLE]
        self._note_unread([topic for topic in stored if topic.encoding not in READABLE])

    def _open(self, paths: Sequence[Path]) -> list[BagFile]:
        files: list[BagFile] = []
        lost: list[str] = []
        for number, path in enumerate(paths):
            try:
                files.append(self._open_file(path, number))
                self._stack.callback(files[-1].close)
            except Exception as error:  # corrupt bytes can raise anything
                lost.append(f"{path.name}: {unread_reason(path, error)}")
        if not files:
            raise ValueError(f"{self._bag} is not a readable bag ({'; '.join(lost)})")
        if lost:
            self._notes.append(f"{len(lost)} of {len(paths)} files cannot be read and are left out: {'; '.join(lost)}")
        return files

    def _open_file(self, path: Path, number: int) -> BagFile:
        if begins_with(path, ZSTD):
            path = unpack_file(path, self._scratch())
        if begins_with(path, ROS1):
            return Ros1BagFile(path, number)
        return SqliteBagFile(path, number, self._scratch) if begins_with(path, SQLITE) else McapBagFile(path, number)

    def _scratch(self) -> Path:
        """A new folder that is removed when the bag is closed."""
        return Path(self._stack.enter_context(TemporaryDirectory(prefix="molmoact-bag-")))

    def _note_unread(self, others: Sequence[StoredTopic]) -> None:
        if others:
            text = ", ".join(f"{of.name} ({of.count} messages, {of.encoding or 'no encoding'})" for of in others)
            self._notes.append(f"{len(others)} topics are in other encodings than cdr and are left out: {text}")
        if self._definitions.unreadable:
            text = ", ".join(f"{topic} ({why})" for topic, why in self._definitions.unreadable.items())
            self._notes.append(f"the definitions of {len(self._definitions.unreadable)} topics cannot be read: {text}")

    @property
    def notes(self) -> list[str]:
        """What is not read, one line each; reading messages may add some."""
        return [*self._notes, *(note for file in self._files for note in file.notes)]

    def topics(self) -> dict[str, str]:
        """The type of each recorded topic."""
        return {topic.name: topic.type_name for topic in reversed(self._topics)}

    def count(self, topic: str) -> int:
        """Number of messages of a topic."""
        return sum(of.count for of in self._topics if of.name == topic)

    @property
    def span_ns(self) -> tuple[int, int]:
        """Times of reception of the first and the last message, ns; zeros without any."""
        spans = [file.span for file in self._files if file.span is not None] or [(0, 0)]
        return min(begin for begin, _ in spans), max(end for _, end in spans)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """All messages, or those of `topics`, in time order. Raises ValueError for a topic that the bag lacks."""
        wanted = self.topics().keys() if topics is None else topics
        if missing := sorted(set(wanted) - self.topics().keys()):
            raise ValueError(f"the bag has no {', '.join(missing)}; it has {', '.join(sorted(self.topics()))}")
        parts = [part for file in self._files for part in file.parts(wanted)]
        try:
            for stamp_ns, place, topic, data in merge(*parts, key=lambda message: message[:2]):
                if topic is not None and topic.encoding in READABLE:
                    data = self._definitions.cdr(topic, unpacked_message(bytes(data)))
                    yield BagMessage(topic.name, topic.type_name, data, stamp_ns, place)
        except ValueError:
            raise
        except Exception as error:  # corrupt bytes can raise anything
            raise ValueError(f"{self._bag} is damaged: {one_line(error)}") from None

    def decode(self, message: BagMessage) -> Any:
        """Deserialize a message to an object with its fields (numpy arrays for numeric arrays).

        Raises ValueError if its type is not defined, or if it is damaged.
        """
        try:
            return self._definitions.decode(message.topic, message.type_name, message.data)
        except Exception as error:  # corrupt bytes can raise anything
            raise ValueError(f"a message on {message.topic} cannot be read: {one_line(error)}") from None

    def close(self) -> None:
        """Close the bag's files."""
        self._stack.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
