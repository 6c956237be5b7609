"""Records messages without ever blocking the caller, whatever the disk does.

Two resources can run short: time and space. If the disk is slow, images are dropped as soon as the queue is full. If it
is full, queued images are dropped, reserved disk space is released for all other messages, and images are recorded
again when there is space. Losses are counted and reported.
"""

from __future__ import annotations

import ctypes
import os
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Final

from molmoact_ros.bags.bag import BagMessage, BagWriter, Qos
from molmoact_ros.bags.bag_files import RESERVE
from molmoact_ros.bags.image_codec import PICTURES, Form, pack

PERIOD: Final = 0.25
"""s between chunks. A killed recorder loses at most this, plus the time to write a chunk."""
CLOSING: Final = 2.0
"""s to write queued images when the recording ends: the process that ends it kills the recorder after five."""
SYNC: Final = 1.0
"""s between flushes to the disk: the most that a power failure loses."""
RELEASE: Final = 5.0
"""s between returning freed memory, which takes some milliseconds: at 60 the process was 10 % larger now and then."""
MIB: Final = 1 << 20
PACKERS: Final = min(4, os.cpu_count() or 1)
"""Number of images that are compressed in parallel."""
TOO_FAST: Final = "messages come faster than they are packed and the disk takes them"
_M_TRIM_THRESHOLD: Final = -1  # of malloc.h
_M_MMAP_THRESHOLD: Final = -3
_M_ARENA_MAX: Final = -8


@dataclass(frozen=True)
class RecordingStats:
    """Statistics of a recording.

    messages, bytes: written to the bag. images, others: lost images, and lost other messages. problem: the last one,
    in one line; empty: none.
    """

    messages: int = 0
    bytes: int = 0
    pictures: int = 0
    others: int = 0
    problem: str = ""


