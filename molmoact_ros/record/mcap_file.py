"""One MCAP file, appended to chunk by chunk, and mending what a killed writer left.

The `mcap` package's own writer keeps its chunk to itself until that is full, and a write that fails leaves half a
record behind. Here the caller says when a chunk is over, and a chunk is in the file as a whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

import zstandard
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    Message,
    MessageIndex,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)  # fmt: skip
from mcap.stream_reader import get_chunk_data_stream

MAGIC: Final = b"\x89MCAP0\r\n"
LEVEL: Final = 1
"""zstd's: pictures without loss at some 300 MB/s and core, where 3 takes twice as long for 5 % less."""
PIECE: Final = 16 * 1024
"""Bytes put into the kernel's cache at once: many kernels let nobody else onto the core while they copy one piece.
Pieces of 1 MiB made even a real-time thread on the same core 3 ms late at its 99th percentile, these 0.4 ms."""
DIRECT: Final = 512 * 1024
"""Bytes brought to the disk at once past that cache, for which the kernel keeps no core."""
BLOCK: Final = 4096
"""Bytes at whose multiples such a write has to begin and to end, in the file and in memory."""
_HEAD: Final = 9  # bytes of a record before its content: what it is, and how long
_FOOT: Final = _HEAD + 20 + len(MAGIC)


