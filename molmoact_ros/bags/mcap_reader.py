"""Reads an MCAP file as far as it can be read: by its index where it has a good one, else from its beginning.

A file that is still being written, or whose writer was killed, has no index, and the index of a file may hold less than
its reader needs. Then all its records are looked at once. A damaged chunk is left out and counted. The file is never
written to.
"""

from __future__ import annotations

import os
from collections.abc import Collection, Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Final, NamedTuple

from mcap.data_stream import ReadDataStream
from mcap.opcode import Opcode
from mcap.reader import make_reader
from mcap.records import Channel, Chunk, Schema

from molmoact_ros.bags.mcap_repair import DAMAGED, HEAD, MESSAGE, note_record, records, unpack_chunk
from molmoact_ros.bags.mcap_writer import MAGIC, Index
from molmoact_ros.bags.storage import StoredMessage, StoredTopic, message_type

PIECE: Final = 1 << 20
"""Bytes of messages outside of chunks that are read at once."""


class FilePiece(NamedTuple):
    """A part of the file that is read at once: a chunk, or messages outside of chunks.

    begin, length: of its records in the file, bytes. span: stamps of its first and last message, ns. channels: of which
    it has messages; None: not known. messages: how many it has; None: not known.
    """

    begin: int
    length: int
    span: tuple[int, int]
    channels: frozenset[int] | None
    messages: int | None
    is_chunk: bool = True