def keep_memory() -> None:
    """Let this process keep the memory of a chunk for the next one, as far as its C library can be configured.

    By default, glibc returns such large blocks to the kernel and allocates them again, with a page fault per page. A
    recorder of incompressible images spends more than half of its time on that (mallopt(3); 32 MiB is its maximum).
    All threads share one heap: an image is allocated in one thread and freed in another, and each of several heaps
    would keep gaps. Call it before the first thread starts.
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(_M_TRIM_THRESHOLD, 128 * MIB)
        mallopt(_M_ARENA_MAX, 1)


def release_memory() -> None:
    """Return freed memory to the kernel, as far as the C library supports it (malloc_trim(3)).

    Otherwise a recorder whose disk was slow once would keep the memory of its longest queue for good.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class Recorder:
    """Accepts messages from any thread and writes them in its own; `close` ends the bag.

    Args:
        bag: the bag to write.
        folder: the folder of the bag, in which disk space is reserved.
        form: compression of images.
        quality: of JPEG, 1..100.
        waiting: limit of the image queue, and of the queue of other messages, bytes each.
        reserve: disk space reserved for messages other than images, bytes.
        tell: is called with one line about each loss when it begins.

    A recording:

        recorder = Recorder(BagWriter(folder), folder, form="png")
        recorder.put(message)  # never blocks
        stats = recorder.close()
    """

    def __init__(
        self, bag: BagWriter, folder: Path, form: Form = "raw", quality: int = 95, waiting: int = 128 * MIB,
        reserve: int = 16 * MIB, tell: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        """Start the thread. The class describes the arguments."""
        self._bag, self._form, self._quality, self._report = bag, form, quality, tell
        self._limit, self._reserve = waiting, _Reserve(folder / RESERVE, reserve)
        self._lock = threading.Condition()
        self._queues: dict[bool, deque[BagMessage]] = {True: deque(), False: deque()}  # images, others
        self._waiting = {True: 0, False: 0}  # bytes of images, of others
        self._held = 0  # bytes of others that could not be written yet
        self._tally, self._open, self._pictures_wanted = RecordingStats(), True, True
        self._ends = float("inf")  # when queued images are dropped, s
        self._offers: dict[str, tuple[str, Sequence[Qos]]] = {}
        self._pictures: set[str] = set()  # image topics in the bag
        self._reserve.take()
        self._packers = ThreadPoolExecutor(PACKERS, "packer")
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    @property
    def tally(self) -> RecordingStats:
        """Statistics of the recording so far."""
        with self._lock:
            return self._tally

    @property
    def room(self) -> int:
        """Bytes of images that may be put now without loss."""
        with self._lock:
            return self._limit - self._waiting[True]

    def offer(self, topic: str, type_name: str, qos: Sequence[Qos]) -> None:
        """Set the QoS profiles of a topic's publishers, before its messages."""
        with self._lock:
            self._offers[topic] = (type_name, qos)

    def put(self, message: BagMessage) -> None:
        """Queue a message. If the queue is full, the message is lost, and counted."""
        picture, size = message.type_name in PICTURES, len(message.data)
        with self._lock:
            if not self._open:
                return
            if picture and not self._pictures_wanted:
                self._count(pictures=1)
                return
            if self._waiting[picture] + size > self._limit - (0 if picture else self._held):
                self._lose(TOO_FAST, pictures=int(picture), others=int(not picture))
                return
            self._queues[picture].append(message)
            self._waiting[picture] += size
            if self._waiting[True] > self._limit // 16:
                self._lock.notify()

    def close(self) -> RecordingStats:
        """Write queued messages and end the bag; returns the statistics, which are also in the bag's metadata."""
        with self._lock:
            self._open, self._ends = False, time.monotonic() + CLOSING
            self._lock.notify()
        self._thread.join()
        return self._tally

    def _run(self) -> None:
        synced = released = time.monotonic()
        while self._open or any(self._queues.values()):
            if time.monotonic() > self._ends and (left := self._drop_waiting()):
                self._lose("the recording ended before they were written", pictures=left)
            with self._lock:
                self._lock.wait_for(lambda: not self._open or self._waiting[True] > self._limit // 16, PERIOD)
            # Other messages go first, and never wait for more than a PERIOD of images.
            self._write(False, float("inf"))
            self._write(True, time.monotonic() + PERIOD)
            due = time.monotonic() - synced > SYNC
            self._try(lambda sync=due: self._bag.flush(sync))  # type: ignore[misc]
            synced = time.monotonic() if due else synced
            with self._lock:
                self._tally = replace(self._tally, bytes=self._bag.size)
                self._held = self._bag.waiting_bytes
            if time.monotonic() - released > RELEASE:
                release_memory()
                released = time.monotonic()
            if not self._pictures_wanted and due and self._reserve.take():
                self._pictures_wanted = True
        self._finish()

    def _write(self, picture: bool, until: float) -> None:
        """Write queued images, or other messages, at most until the time `until`, s."""
        queue, at_once = self._queues[picture], PACKERS if picture and self._form != "raw" else 1
        while queue and time.monotonic() < until:
            with self._lock:
                batch = [queue.popleft() for _ in range(min(len(queue), at_once))]
                self._waiting[picture] -= sum(len(message.data) for message in batch)
            for packed in self._packed(batch):
                if picture and not self._pictures_wanted:  # since the previous one was written
                    self._count(pictures=1)
                    continue
                self._try(lambda take=packed: self._bag.write(self._registered(take())))  # type: ignore[misc]
                self._count(messages=1)

    def _packed(self, batch: list[BagMessage]) -> list[Callable[[], BagMessage]]:
        """For each message, a function that returns its compressed form, or raises the error of the compression."""
        work = partial(pack, types=self._bag.types, form=self._form, quality=self._quality)
        if len(batch) == 1:
            return [partial(work, batch[0])]
        return [self._packers.submit(work, message).result for message in batch]

    def _drop_waiting(self) -> int:
        """Drop queued images; returns their number."""
        with self._lock:
            left, self._waiting[True] = len(self._queues[True]), 0
            self._queues[True].clear()
        return left

    def _registered(self, out: BagMessage) -> BagMessage:
        """Register the topic of a message that is about to be written."""
        if out.type_name in PICTURES:
            self._pictures.add(out.topic)
        with self._lock:
            type_name, qos = self._offers.pop(out.topic, ("", ()))
        if type_name == out.type_name:
            self._bag.add_topic(out.topic, type_name, qos)
        return out

    def _try(self, work: Callable[[], None]) -> None:
        """Run a write; if the disk fails, free space and flush once more."""
        try:
            work()
        except OSError as error:
            self._make_room(error)
            with suppress(OSError):
                self._bag.flush()
        except Exception as error:  # one invalid message must not end the recording
            self._lose(f"a message cannot be recorded: {error}", messages=-1, others=1)

    def _make_room(self, error: OSError) -> None:
        first, self._pictures_wanted = self._pictures_wanted, False
        dropped = self._bag.forget(lambda topic: topic in self._pictures)
        self._reserve.give()
        lost = dropped + self._drop_waiting()
        self._lose(f"no more can be written: {error.strerror}", messages=-dropped, pictures=lost, say=first)

    def _finish(self) -> None:
        self._packers.shutdown()
        self._reserve.give()
        tally = {name: str(value) for name, value in asdict(self._tally).items() if name != "bytes"}
        self._bag.about |= {f"recorder.{name}": value for name, value in tally.items()}
        try:
            self._bag.close()
        except OSError as error:
            lost = self._bag.forget(lambda topic: True)
            self._lose(f"the bag's end could not be written ({error.strerror})", messages=-lost, others=lost)

    def _count(self, **more: int) -> None:
        with self._lock:
            now = asdict(self._tally)
            self._tally = replace(self._tally, **{name: now[name] + count for name, count in more.items()})

    def _lose(self, reason: str, say: bool = True, **lost: int) -> None:
        with self._lock:
            before = self._tally
            self._tally = replace(before, problem=reason)
            self._count(**lost)
        if say and reason != before.problem:
            what = "others than images" if lost.get("others") else "images"
            self._report(f"{reason}: {what} are being lost" if lost else reason)


class _Reserve:
    """A file that reserves disk space, which is released when the disk is full."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def take(self) -> bool:
        """Reserve the space; returns whether that succeeded."""
        if not self._size:
            return True
        try:
            file = os.open(self._path, os.O_CREAT | os.O_RDWR, 0o644)
            try:
                os.posix_fallocate(file, 0, self._size)
            finally:
                os.close(file)
        except OSError:
            self.give()
            return False
        return True

    def give(self) -> None:
        """Release the space."""
        self._path.unlink(missing_ok=True)
