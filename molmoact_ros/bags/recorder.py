"""Records messages without ever keeping whoever brings them waiting, whatever the disk does.

Two things may be short: time and space. Where the disk is slow, pictures are left out as soon as those that wait are
too many. Where it is full, the pictures that wait are dropped, a piece of the disk that was set aside is given to the
rest, and pictures come back when there is room for them again. What was lost is counted and said.
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
"""s between chunks: the most that a killed recorder loses, with the time that a chunk takes to be written."""
CLOSING: Final = 2.0
"""s that pictures which still wait have when the recording ends: whoever ended it kills the recorder after five."""
SYNC: Final = 1.0
"""s between having all of it on the disk: the most that a power cut takes."""
RELEASE: Final = 5.0
"""s between giving freed memory back, which takes some milliseconds: at 60 the process was 10 % larger now and then."""
MIB: Final = 1 << 20
PACKERS: Final = min(4, os.cpu_count() or 1)
"""Pictures that are packed at once."""
TOO_FAST: Final = "messages come faster than they are packed and the disk takes them"
_M_TRIM_THRESHOLD: Final = -1  # of malloc.h
_M_MMAP_THRESHOLD: Final = -3


@dataclass(frozen=True)
class RecordingStats:
    """How a recording goes. messages, bytes: in the file; pictures, others: lost; problem: one line, empty: none."""

    messages: int = 0
    bytes: int = 0
    pictures: int = 0
    others: int = 0
    problem: str = ""


def keep_memory() -> None:
    """Let this process keep the memory of a chunk for the next one, as far as its C library can be told so.

    Left alone, glibc gives such large pieces back to the kernel and asks for them again, empty pages one by one, and a
    recorder of incompressible pictures spends more than half of its time so (mallopt(3); 32 MiB is the most it takes).
    """
    with suppress(AttributeError):  # another C library
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, 32 * MIB)
        mallopt(_M_TRIM_THRESHOLD, 128 * MIB)


def release_memory() -> None:
    """Give the kernel back what this process holds of freed memory, as far as its C library can (malloc_trim(3)).

    Else a recorder for which the disk was once slow would hold what waited then for good.
    """
    with suppress(AttributeError):  # another C library
        ctypes.CDLL(None).malloc_trim(0)


class Recorder:
    """Takes messages from any thread and writes them in its own; `close` ends the bag."""

    def __init__(
        self, bag: BagWriter, folder: Path, form: Form = "raw", quality: int = 95, waiting: int = 128 * MIB,
        reserve: int = 16 * MIB, tell: Callable[[str], None] = lambda line: None,
    ) -> None:  # fmt: skip
        """folder: the bag's. form, quality: of pictures. waiting: bytes of pictures, and as many of others, that may.

        reserve: bytes of the disk kept for what is no picture. tell: hears in one line of each loss, when it begins.
        """
        self._bag, self._form, self._quality, self._tell = bag, form, quality, tell
        self._limit, self._reserve = waiting, _Reserve(folder / RESERVE, reserve)
        self._lock = threading.Condition()
        self._queues: dict[bool, deque[BagMessage]] = {True: deque(), False: deque()}  # pictures, and others
        self._waiting = {True: 0, False: 0}  # bytes of pictures, and of others
        self._held = 0  # bytes of others that no disk takes as yet
        self._tally, self._open, self._pictures_wanted = RecordingStats(), True, True
        self._ends = float("inf")  # when pictures that wait are given up, s
        self._offers: dict[str, tuple[str, Sequence[Qos]]] = {}
        self._pictures: set[str] = set()  # topics of them in the bag
        self._reserve.take()
        self._packers = ThreadPoolExecutor(PACKERS, "packer")
        self._thread = threading.Thread(target=self._run, name="recorder")
        self._thread.start()

    @property
    def tally(self) -> RecordingStats:
        """How it goes."""
        with self._lock:
            return self._tally

    @property
    def room(self) -> int:
        """Bytes of pictures that may be put now without any being lost."""
        with self._lock:
            return self._limit - self._waiting[True]

    def offer(self, topic: str, type_name: str, qos: Sequence[Qos]) -> None:
        """Tell, before a topic's messages, what its publishers' quality of service is."""
        with self._lock:
            self._offers[topic] = (type_name, qos)

    def put(self, message: BagMessage) -> None:
        """Take a message. One that finds no room is lost, and counted."""
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
        """Write what waits and end the bag; how it went, which is also in the bag's last words."""
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
            # What is no picture goes first, and is never behind more than a PERIOD of pictures.
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
        """Write the pictures that wait, or the others, as far as there is time `until` then, s."""
        queue, at_once = self._queues[picture], PACKERS if picture and self._form != "raw" else 1
        while queue and time.monotonic() < until:
            with self._lock:
                batch = [queue.popleft() for _ in range(min(len(queue), at_once))]
                self._waiting[picture] -= sum(len(message.data) for message in batch)
            for packed in self._packed(batch):
                if picture and not self._pictures_wanted:  # since the one before was written
                    self._count(pictures=1)
                    continue
                self._try(lambda take=packed: self._bag.write(self._noted(take())))  # type: ignore[misc]
                self._count(messages=1)

    def _packed(self, batch: list[BagMessage]) -> list[Callable[[], BagMessage]]:
        """What gives each of them as the bag is to have it, or raises what went wrong with it."""
        work = partial(pack, types=self._bag.types, form=self._form, quality=self._quality)
        if len(batch) == 1:
            return [partial(work, batch[0])]
        return [self._packers.submit(work, message).result for message in batch]

    def _drop_waiting(self) -> int:
        """Leave out the pictures that wait; how many."""
        with self._lock:
            left, self._waiting[True] = len(self._queues[True]), 0
            self._queues[True].clear()
        return left

    def _noted(self, out: BagMessage) -> BagMessage:
        """A message that is about to be written, once it is known what its topic holds."""
        if out.type_name in PICTURES:
            self._pictures.add(out.topic)
        with self._lock:
            type_name, qos = self._offers.pop(out.topic, ("", ()))
        if type_name == out.type_name:
            self._bag.add_topic(out.topic, type_name, qos)
        return out

    def _try(self, work: Callable[[], None]) -> None:
        """Let the disk do something; where it does not, room is made and it is asked once more."""
        try:
            work()
        except OSError as error:
            self._make_room(error)
            with suppress(OSError):
                self._bag.flush()
        except Exception as error:  # one message that cannot be in a bag must not end the recording
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
            what = "others than pictures" if lost.get("others") else "pictures"
            self._tell(f"{reason}: {what} are being lost" if lost else reason)


class _Reserve:
    """A file that only takes room, to be given to others when there is none."""

    def __init__(self, path: Path, size: int) -> None:
        self._path, self._size = path, size

    def take(self) -> bool:
        """Set the room aside; whether it is."""
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
        """Give it back."""
        self._path.unlink(missing_ok=True)
