"""Reading and writing of MCAP bags, compatible with `ros2 bag` and Foxglove, without a ROS installation."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, field, replace
from functools import partial
from itertools import pairwise
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import yaml
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.rosbag2 import ReaderError, storage_mcap

from molmoact_ros.bags.bag_files import (
    ABOUT,
    METADATA,
    Contents,
    PlainDumper,
    files_of,
    one_line,
    repair,
    write_metadata,
)
from molmoact_ros.bags.mcap_repair import MAX_CHUNK, too_large, unpack
from molmoact_ros.bags.mcap_writer import McapFile
from molmoact_ros.bags.message_types import Types

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
            self._keep_waiting(self._waiting[count:])

    def _keep_waiting(self, messages: list[tuple[int, int, bytes]]) -> None:
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
        held = [of for of in self._latched.values() if not _goes_on([message.stamp_ns for message in of], now)]
        messages = sorted((message for of in held for message in of), key=lambda message: message.stamp_ns)
        return [replace(message, stamp_ns=now) for message in messages]

    def forget(self, which: Callable[[str], bool]) -> int:
        """Drop the buffered messages of the topics that `which` selects; returns their number."""
        dropped = {number for topic, number in self._channels.items() if which(topic)}
        kept = [entry for entry in self._waiting if entry[0] not in dropped]
        count = len(self._waiting) - len(kept)
        self._keep_waiting(kept)
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


def _goes_on(stamps: list[int], now: int) -> bool:
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
    """Reads a rosbag2 bag, folder or file, MCAP or sqlite3, with the message definitions that it carries.

    Use it in a `with` block. A bag whose recorder was killed is repaired first. The files of a folder are read as one
    bag, with and without metadata.yaml. Raises FileNotFoundError if there is none and ValueError if it is not readable.

        with BagReader(Path("episode")) as bag:
            for message in bag.messages(["/joint_states"]):
                print(message.stamp_ns, bag.decode(message).position)
    """

    def __init__(self, bag: Path, interfaces: Collection[Path] | None = None) -> None:
        """interfaces: see `Types`; for bags without message definitions, such as those in sqlite3."""
        if not bag.exists():
            raise FileNotFoundError(f"{bag} does not exist; give the folder of a recorded bag")
        self.repaired = repair(bag)
        self._types = Types(interfaces)
        try:
            self._reader = AnyReader(_openable(bag), default_typestore=self._types.store)
            self._reader.open()
        except Exception as error:  # corrupt bytes can raise anything
            raise ValueError(f"{bag} is not a readable bag ({one_line(error)})") from None
        self._bag = bag
        self._own = {connection.topic: bool(connection.msgdef.data) for connection in self._reader.connections}

    def topics(self) -> dict[str, str]:
        """The type of each recorded topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def count(self, topic: str) -> int:
        """Number of messages of a topic."""
        return sum(connection.msgcount for connection in self._reader.connections if connection.topic == topic)

    @property
    def span_ns(self) -> tuple[int, int]:
        """Stamps of the first and the last message, ns."""
        return self._reader.start_time, max(self._reader.start_time, self._reader.end_time - 1)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """All messages, or those of `topics`, in time order. Raises ValueError for a topic that the bag lacks."""
        wanted = self.topics().keys() if topics is None else topics
        if missing := sorted(set(wanted) - self.topics().keys()):
            raise ValueError(f"the bag has no {', '.join(missing)}; it has {', '.join(sorted(self.topics()))}")
        connections = [connection for connection in self._reader.connections if connection.topic in wanted]
        if not connections:  # rosbags treats an empty filter as no filter
            return
        try:
            for connection, stamp_ns, data in self._reader.messages(connections):
                yield BagMessage(connection.topic, connection.msgtype, bytes(data), stamp_ns, (stamp_ns,))
        except (ReaderError, AnyReaderError) as error:
            raise ValueError(f"{self._bag} is damaged: {one_line(error)}") from None

    def decode(self, message: BagMessage) -> Any:
        """Deserialize a message to an object with its fields (numpy arrays for numeric arrays).

        Raises ValueError if its type is not defined, or if it is damaged.
        """
        if not self._own.get(message.topic) and not self._types.knows(message.type_name):
            raise ValueError(f"{message.type_name} on {message.topic} is not defined in the bag, nor anywhere here")
        try:
            return self._reader.deserialize(message.data, message.type_name)
        except Exception as error:  # corrupt bytes can raise anything
            raise ValueError(f"a message on {message.topic} is damaged: {error}") from None

    def close(self) -> None:
        """Close the bag's files."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def _openable(bag: Path) -> list[Path]:
    """Paths for rosbags to open: the files of a folder, which it merges by time, or the folder with its metadata."""
    files = files_of(bag, ".mcap", ".db3")
    if not bag.is_dir() or not files:
        return [bag]
    if not (bag / METADATA).exists():
        return files
    said = yaml.safe_load((bag / METADATA).read_text())["rosbag2_bagfile_information"]
    if said.get("compression_mode") or len(said["relative_file_paths"]) == 1:
        return [bag]
    return files  # as a folder, rosbags reads them one after the other, but their time spans may overlap


def _unpack_chunk(compression: str, data: bytes, size: int) -> bytes:
    """`unpack` for rosbags, which itself does not limit the uncompressed size of a chunk."""
    if size > MAX_CHUNK:
        raise ReaderError(too_large(size))
    try:
        return unpack(data, compression, size)
    except Exception as error:
        raise ReaderError(f"a chunk cannot be unpacked: {one_line(error)}") from None


storage_mcap.DECOMPRESSORS.update({name: partial(_unpack_chunk, name) for name in ("", "lz4", "zstd")})
