"""What the files of a bag have in common, whatever their format."""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator
from dataclasses import dataclass
from typing import Any, Final, NamedTuple, Protocol

import zstandard

MAX_MESSAGE: Final = 256 << 20
"""Bytes to which one compressed message may unpack."""
ZSTD: Final = b"\x28\xb5\x2f\xfd"
"""How a frame of zstd begins; no CDR message does."""


@dataclass(frozen=True)
class StoredTopic:
    """A topic of a file. encoding: of its messages, such as "cdr". definition: text of its type, in `language`."""

    name: str
    type_name: str
    encoding: str
    definition: str = ""
    language: str = ""
    count: int = 0


class StoredMessage(NamedTuple):
    """A message of a file; they compare by time, then by place. topic: None for a mark without a message."""

    stamp_ns: int
    place: tuple[int, ...]
    topic: StoredTopic | None
    data: Any


class BagFile(Protocol):
    """An open file of a bag.

    topics: what it holds. span: stamps of the first and the last message, ns; None: it has none.
    """

    topics: list[StoredTopic]
    span: tuple[int, int] | None

    @property
    def notes(self) -> list[str]:
        """What cannot be read, one line each; reading may add some."""

    def parts(self, topics: Collection[str]) -> list[Iterator[StoredMessage]]:
        """Messages of these topics in parts, each in time order, which begins with a mark at its first time."""

    def close(self) -> None:
        """Close the file."""


def message_type(name: str) -> str:
    """A type's name as ROS 2 spells it today, from `pkg/Type` and from DDS' `pkg::msg::dds_::Type_`."""
    if found := re.fullmatch(r"(\w+)::(\w+)::dds_::(\w+)_", name):
        return "/".join(found.groups())
    return re.sub(r"^(\w+)/(\w+)$", r"\1/msg/\2", name.replace("::", "/"))


def unpacked_message(data: bytes) -> bytes:
    """A message that rosbag2 may have compressed by itself. Raises ValueError for one that unpacks to too much."""
    if data[:4] != ZSTD:
        return data
    try:
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=MAX_MESSAGE, allow_extra_data=False)
    except zstandard.ZstdError as error:
        raise ValueError(f"a compressed message cannot be unpacked: {error}") from None
