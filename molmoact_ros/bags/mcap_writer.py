"""One MCAP file, appended to chunk by chunk, and mending what a killed writer left.

The `mcap` package's own writer keeps its chunk to itself until that is full, and a write that fails leaves half a
record behind. Here the caller says when a chunk is over, and a chunk is in the file as a whole or not at all.
"""

from __future__ import annotations

import errno
import fcntl
import os
import zlib
from array import array
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from importlib.metadata import version
from mmap import mmap
from pathlib import Path
from typing import Final

import numpy as np
import zstandard
from mcap.data_stream import RecordBuilder
from mcap.opcode import Opcode
from mcap.records import (
    Channel,
    Chunk,
    ChunkIndex,
    DataEnd,
    Footer,
    Header,
    McapRecord,
    Message,
    Metadata,
    MetadataIndex,
    Schema,
    Statistics,
    SummaryOffset,
)  # fmt: skip

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
Entries = dict[int, "array[int]"]
"""Of each channel, its messages in a chunk in turn: stamp in ns, and place in the uncompressed chunk."""


@dataclass
class Index:
    """What the end of an MCAP file says about the rest. Chunks are kept as they are written: 0.1 MB/min."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    metadata: list[MetadataIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    span: tuple[int, int] = (0, 0)
    """Stamps of the first and the last message, ns; zeros without any."""
    chunk_count: int = 0
    _chunks: bytearray = field(default_factory=bytearray)

    def add_chunk(self, chunk: ChunkIndex) -> None:
        """Note a chunk that is in the file, with its entries."""
        out = RecordBuilder()
        chunk.write(out)
        self._chunks += out.end()
        self.chunk_count += 1
        if chunk.message_index_offsets:
            begin, end = self.span if any(self.span) else (chunk.message_start_time, chunk.message_end_time)
            self.span = min(begin, chunk.message_start_time), max(end, chunk.message_end_time)

    def tail(self, at: int) -> bytes:
        """Everything behind the data, which end `at` this byte."""
        begin, end = self.span
        total = Statistics(
            attachment_count=0, channel_count=len(self.channels), channel_message_counts=dict(self.counts),
            chunk_count=self.chunk_count, message_count=self.counts.total(), metadata_count=len(self.metadata),
            message_start_time=begin, message_end_time=end, schema_count=len(self.schemas),
        )  # fmt: skip
        groups: list[tuple[Opcode, bytes]] = [
            (Opcode.SCHEMA, _records(self.schemas.values())), (Opcode.CHANNEL, _records(self.channels.values())),
            (Opcode.CHUNK_INDEX, bytes(self._chunks)), (Opcode.METADATA_INDEX, _records(self.metadata)),
            (Opcode.STATISTICS, _records([total])),
        ]  # fmt: skip
        head = _records([DataEnd(0)])
        summary = behind = at + len(head)
        offsets = []
        for opcode, records in groups:
            if records:
                offsets.append(SummaryOffset(opcode, behind, len(records)))
            behind += len(records)
        body = b"".join(records for _, records in groups) + _records(offsets)
        foot = _records([Footer(summary, behind, 0)])
        crc = zlib.crc32(foot[:-4], zlib.crc32(body))
        return head + body + _records([Footer(summary, behind, crc)]) + MAGIC


def _records(records: Iterable[McapRecord]) -> bytes:
    out = RecordBuilder()
    for record in records:
        record.write(out)
    result: bytes = out.end()
    return result


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
        try:
            self._append(MAGIC + _records([Header("ros2", f"molmoact_ros {version('molmoact_ros')}")]))
        except OSError:
            path.unlink(missing_ok=True)
            os.close(self._file)
            raise

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
        record, at = _records([Metadata(name, dict(values))]), self.size
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
        entries: Entries = {}
        for number, stamp, data in messages:
            of = entries.setdefault(number, array("Q"))
            of.extend((stamp, body.count))
            Message(number, stamp, data, stamp, self.index.counts[number] + len(of) // 2 - 1).write(body)
        plain = body.end()
        stamps = [stamp for _, stamp, _ in messages]
        chunk = Chunk(
            "zstd", zstandard.compress(plain, LEVEL), max(stamps), min(stamps), zlib.crc32(plain), len(plain)
        )  # fmt: skip
        out = RecordBuilder()
        chunk.write(out)
        length = out.count
        index = chunk_index(chunk, self.size, length)
        write_entries(out, index, entries)
        self._append(out.end())
        self._told |= new
        self.index.add_chunk(index)
        self.index.counts.update({number: len(of) // 2 for number, of in entries.items()})

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


def chunk_index(chunk: Chunk, at: int, length: int) -> ChunkIndex:
    """The record that leads to a chunk of `length` bytes that begins `at` this byte; its messages come later."""
    return ChunkIndex(
        chunk_length=length, chunk_start_offset=at, compression=chunk.compression, compressed_size=len(chunk.data),
        message_end_time=chunk.message_end_time, message_index_length=0, message_index_offsets={},
        message_start_time=chunk.message_start_time, uncompressed_size=chunk.uncompressed_size,
    )  # fmt: skip


def write_entries(out: RecordBuilder, index: ChunkIndex, entries: Entries) -> None:
    """The records that say where a chunk's messages are, directly behind it; `index` is told of them."""
    before = out.count
    behind = index.chunk_start_offset + index.chunk_length - before
    for number, of in entries.items():
        index.message_index_offsets[number] = behind + out.count
        out.start_record(Opcode.MESSAGE_INDEX)
        out.write2(number)
        out.write4(8 * len(of))
        out.write(np.frombuffer(of, np.uint64).astype("<u8").tobytes())
        out.finish_record()
    index.message_index_length = out.count - before
