"""MCAP bags that `ros2 bag` and Foxglove open, written and read without a ROS installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

import numpy as np
import yaml
from mcap.reader import make_reader
from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Nodetype
from rosbags.rosbag2 import ReaderError
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

from molmoact_ros.record.mcap_file import Index, McapFile, is_whole, mend

JAZZY_BAG_VERSION: Final = 9
"""Version of metadata.yaml that ROS 2 Jazzy writes."""
METADATA: Final = "metadata.yaml"
ABOUT: Final = ("molmoact_ros", "molmoact_ros.end")
"""Names of our own words in a bag: versions when it began, what was lost when it ended."""
RESERVE: Final = ".reserve"
"""File in a bag's folder that keeps room on the disk while it is recorded."""
CHUNK: Final = 1 << 20
"""Bytes of messages that make a chunk where nobody asks for one earlier; what mcap's tools use, too."""
Qos = dict[str, Any]
"""A quality of service that a publisher offers, as metadata.yaml has it."""


@dataclass(frozen=True)
class BagMessage:
    """One recorded message.

    topic: its topic. type_name: such as `sensor_msgs/msg/Image`. data: the message as CDR bytes. stamp_ns: when it was
    received, nanoseconds of ROS time.
    """

    topic: str
    type_name: str
    data: bytes
    stamp_ns: int


class Types:
    """Message types by name: those of ROS 2 Jazzy, and those that folders of interfaces define."""

    def __init__(self, interfaces: Collection[Path] | None = None) -> None:
        """interfaces: folders with `<package>/msg/<Type>.msg`; default: the workspace's and this Python's `share`."""
        self.store: Typestore = get_typestore(Stores.ROS2_JAZZY)
        self._interfaces = _share_folders() if interfaces is None else interfaces

    def knows(self, type_name: str) -> bool:
        """Whether somebody defines the type."""
        if type_name not in self.store.fielddefs:
            _define_package(self.store, type_name.partition("/")[0], self._interfaces)
        return type_name in self.store.fielddefs

    def __getitem__(self, type_name: str) -> Any:
        """The class of a type. ValueError: nobody defines it."""
        if not self.knows(type_name):
            raise ValueError(f"{type_name} is not defined anywhere; source the workspace that holds it")
        return self.store.types[type_name]

    def make(self, type_name: str, **fields: Any) -> Any:
        """A message of these fields, the others zero or empty. ValueError: nobody defines the type."""
        kind = self[type_name]
        zeros = {name: self._zero(node) for name, node in self.store.fielddefs[type_name][1] if name not in fields}
        return kind(**zeros, **fields)

    def _zero(self, node: Any) -> Any:
        kind, what = node
        if kind is Nodetype.NAME:
            return self.make(what)
        if kind is Nodetype.BASE:
            name = what[0]
            return "" if "string" in name else False if name == "bool" else 0.0 if "float" in name else 0
        (of, inner), count = what
        if of is Nodetype.BASE and "string" not in inner[0]:
            return np.zeros(count if kind is Nodetype.ARRAY else 0, np.dtype(inner[0].replace("octet", "uint8")))
        return [self._zero((of, inner)) for _ in range(count if kind is Nodetype.ARRAY else 0)]

    def encode(self, message: Any) -> bytes:
        """A message of one of these types as CDR bytes."""
        return bytes(self.store.serialize_cdr(message, message.__msgtype__))

    def decode(self, data: bytes, type_name: str) -> Any:
        """The message that these CDR bytes are."""
        return self.store.deserialize_cdr(data, type_name)


class _Plain(yaml.SafeDumper):
    """YAML without anchors: everything is written where it belongs."""

    def ignore_aliases(self, data: object) -> bool:
        return True