@dataclass
class Index:
    """What the end of an MCAP file says about the rest."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    chunks: list[ChunkIndex] = field(default_factory=list)
    metadata: list[MetadataIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)

    @property
    def span(self) -> tuple[int, int]:
        """Stamps of the first and the last message, ns; zeros without any."""
        starts, ends = (
            [c.message_start_time for c in self.chunks if c.message_index_offsets],
            [c.message_end_time for c in self.chunks if c.message_index_offsets],
        )
        return (min(starts), max(ends)) if starts else (0, 0)

    def tail(self, at: int) -> bytes:
        """Everything behind the data, which end `at` this byte."""
        begin, end = self.span
        total = Statistics(
            attachment_count=0, channel_count=len(self.channels), channel_message_counts=dict(self.counts),
            chunk_count=len(self.chunks), message_count=self.counts.total(), metadata_count=len(self.metadata),
            message_start_time=begin, message_end_time=end, schema_count=len(self.schemas),
        )  # fmt: skip
        out = RecordBuilder()
        DataEnd(0).write(out)
        summary = at + out.count
        groups: list[tuple[Opcode, Iterable[Schema | Channel | ChunkIndex | MetadataIndex | Statistics]]] = [
            (Opcode.SCHEMA, self.schemas.values()), (Opcode.CHANNEL, self.channels.values()),
            (Opcode.CHUNK_INDEX, self.chunks), (Opcode.METADATA_INDEX, self.metadata), (Opcode.STATISTICS, [total]),
        ]  # fmt: skip
        offsets = []
        for opcode, records in groups:
            start = at + out.count
            for record in records:
                record.write(out)
            if at + out.count > start:
                offsets.append(SummaryOffset(opcode, start, at + out.count - start))
        behind = at + out.count
        for offset in offsets:
            offset.write(out)
        body = out.end()
        foot = RecordBuilder()
        Footer(summary, behind, 0).write(foot)
        crc = zlib.crc32(foot.end()[:-4], zlib.crc32(body[summary - at :]))
        Footer(summary, behind, crc).write(foot)
        return body + foot.end() + MAGIC


class McapFile:
    """A new MCAP file of the profile ros2. While it is open no other process can open or mend it."""

    def __init__(self, path: Path) -> None:
        """FileExistsError where there is such a file, OSError where there can be none."""
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._direct: _Direct | None = None
        with suppress(OSError):  # a file system that knows no such thing
            self._direct = _Direct(path)
        self.index, self.size = Index(), 0
        self._told: set[int] = set()  # channels that a chunk in the file describes
        out = RecordBuilder()
        Header("ros2", f"molmoact_ros {version('molmoact_ros')}").write(out)
        self._append(MAGIC + out.end())

    def add_channel(
        self, topic: str, type_name: str, definition: str, encoding: str, metadata: Mapping[str, str]
    ) -> int:
        """The number by which a topic's messages are written. definition: of its type, in `encoding`."""
        schemas, channels = self.index.schemas, self.index.channels
        schema = next((s.id for s in schemas.values() if s.name == type_name), len(schemas) + 1)
        schemas[schema] = Schema(schema, definition.encode(), encoding, type_name)
        number = len(channels) + 1
        channels[number] = Channel(number, topic, "cdr", dict(metadata), schema)
        return number

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Words about the file. OSError: they are not in it, and the file is as before."""
        out = RecordBuilder()
        Metadata(name, dict(values)).write(out)
        record, at = out.end(), self.size
        self._append(record)
        self.index.metadata.append(MetadataIndex(at, len(record), name))

    def append(self, messages: Sequence[tuple[int, int, bytes]]) -> None:
        """A chunk of (channel, stamp in ns, data). OSError: none of it is in the file, which is as before."""
        new = {channel for channel, _, _ in messages} - self._told
        body, described = RecordBuilder(), {self.index.channels[number].schema_id for number in new}
        for schema in sorted(described):
            self.index.schemas[schema].write(body)
        for number in sorted(new):
            self.index.channels[number].write(body)
        entries: dict[int, list[tuple[int, int]]] = {}
        for number, stamp, data in messages:
            at = body.count
            of = entries.setdefault(number, [])
            Message(number, stamp, data, stamp, self.index.counts[number] + len(of)).write(body)
            of.append((stamp, at))
        plain = body.end()
        stamps = [stamp for _, stamp, _ in messages]
        chunk = Chunk(
            "zstd", zstandard.compress(plain, LEVEL), max(stamps), min(stamps), zlib.crc32(plain), len(plain)
        )  # fmt: skip
        out = RecordBuilder()
        chunk.write(out)
        length = out.count
        index = _chunk_index(chunk, self.size, length)
        _write_entries(out, index, entries)
        self._append(out.end())
        self._told |= new
        self.index.chunks.append(index)
        self.index.counts.update({number: len(of) for number, of in entries.items()})

    def sync(self) -> None:
        """Have it on the disk, not only on its way there."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Write what comes behind the data. OSError: it is not there, and the file is one to be mended."""
        try:
            self._append(self.index.tail(self.size))
        finally:
            if self._direct is not None:
                self._direct.close()
            os.close(self._file)

    def _append(self, data: bytes) -> None:
        left, at = memoryview(data), self.size
        try:
            while left:
                written = self._write(left, at)
                left, at = left[written:], at + written
        except OSError:
            with suppress(OSError):  # else the torn record is cut off when the file is mended
                os.ftruncate(self._file, self.size)
            raise
        self.size = at

    def _write(self, data: memoryview, at: int) -> int:
        """Write a first piece of what is to stand at `at`; how many bytes. Whole blocks go past the kernel's cache."""
        rest = -at % BLOCK
        if self._direct is not None and not rest and len(data) >= BLOCK:
            try:
                return self._direct.write(data, at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct.close()  # not here, or not of this size: through the cache from now on
                self._direct = None
        piece = rest if self._direct is not None and rest else PIECE
        os.lseek(self._file, at, os.SEEK_SET)
        return os.write(self._file, data[:piece])


class _Direct:
    """Writes whole blocks to the disk from memory that begins at one."""

    def __init__(self, path: Path) -> None:
        """OSError where the file system cannot."""
        self._file = os.open(path, os.O_WRONLY | os.O_DIRECT)
        self._view = memoryview(mmap(-1, DIRECT))

    def write(self, data: memoryview, at: int) -> int:
        """Write the first whole blocks of `data`, of DIRECT bytes at most, at a block's begin; how many bytes."""
        size = min(len(data) // BLOCK * BLOCK, DIRECT)
        self._view[:size] = data[:size]
        os.lseek(self._file, at, os.SEEK_SET)
        return os.write(self._file, self._view[:size])

    def close(self) -> None:
        """Write no more."""
        os.close(self._file)


def is_whole(path: Path) -> bool:
    """Whether the file ends as an MCAP file that was closed."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(MAGIC) + _FOOT:
            return False
        file.seek(-_FOOT, os.SEEK_END)
        foot = file.read()
    return foot[0] == Opcode.FOOTER and foot.endswith(MAGIC)


def mend(path: Path) -> Index:
    """Give a file that its writer did not close its end; what is torn there is cut off. Its index.

    Raises BlockingIOError while somebody writes it, ValueError where it is no MCAP file.
    """
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not an MCAP file")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            index, end, awaited = _scan(data)
        out = RecordBuilder()
        if awaited:
            _write_entries(out, index.chunks[-1], awaited)
        lacked = out.end()
        file.truncate(end)
        file.seek(end)
        file.write(lacked + index.tail(end + len(lacked)))
        os.fsync(file.fileno())
    return index


Entries = dict[int, list[tuple[int, int]]]
"""Of each channel, its messages in a chunk: stamp in ns, and place in the uncompressed chunk."""


def _scan(data: mmap) -> tuple[Index, int, Entries]:
    """The index of the whole records, where they end, and the last chunk's entries if those are missing behind it."""
    index, at = Index(), len(MAGIC)
    awaited: Entries = {}
    while at + _HEAD <= len(data):
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + _HEAD], "little")
        content = data[at + _HEAD : at + _HEAD + length]
        if len(content) < length or opcode in (Opcode.DATA_END, Opcode.FOOTER):
            break
        stream = ReadDataStream(BytesIO(content))
        if opcode == Opcode.CHUNK:
            chunk = Chunk.read(stream)
            try:
                awaited = _read_chunk(chunk, index)
            except (McapError, zstandard.ZstdError, RuntimeError):
                break
            index.chunks.append(_chunk_index(chunk, at, _HEAD + length))
            index.counts.update({number: len(of) for number, of in awaited.items()})
        elif opcode == Opcode.MESSAGE_INDEX and index.chunks:
            number, of = MessageIndex.read(stream).channel_id, index.chunks[-1]
            of.message_index_offsets[number] = at
            of.message_index_length += _HEAD + length
        elif opcode == Opcode.METADATA:
            index.metadata.append(MetadataIndex(at, _HEAD + length, Metadata.read(stream).name))
        elif _note(opcode, stream, length, index):
            raise ValueError("it holds messages outside of chunks; mend it with `mcap recover`")
        at += _HEAD + length
    if not index.chunks or set(index.chunks[-1].message_index_offsets) == set(awaited):
        return index, at, {}
    last = index.chunks[-1]
    last.message_index_offsets.clear()
    last.message_index_length = 0
    return index, last.chunk_start_offset + last.chunk_length, awaited


