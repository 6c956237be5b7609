"""Repairs an MCAP file that its writer did not close, and decompresses chunks without trusting the size they claim."""

from __future__ import annotations

import fcntl
import os
import struct
import zlib
from array import array
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from mmap import ACCESS_READ, mmap
from pathlib import Path
from typing import Final

import lz4.frame
import zstandard
from mcap.data_stream import ReadDataStream, RecordBuilder
from mcap.exceptions import McapError
from mcap.opcode import Opcode
from mcap.records import Channel, Chunk, ChunkIndex, Metadata, MetadataIndex, Schema

from molmoact_ros.bags.mcap_writer import MAGIC, Entries, Index, chunk_index, write_entries

MAX_CHUNK: Final = 256 << 20
"""Bytes of an uncompressed chunk at most: 64 times that of any known writer, and small enough for memory."""
HEAD: Final = 9
"""Bytes of a record's header: opcode and length."""
_FOOT: Final = HEAD + 20 + len(MAGIC)


def is_whole(path: Path) -> bool:
    """Whether the file ends like an MCAP file that was closed."""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        if size < len(MAGIC) + _FOOT:
            return False
        file.seek(-_FOOT, os.SEEK_END)
        foot = file.read()
    return foot[0] == Opcode.FOOTER and foot.endswith(MAGIC)


def is_ours(path: Path) -> bool:
    """Whether our recorder wrote a file, by its header."""
    with path.open("rb") as file:
        start = file.read(256)
    return start.startswith(MAGIC) and b"molmoact_ros " in start[len(MAGIC) + HEAD :]


def repair_file(path: Path) -> Index:
    """Repair a file that its writer did not close: truncate a torn record and write the end. Returns the index.

    Raises BlockingIOError while another process writes it, ValueError if it is no MCAP file.
    """
    with path.open("rb+") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if file.read(len(MAGIC)) != MAGIC:
            raise ValueError(f"{path} is not an MCAP file")
        with mmap(file.fileno(), 0, access=ACCESS_READ) as data:
            index, end, last, awaited = _scan(data)
        out = RecordBuilder()
        if last is not None:
            write_entries(out, last, awaited)
            index.add_chunk(last)
        lacked = out.end()
        file.truncate(end)
        file.seek(end)
        file.write(lacked + index.tail(end + len(lacked)))
        os.fsync(file.fileno())
    return index