class BagWriter:
    """A rosbag2 folder with one MCAP file; use it in a `with` block, which leaves a whole bag on errors too.

    Messages wait until there are enough for a chunk, or until `flush`. Not for several threads at once.
    """

    def __init__(
        self, folder: Path, interfaces: Collection[Path] | None = None, about: Mapping[str, str] | None = None
    ) -> None:
        """folder: must not exist yet (FileExistsError). interfaces: see `Types`. about: words about the recording."""
        if folder.exists():
            raise FileExistsError(f"{folder} exists already; record into another folder or move it away")
        self.types, self.about = Types(interfaces), dict(about or {})
        self._folder, self._file_name = folder, f"{folder.name}.mcap"
        self._channels: dict[str, int] = {}
        self._type_names: dict[str, str] = {}
        self._waiting: list[tuple[int, int, bytes]] = []
        self.waiting_bytes, self._described = 0, 0
        folder.mkdir(parents=True)
        self._file = McapFile(folder / self._file_name)
        if self.about:
            self._file.add_metadata(ABOUT[0], self.about)
        self._write_metadata()

    def add_topic(self, topic: str, type_name: str, qos: Sequence[Qos] = ()) -> None:
        """Tell of a topic and what its publishers offer, before its first message; ValueError as by `write`."""
        known = self._type_names.get(topic)
        if known is not None and known != type_name:
            raise ValueError(f"{topic} carries {known}, not {type_name}; a topic has one type, rename one of them")
        if known is None:
            if not self.types.knows(type_name):
                raise ValueError(f"{type_name} on {topic} is not defined anywhere; source the workspace that holds it")
            definition, _ = self.types.store.generate_msgdef(type_name, ros_version=2)
            more = {
                "offered_qos_profiles": yaml.dump(list(qos), Dumper=_Plain) if qos else "",
                "topic_type_hash": self.types.store.hash_rihs01(type_name),
            }
            self._channels[topic] = self._file.add_channel(topic, type_name, definition, "ros2msg", more)
            self._type_names[topic] = type_name

    def write(self, message: BagMessage) -> None:
        """Add one message. ValueError: nobody defines its type, or its topic was recorded with another type before.

        OSError: the disk took no chunk; this and the other messages wait for the next `flush`, unless `forget` is told.
        """
        self.add_topic(message.topic, message.type_name)
        self._waiting.append((self._channels[message.topic], message.stamp_ns, message.data))
        self.waiting_bytes += len(message.data)
        if self.waiting_bytes > CHUNK:
            self.flush()

    def flush(self, sync: bool = False) -> None:
        """Put what waits into the file, and with `sync` onto the disk. OSError: it waits on, and the file is whole."""
        if self._waiting:
            self._file.append(self._waiting)
            self._waiting, self.waiting_bytes = [], 0
            if len(self._channels) > self._described:
                self._write_metadata()
        if sync:
            self._file.sync()

    def forget(self, which: Callable[[str], bool]) -> int:
        """Drop the waiting messages of topics of which this is true; how many."""
        dropped = {number for topic, number in self._channels.items() if which(topic)}
        kept = [entry for entry in self._waiting if entry[0] not in dropped]
        count = len(self._waiting) - len(kept)
        self._waiting, self.waiting_bytes = kept, sum(len(data) for _, _, data in kept)
        return count

    @property
    def size(self) -> int:
        """Bytes in the file."""
        return self._file.size

    def close(self) -> None:
        """Finish the bag. OSError: it lacks its end, and `repair` gives it one."""
        try:
            self.flush()
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
        _write_metadata(self._folder, self._file_name, self._file.index, self.about)


def _write_metadata(folder: Path, file_name: str, index: Index, about: Mapping[str, str]) -> None:
    """Replace metadata.yaml in one step: at every moment there is a whole one."""
    begin, end = index.span
    spans = {
        "starting_time": {"nanoseconds_since_epoch": begin},
        "duration": {"nanoseconds": end - begin},
        "message_count": index.counts.total(),
    }
    topics = [
        {
            "topic_metadata": {
                "name": channel.topic, "type": index.schemas[channel.schema_id].name, "serialization_format": "cdr",
                "offered_qos_profiles": yaml.safe_load(channel.metadata.get("offered_qos_profiles", "")) or [],
                "type_description_hash": channel.metadata.get("topic_type_hash", ""),
            },
            "message_count": index.counts[number],
        }
        for number, channel in index.channels.items()
    ]  # fmt: skip
    information = {
        "version": JAZZY_BAG_VERSION, "storage_identifier": "mcap", "relative_file_paths": [file_name], **spans,
        "topics_with_message_count": topics, "compression_format": "", "compression_mode": "",
        "files": [{"path": file_name, **spans}], "custom_data": dict(about) or None, "ros_distro": "jazzy",
    }  # fmt: skip
    new = folder / f"{METADATA}.new"
    new.write_text(yaml.dump({"rosbag2_bagfile_information": information}, Dumper=_Plain, sort_keys=False))
    new.replace(folder / METADATA)


def repair(bag: Path) -> bool:
    """Make a bag whole whose recorder was killed; whether there was anything to do.

    Raises ValueError, in one line, where it is still being written or cannot be mended.
    """
    files = sorted(bag.glob("*.mcap")) if bag.is_dir() else [bag]
    torn = [file for file in files if file.suffix == ".mcap" and not is_whole(file)]
    for file in torn:
        try:
            index = mend(file)
        except BlockingIOError:
            raise ValueError(f"{bag} is still being recorded; end the recorder first") from None
        except (ValueError, OSError) as error:
            raise ValueError(f"{file} cannot be mended: {error}") from None
        (file.parent / RESERVE).unlink(missing_ok=True)
        if bag.is_dir() and len(files) == 1:
            _write_metadata(bag, file.name, index, about(bag))
    return bool(torn)


