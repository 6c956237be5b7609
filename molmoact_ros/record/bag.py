"""MCAP bags that `ros2 bag` and Foxglove open, written and read without a ROS installation."""

from __future__ import annotations

import os
import sys
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, Self

from rosbags.highlevel import AnyReader, AnyReaderError
from rosbags.interfaces import Connection
from rosbags.rosbag2 import CompressionFormat, CompressionMode, StoragePlugin, Writer
from rosbags.typesys import Stores, get_types_from_msg, get_typestore
from rosbags.typesys.store import Typestore

JAZZY_BAG_VERSION: Final = 9
"""Version of metadata.yaml that ROS 2 Jazzy writes."""


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


class BagWriter:
    """A rosbag2 folder with one compressed MCAP file; use it in a `with` block, which leaves a whole bag on errors too.

    folder: must not exist yet (FileExistsError). interfaces: folders that hold `<package>/msg/<Type>.msg`, searched for
    types that ROS 2 Jazzy itself lacks; by default the `share` folders of the sourced workspace and of this Python.
    Not for several threads at once.
    """

    def __init__(self, folder: Path, interfaces: Collection[Path] | None = None) -> None:
        if folder.exists():
            raise FileExistsError(f"{folder} exists already; record into another folder or move it away")
        self._interfaces = _share_folders() if interfaces is None else interfaces
        self._types = get_typestore(Stores.ROS2_JAZZY)
        self._connections: dict[str, Connection] = {}
        self._writer = Writer(folder, version=JAZZY_BAG_VERSION, storage_plugin=StoragePlugin.MCAP)
        self._writer.set_compression(CompressionMode.STORAGE, CompressionFormat.ZSTD)
        self._writer.open()

    def write(self, message: BagMessage) -> None:
        """Add one message. ValueError: nobody defines its type, or its topic was recorded with another type before."""
        connection = self._connections.get(message.topic) or self._connect(message.topic, message.type_name)
        if connection.msgtype != message.type_name:
            known, other = connection.msgtype, message.type_name
            raise ValueError(f"{message.topic} carries {known}, not {other}; a topic has one type, rename one of them")
        self._writer.write(connection, message.stamp_ns, message.data)

    def close(self) -> None:
        """Finish the bag; it can be read from now on."""
        self._writer.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _connect(self, topic: str, type_name: str) -> Connection:
        if type_name not in self._types.fielddefs:
            _define_package(self._types, type_name.partition("/")[0], self._interfaces)
        if type_name not in self._types.fielddefs:
            raise ValueError(f"{type_name} on {topic} is not defined anywhere; source the workspace that holds it")
        self._connections[topic] = self._writer.add_connection(topic, type_name, typestore=self._types)
        return self._connections[topic]


def definition(type_name: str) -> str:
    """A message type with all that it is made of, as text (ros2msg). ValueError: nobody defines it."""
    types = get_typestore(Stores.ROS2_JAZZY)
    if type_name not in types.fielddefs:
        _define_package(types, type_name.partition("/")[0], _share_folders())
    if type_name not in types.fielddefs:
        raise ValueError(f"{type_name} is not defined anywhere; source the workspace that holds it")
    return types.generate_msgdef(type_name, ros_version=2)[0]


class BagReader:
    """A rosbag2 folder, read by the message definitions it carries; use it in a `with` block.

    Raises FileNotFoundError where there is none and ValueError where it cannot be read.
    """

    def __init__(self, folder: Path) -> None:
        if not folder.exists():
            raise FileNotFoundError(f"{folder} does not exist; give the folder of a recorded bag")
        try:
            self._reader = AnyReader([folder])
            self._reader.open()
        except (AnyReaderError, FileNotFoundError) as error:
            raise ValueError(f"{folder} is not a readable bag ({error}); record it again") from None

    def topics(self) -> dict[str, str]:
        """The type of each recorded topic."""
        return {connection.topic: connection.msgtype for connection in self._reader.connections}

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
        """The message as an object with its fields (numpy arrays for numeric arrays)."""
        return self._reader.deserialize(message.data, message.type_name)

    def close(self) -> None:
        """Close the bag's files."""
        self._reader.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


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