def _scan(data: mmap) -> tuple[Index, int, ChunkIndex | None, Entries]:
    """The index of the complete records, where they end, and the last chunk with its entries if those are missing."""
    index, at = Index(), len(MAGIC)
    last, awaited = None, Entries()
    while at + HEAD <= len(data):
        opcode, length = data[at], int.from_bytes(data[at + 1 : at + HEAD], "little")
        if opcode in (Opcode.DATA_END, Opcode.FOOTER) or length > len(data) - at - HEAD:
            break
        stream = ReadDataStream(BytesIO(data[at + HEAD : at + HEAD + length]))
        if opcode == Opcode.CHUNK:
            try:
                chunk = Chunk.read(stream)
                entries = _entries(unpack_chunk(chunk, index))
            except DAMAGED:
                if _has_chunk(data, at + HEAD + length):
                    raise ValueError(
                        "a chunk in its middle is damaged; it is read without that one as it is, and `mcap recover` "
                        "writes it anew"
                    ) from None
                break
            if last is not None:
                index.add_chunk(last)
            last, awaited = chunk_index(chunk, at, HEAD + length), entries
            index.counts.update({number: len(of) // 2 for number, of in entries.items()})
        elif opcode == Opcode.MESSAGE_INDEX and last is not None:
            last.message_index_offsets[stream.read2()] = at
            last.message_index_length += HEAD + length
        elif opcode == Opcode.METADATA:
            index.metadata.append(MetadataIndex(at, HEAD + length, Metadata.read(stream).name))
        elif opcode == Opcode.MESSAGE:
            raise ValueError("it holds messages outside of chunks; repair it with `mcap recover`")
        else:
            note_record(opcode, stream, index)
        at += HEAD + length
    if last is None or set(last.message_index_offsets) != set(awaited):
        if last is not None:
            last.message_index_offsets.clear()
            last.message_index_length, at = 0, last.chunk_start_offset + last.chunk_length
        return index, at, last, awaited
    index.add_chunk(last)
    return index, at, None, {}


def _has_chunk(data: mmap, at: int) -> bool:
    """Whether there is a chunk behind `at` that can be unpacked."""
    while at + HEAD <= len(data):
        end = at + HEAD + int.from_bytes(data[at + 1 : at + HEAD], "little")
        if data[at] in (0, Opcode.DATA_END, Opcode.FOOTER) or end > len(data):
            return False
        if data[at] == Opcode.CHUNK:
            with suppress(*DAMAGED):
                unpack_chunk(Chunk.read(ReadDataStream(BytesIO(data[at + HEAD : end]))))
                return True
        at = end
    return False


def note_record(opcode: int, stream: ReadDataStream, index: Index) -> None:
    """Add a schema or a channel to `index`."""
    if opcode == Opcode.SCHEMA:
        schema = Schema.read(stream)
        index.schemas[schema.id] = schema
    elif opcode == Opcode.CHANNEL:
        channel = Channel.read(stream)
        index.channels[channel.id] = channel


MESSAGE: Final = struct.Struct("<HIQQ")
"""Begin of a message: channel, sequence number, stamp and time of publication in ns."""
DAMAGED: Final = (
    McapError, zstandard.ZstdError, RuntimeError, struct.error, OverflowError, MemoryError, UnicodeDecodeError,
)  # fmt: skip
"""Exceptions that a torn chunk raises."""


def unpack_chunk(chunk: Chunk, index: Index | None = None) -> bytes:
    """The records of a chunk; its schemas and channels are added to `index`.

    Raises ValueError if the uncompressed chunk exceeds MAX_CHUNK, and one of DAMAGED if the chunk is damaged.
    """
    if chunk.uncompressed_size > MAX_CHUNK:
        raise ValueError(too_large(chunk.uncompressed_size))
    plain = unpack(chunk.data, chunk.compression, chunk.uncompressed_size)
    expected = chunk.uncompressed_crc
    if len(plain) != chunk.uncompressed_size or (expected and zlib.crc32(plain) != expected):
        raise RuntimeError("its size or its checksum is another")
    if index is not None:
        for opcode, begin, end in records(plain):
            if opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                note_record(opcode, ReadDataStream(BytesIO(plain[begin:end])), index)
    return plain


def records(plain: bytes) -> Iterator[tuple[int, int, int]]:
    """Opcode of each record, and where its content begins and ends. Raises RuntimeError for one that is cut off."""
    at = 0
    while at < len(plain):
        begin = at + HEAD
        end = begin + int.from_bytes(plain[at + 1 : begin], "little")
        if end > len(plain):
            raise RuntimeError("a record is longer than what holds it")
        yield plain[at], begin, end
        at = end


def _entries(plain: bytes) -> Entries:
    """The message index of a chunk's records."""
    entries: Entries = {}
    for opcode, begin, _ in records(plain):
        if opcode == Opcode.MESSAGE:
            channel, _, stamp, _ = MESSAGE.unpack_from(plain, begin)
            entries.setdefault(channel, array("Q")).extend((stamp, begin - HEAD))
    return entries


def too_large(size: int) -> str:
    """Why a chunk that claims this size is refused."""
    return (
        f"a chunk of it would unpack to {size / (1 << 20):.0f} MiB, and {MAX_CHUNK >> 20} MiB is the most that is "
        "read; if you trust it, write it anew in smaller chunks with `mcap filter --chunk-size 4194304`"
    )


def unpack(data: bytes, compression: str, size: int) -> bytes:
    """Decompress a chunk to its content of `size` bytes; never allocates much more, whatever `data` are.

    Raises RuntimeError or zstandard.ZstdError if `data` do not decompress to that size.
    """
    if compression == "zstd":
        if zstandard.frame_content_size(data) > size:  # -1: unknown
            raise RuntimeError("it unpacks to more than it says")
        return zstandard.ZstdDecompressor().decompress(data, max_output_size=size)
    if compression == "lz4":
        return bytes(lz4.frame.LZ4FrameDecompressor().decompress(data, max_length=size + 1))
    if compression:
        raise RuntimeError(f"it is packed by {compression!r}")
    return data