def about(bag: Path) -> dict[str, str]:
    """The words about a bag that its recorder left in it, newest last; empty for a bag of others."""
    out: dict[str, str] = {}
    for file in sorted(bag.glob("*.mcap")) if bag.is_dir() else [bag]:
        if file.suffix == ".mcap":
            with file.open("rb") as stream:
                for record in make_reader(stream).iter_metadata():
                    out |= record.metadata if record.name in ABOUT else {}
    return out


def definition(type_name: str) -> str:
    """A message type with all that it is made of, as text (ros2msg). ValueError: nobody defines it."""
    types = get_typestore(Stores.ROS2_JAZZY)
    if type_name not in types.fielddefs:
        _define_package(types, type_name.partition("/")[0], _share_folders())
    if type_name not in types.fielddefs:
        raise ValueError(f"{type_name} is not defined anywhere; source the workspace that holds it")
    return types.generate_msgdef(type_name, ros_version=2)[0]


class BagReader:
    """A bag of rosbag2, folder or file, MCAP or sqlite3, read by the message definitions it carries.

    Use it in a `with` block. A bag whose recorder was killed is repaired first. Raises FileNotFoundError where there is
    none and ValueError where it cannot be read.
    """

    def __init__(self, bag: Path, interfaces: Collection[Path] | None = None) -> None:
        """interfaces: see `Types`; for bags that carry no definitions, as those in sqlite3."""
        if not bag.exists():
            raise FileNotFoundError(f"{bag} does not exist; give the folder of a recorded bag")
        self.repaired = repair(bag)
        self._types = Types(interfaces)
        try:
            self._reader = AnyReader([_openable(bag)], default_typestore=self._types.store)
            self._reader.open()
        except (AnyReaderError, ReaderError, FileNotFoundError) as error:
            raise ValueError(f"{bag} is not a readable bag ({error}); record it again") from None
        self._own = {connection.topic: bool(connection.msgdef.data) for connection in self._reader.connections}

    def topics(self) -> dict[str, str]:
        """The type of each recorded topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

    def count(self, topic: str) -> int:
        """How many messages a topic has."""
        return sum(connection.msgcount for connection in self._reader.connections if connection.topic == topic)

    @property
    def span_ns(self) -> tuple[int, int]:
        """Stamps of the first and the last message, ns."""
        return self._reader.start_time, max(self._reader.start_time, self._reader.end_time - 1)

    def messages(self, topics: Collection[str] | None = None) -> Iterator[BagMessage]:
        """All messages, or those of `topics`, by time. ValueError for a topic that the bag lacks."""
        wanted = self.topics().keys() if topics is None else topics
        if missing := sorted(set(wanted) - self.topics().keys()):
            raise ValueError(f"the bag has no {', '.join(missing)}; it has {', '.join(sorted(self.topics()))}")
        connections = [connection for connection in self._reader.connections if connection.topic in wanted]
        if connections:  # rosbags takes an empty filter for no filter
            for connection, stamp_ns, data in self._reader.messages(connections):
                yield BagMessage(connection.topic, connection.msgtype, bytes(data), stamp_ns)

    def decode(self, message: BagMessage) -> Any:
        """The message as an object with its fields (numpy arrays for numeric arrays). ValueError: it cannot be read."""
        if not self._own.get(message.topic) and not self._types.knows(message.type_name):
            raise ValueError(f"{message.type_name} on {message.topic} is not defined in the bag, nor anywhere here")
        try:
            return self._reader.deserialize(message.data, message.type_name)
        except Exception as error:  # whatever a decoder meets in broken bytes
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


def _openable(bag: Path) -> Path:
    """The folder, or the one file in it where it lacks metadata.yaml."""
    if bag.is_dir() and not (bag / METADATA).exists():
        files = [file for file in bag.iterdir() if file.suffix in (".mcap", ".db3")]
        if len(files) == 1:
            return files[0]
    return bag


def _share_folders() -> list[Path]:
    prefixes = [prefix for prefix in os.environ.get("AMENT_PREFIX_PATH", "").split(os.pathsep) if prefix]
    return [Path(prefix) / "share" for prefix in (*prefixes, sys.prefix)]


def _define_package(types: Typestore, package: str, interfaces: Collection[Path]) -> None:
    """Add all message types of `package` to `types`, from the first of the `interfaces` folders that holds it."""
    for folder in interfaces:
        files = sorted((folder / package / "msg").glob("*.msg"))
        if files:
            for file in files:
                types.register(get_types_from_msg(file.read_text(encoding="utf-8"), f"{package}/msg/{file.stem}"))
            return