def _note(opcode: int, stream: ReadDataStream, length: int, index: Index) -> Message | None:
    """Take a schema or a channel into `index`; a message is given back."""
    if opcode == Opcode.SCHEMA:
        schema = Schema.read(stream)
        index.schemas[schema.id] = schema
    elif opcode == Opcode.CHANNEL:
        channel = Channel.read(stream)
        index.channels[channel.id] = channel
    elif opcode == Opcode.MESSAGE:
        return Message.read(stream, length)
    return None


def _read_chunk(chunk: Chunk, index: Index) -> Entries:
    """Where a chunk's messages are; its schemas and channels go into `index`. McapError, ZstdError: it is damaged."""
    stream, size = get_chunk_data_stream(chunk, validate_crc=True)
    plain = stream.read(size)
    entries: Entries = {}
    at = 0
    while at < size:
        length = int.from_bytes(plain[at + 1 : at + _HEAD], "little")
        record = ReadDataStream(BytesIO(plain[at + _HEAD : at + _HEAD + length]))
        if message := _note(plain[at], record, length, index):
            entries.setdefault(message.channel_id, []).append((message.log_time, at))
        at += _HEAD + length
    return entries


def _chunk_index(chunk: Chunk, at: int, length: int) -> ChunkIndex:
    return ChunkIndex(
        chunk_length=length, chunk_start_offset=at, compression=chunk.compression, compressed_size=len(chunk.data),
        message_end_time=chunk.message_end_time, message_index_length=0, message_index_offsets={},
        message_start_time=chunk.message_start_time, uncompressed_size=chunk.uncompressed_size,
    )  # fmt: skip


def _write_entries(out: RecordBuilder, index: ChunkIndex, entries: Entries) -> None:
    """The records that say where a chunk's messages are, directly behind it; `index` is told of them."""
    before = out.count
    behind = index.chunk_start_offset + index.chunk_length - before
    for number, of in entries.items():
        index.message_index_offsets[number] = behind + out.count
        MessageIndex(number, of).write(out)
    index.message_index_length = out.count - before