class McapBagFile:
    """An open MCAP file; see `BagFile`. number: of the file in its bag."""

    def __init__(self, path: Path, number: int = 0) -> None:
        """Open a file. Raises ValueError, in one line, where it is no MCAP file or a chunk does not fit into memory."""
        self._number, self._name = number, path.name
        self._index, self._pieces = Index(), list[FilePiece]()
        self._damaged: dict[int, int | None] = {}  # messages of each damaged chunk, by where it begins
        self._unread = 0  # bytes at the end
        self._file = path.open("rb")
        try:
            self._size = self._file.seek(0, os.SEEK_END)
            if self._read(0, len(MAGIC)) != MAGIC:
                raise ValueError("it is empty" if not self._size else "it is not an MCAP file")
            if not self._read_index():
                self._index, self._pieces = Index(), []
                self._scan()
        except BaseException:
            self._file.close()
            raise
        spans = [piece.span for piece in self._pieces if piece.channels != frozenset()]
        self.span = (min(begin for begin, _ in spans), max(end for _, end in spans)) if spans else None
        self._topics = {number: self._topic(channel) for number, channel in self._index.channels.items()}
        self.topics = list(self._topics.values())

    @property
    def notes(self) -> list[str]:
        """What cannot be read, one line each."""
        out = []
        if self._unread:
            out.append(f"{self._name} was not closed, or is still being written: it is read as far as it is there")
        if self._damaged:
            counts = [count for count in self._damaged.values() if count is not None]
            what = f"{sum(counts)} messages" if len(counts) == len(self._damaged) else "their messages"
            out.append(f"{len(self._damaged)} chunks of {self._name} are damaged: {what} are left out")
        return out

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def parts(self, topics: Collection[str]) -> list[Iterator[StoredMessage]]:
        """See `BagFile.parts`."""
        wanted = {number for number, topic in self._topics.items() if topic.name in topics}
        return [
            self._messages(piece, wanted)
            for piece in self._pieces
            if (piece.channels is None or piece.channels & wanted) and piece.begin not in self._damaged
        ]

    def _messages(self, piece: FilePiece, wanted: set[int]) -> Iterator[StoredMessage]:
        yield StoredMessage(piece.span[0], (self._number, piece.begin, -1), None, b"")
        try:
            plain = self._plain(piece)
            found = [
                StoredMessage(stamp, (self._number, piece.begin, begin), self._topics[channel], plain[begin:end])
                for channel, stamp, begin, end in _messages_of(plain)
                if channel in wanted
            ]
        except DAMAGED:
            self._damaged[piece.begin] = piece.messages
            return
        yield from sorted(found, key=lambda message: message[:2])

    def _plain(self, piece: FilePiece) -> bytes:
        """The records of a piece. Raises one of DAMAGED."""
        data = self._read(piece.begin, piece.length)
        if not piece.is_chunk:
            return data
        if not data or data[0] != Opcode.CHUNK:
            raise RuntimeError("there is no chunk")
        return unpack_chunk(Chunk.read(ReadDataStream(BytesIO(data[HEAD:]))))

    def _topic(self, channel: Channel) -> StoredTopic:
        schema = self._index.schemas.get(channel.schema_id) or Schema(0, b"", "", "")
        return StoredTopic(
            channel.topic, message_type(schema.name), channel.message_encoding,
            schema.data.decode(errors="replace"), schema.encoding, self._index.counts[channel.id],
        )  # fmt: skip

    def _read(self, at: int, size: int) -> bytes:
        self._file.seek(at)
        return self._file.read(min(size, max(0, self._size - at)))

    def _read_index(self) -> bool:
        """Take the pieces from the file's own index; returns whether it has one that names all that it holds."""
        self._file.seek(0)
        try:
            summary = make_reader(self._file).get_summary()
        except Exception:  # a torn end can raise anything
            return False
        if summary is None or summary.statistics is None:
            return False
        of, chunks = summary.statistics, summary.chunk_indexes
        indexed = {number for chunk in chunks for number in chunk.message_index_offsets}
        whole = (
            of.chunk_count == len(chunks)
            and bool(chunks or not of.message_count)
            and sum(of.channel_message_counts.values()) == of.message_count
            and indexed | of.channel_message_counts.keys() <= summary.channels.keys()
            and all(c.schema_id == 0 or c.schema_id in summary.schemas for c in summary.channels.values())
            and all(chunk.chunk_start_offset + chunk.chunk_length <= self._size for chunk in chunks)
        )
        self._index.schemas, self._index.channels = summary.schemas, summary.channels
        self._index.counts.update(of.channel_message_counts)
        for chunk in chunks:
            known = bool(chunk.message_index_offsets)
            entries = chunk.message_index_length - 15 * len(chunk.message_index_offsets)
            self._pieces.append(
                FilePiece(
                    chunk.chunk_start_offset, chunk.chunk_length, (chunk.message_start_time, chunk.message_end_time),
                    frozenset(chunk.message_index_offsets) if known else None, entries // 16 if known else None,
                )
            )  # fmt: skip
        return whole

    def _scan(self) -> None:
        """Find the pieces by looking at every record, up to the end of the data or of what is there."""
        at = len(MAGIC)
        while at + HEAD <= self._size:
            head = self._read(at, HEAD)
            opcode, length = head[0], int.from_bytes(head[1:], "little")
            if opcode in (Opcode.DATA_END, Opcode.FOOTER):
                return
            if not opcode or at + HEAD + length > self._size:
                break
            if opcode == Opcode.MESSAGE:
                self._add_message(at, HEAD + length)
            elif opcode == Opcode.CHUNK:
                self._add_chunk(at, HEAD + length)
            elif opcode in (Opcode.SCHEMA, Opcode.CHANNEL):
                with suppress(*DAMAGED):
                    note_record(opcode, ReadDataStream(BytesIO(self._read(at + HEAD, length))), self._index)
            at += HEAD + length
        self._unread = max(1, self._size - at)

    def _add_chunk(self, at: int, length: int) -> None:
        try:
            data = self._read(at + HEAD, length - HEAD)
            plain = unpack_chunk(Chunk.read(ReadDataStream(BytesIO(data))), self._index)
            found = [(channel, stamp) for channel, stamp, *_ in _messages_of(plain)]
        except DAMAGED:
            self._damaged[at] = None
            return
        self._index.counts.update(channel for channel, _ in found)
        stamps = [stamp for _, stamp in found] or [0]
        channels = frozenset(channel for channel, _ in found)
        self._pieces.append(FilePiece(at, length, (min(stamps), max(stamps)), channels, len(found)))

    def _add_message(self, at: int, length: int) -> None:
        """A message outside of chunks: it belongs to the piece before, or begins one."""
        if length < HEAD + MESSAGE.size:
            return
        channel, _, stamp, _ = MESSAGE.unpack(self._read(at + HEAD, MESSAGE.size))
        self._index.counts[channel] += 1
        last = self._pieces[-1] if self._pieces else None
        if last is None or last.is_chunk or last.begin + last.length != at or last.length > PIECE:
            self._pieces.append(FilePiece(at, length, (stamp, stamp), frozenset([channel]), 1, is_chunk=False))
            return
        begin, end = last.span
        self._pieces[-1] = last._replace(
            length=last.length + length, span=(min(begin, stamp), max(end, stamp)),
            channels=(last.channels or frozenset()) | {channel}, messages=(last.messages or 0) + 1,
        )  # fmt: skip


def _messages_of(plain: bytes) -> Iterator[tuple[int, int, int, int]]:
    """Channel, stamp, and begin and end of the data of each message. Raises RuntimeError for torn records."""
    for opcode, begin, end in records(plain):
        if opcode == Opcode.MESSAGE:
            channel, _, stamp, _ = MESSAGE.unpack_from(plain, begin)
            yield channel, stamp, begin + MESSAGE.size, end
