"""Writes one MCAP file chunk by chunk.

The `mcap` package's own writer buffers a chunk until it is full, and a failed write leaves half a record behind. Here
the caller decides when a chunk ends, and a chunk is written completely or not at all.
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
"""Level of zstd: lossless images at about 300 MB/s per core, where level 3 takes twice as long for 5 % less."""
PIECE: Final = 16 * 1024
"""Bytes per write through the page cache: many kernels do not preempt the copy of one write. Writes of 1 MiB made even
a real-time thread on the same core 3 ms late at its 99th percentile, these 0.4 ms."""
DIRECT: Final = 512 * 1024
"""Bytes per write with O_DIRECT, past the page cache, which does not occupy a core."""
BLOCK: Final = 4096
"""Alignment of such a write in bytes, in the file and in memory."""
Entries = dict[int, "array[int]"]
"""The messages of a chunk by channel, each as two values: stamp in ns, offset in the uncompressed chunk."""


@dataclass
class Index:
    """Index of an MCAP file, from which its end is written. Chunk records are kept serialized: 0.1 MB/min."""

    schemas: dict[int, Schema] = field(default_factory=dict)
    channels: dict[int, Channel] = field(default_factory=dict)
    metadata: list[MetadataIndex] = field(default_factory=list)
    counts: Counter[int] = field(default_factory=Counter)
    span: tuple[int, int] = (0, 0)
    """Stamps of the first and the last message, ns; zeros without any."""
    chunk_count: int = 0
    _chunks: bytearray = field(default_factory=bytearray)

    def add_chunk(self, chunk: ChunkIndex) -> None:
        """Add a chunk that is in the file, with its entries."""
        out = RecordBuilder()
        chunk.write(out)
        self._chunks += out.end()
        self.chunk_count += 1
        if chunk.message_index_offsets:
            begin, end = self.span if any(self.span) else (chunk.message_start_time, chunk.message_end_time)
            self.span = min(begin, chunk.message_start_time), max(end, chunk.message_end_time)

    def tail(self, at: int) -> bytes:
        """The end of the file: data end, summary and footer, starting `at` this byte."""
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
    """A new MCAP file with profile ros2. While it is open, no other process can open or repair it."""

    def __init__(self, path: Path) -> None:
        """Raises FileExistsError if the file exists, OSError if it cannot be created."""
        self._file = os.open(path, os.O_CREAT | os.O_EXCL | os.O_RDWR, 0o644)
        fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        self._direct: _Direct | None = None
        with suppress(OSError):  # a file system without O_DIRECT
            self._direct = _Direct(path)
        self.index, self.size = Index(), 0
        self._told: set[int] = set()  # channels whose records are in a chunk of the file
        try:
            self._append(MAGIC + _records([Header("ros2", f"molmoact_ros {version('molmoact_ros')}")]))
        except OSError:
            path.unlink(missing_ok=True)
            os.close(self._file)
            raise

    def add_channel(
        self, topic: str, type_name: str, definition: str, encoding: str, metadata: Mapping[str, str]
    ) -> int:
        """Add a channel; returns its number. definition: of the message type, in `encoding`."""
        schemas, channels = self.index.schemas, self.index.channels
        schema = next((s.id for s in schemas.values() if s.name == type_name), len(schemas) + 1)
        schemas[schema] = Schema(schema, definition.encode(), encoding, type_name)
        number = len(channels) + 1
        channels[number] = Channel(number, topic, "cdr", dict(metadata), schema)
        return number

    def add_metadata(self, name: str, values: Mapping[str, str]) -> None:
        """Add a metadata record. Raises OSError if it cannot be written; the file is then unchanged."""
        record, at = _records([Metadata(name, dict(values))]), self.size
        self._append(record)
        self.index.metadata.append(MetadataIndex(at, len(record), name))

    def append(self, messages: Sequence[tuple[int, int, bytes]]) -> None:
        """Add a chunk of messages (channel, stamp in ns, data). Raises OSError if it fails; the file is unchanged."""
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
        """Flush the file to the disk."""
        os.fdatasync(self._file)

    def close(self) -> None:
        """Write the end and close the file. Raises OSError if the end cannot be written; the file then needs repair."""
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
            with suppress(OSError):  # otherwise the repair cuts off the torn record
                os.ftruncate(self._file, self.size)
            raise
        self.size = at

    def _write(self, data: memoryview, at: int) -> int:
        """Write a first piece of `data` at offset `at`; returns its size in bytes. Whole blocks use O_DIRECT."""
        rest = -at % BLOCK
        if self._direct is not None and not rest and len(data) >= BLOCK:
            try:
                return self._direct.write(data, at)
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                self._direct.close()  # not supported here, or not for this size: use the page cache from now on
                self._direct = None
        piece = rest if self._direct is not None and rest else PIECE
        os.lseek(self._file, at, os.SEEK_SET)
        return os.write(self._file, data[:piece])


class _Direct:
    """Writes whole blocks with O_DIRECT from aligned memory."""

    def __init__(self, path: Path) -> None:
        """Raises OSError if the file system does not support O_DIRECT."""
        self._file = os.open(path, os.O_WRONLY | os.O_DIRECT)
        self._view = memoryview(mmap(-1, DIRECT))

    def write(self, data: memoryview, at: int) -> int:
        """Write the first whole blocks of `data`, at most DIRECT bytes, at an aligned offset; returns their size."""
        size = min(len(data) // BLOCK * BLOCK, DIRECT)
        self._view[:size] = data[:size]
        os.lseek(self._file, at, os.SEEK_SET)
        return os.write(self._file, self._view[:size])

    def close(self) -> None:
        """Close the file."""
        os.close(self._file)


def chunk_index(chunk: Chunk, at: int, length: int) -> ChunkIndex:
    """The index record of a chunk of `length` bytes at offset `at`; its message index is added later."""
    return ChunkIndex(
        chunk_length=length, chunk_start_offset=at, compression=chunk.compression, compressed_size=len(chunk.data),
        message_end_time=chunk.message_end_time, message_index_length=0, message_index_offsets={},
        message_start_time=chunk.message_start_time, uncompressed_size=chunk.uncompressed_size,
    )  # fmt: skip


def write_entries(out: RecordBuilder, index: ChunkIndex, entries: Entries) -> None:
    """Write the message index records of a chunk, which directly follow it, and add them to `index`."""
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
