"""Synchronises frames of several cameras: the newest frame of the first camera that every other camera matches.

The freshest set wins; frames older than a used set are obsolete. The outcome of every frame is counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Generic, TypeVar

T = TypeVar("T")

OUTCOMES: Final = ("received", "used", "skipped", "unmatched", "late")
"""used: in a set that was used. skipped: matched, but a fresher set was used. unmatched: another camera had no frame
within the tolerance. late: too old on arrival, or stamped in the future. All other received frames are still buffered.
"""


@dataclass
class Stamped(Generic[T]):
    """An item with its stamp, s. near: indices of the cameras with an item within the tolerance of that stamp."""

    stamp: float
    item: T
    near: set[int] = field(default_factory=set)
    used: bool = False


def nearest(kept: Iterable[Stamped[T]], stamp: float, slop: float) -> Stamped[T] | None:
    """The item nearest to `stamp`, s, within `slop` s of it, or None."""
    near = min(kept, key=lambda one: abs(one.stamp - stamp), default=None)
    return near if near is not None and abs(near.stamp - stamp) <= slop else None


MOST: Final = 32
"""Maximum number of buffered frames of a camera, however long they stay current."""


class Track(Generic[T]):
    """Buffer of one camera's frames of the last `max_age` s. slop: tolerance of stamps, s."""

    def __init__(self, slop: float, max_age: float) -> None:
        self.slop, self._max_age = slop, max_age
        self.kept: deque[Stamped[T]] = deque()

    def is_current(self, stamp: float, now: float) -> bool:
        """Whether `stamp` is neither too old at `now` nor in the future by more than the tolerance; s."""
        return -self.slop <= now - stamp <= self._max_age

    def add_frame(self, stamp: float, item: T) -> Stamped[T]:
        """Buffer an item with its stamp, s."""
        kept = Stamped(stamp, item)
        self.kept.append(kept)
        return kept

    def forget(self, now: float) -> list[Stamped[T]]:
        """Remove and return the items that are not current at `now`, s, and the oldest above the maximum number."""
        gone = [kept for kept in self.kept if not self.is_current(kept.stamp, now)]
        rest = deque(kept for kept in self.kept if self.is_current(kept.stamp, now))
        while len(rest) > MOST:
            gone.append(rest.popleft())
        self.kept = rest
        return gone


class Synchronizer(Generic[T]):
    """Buffers the last frames of each camera and finds the newest matching set. Not thread-safe.

    counts: for each camera the number of frames with each of OUTCOMES. last: for each camera the stamp of the last
    frame that arrived, current or not, s.

        synchronizer = Synchronizer(["front", "wrist"], slop=0.02, max_age=0.5)
        synchronizer.add_frame("front", 1.000, front, now=1.05)
        synchronizer.add_frame("wrist", 1.012, wrist, now=1.06)
        [frame.item for frame in synchronizer.newest(now=1.06)]  # [front, wrist]
    """

    def __init__(self, cameras: Sequence[str], slop: float, max_age: float) -> None:
        """cameras: names; the first one leads. slop: maximum difference of stamps to the first camera's frame, s.
        max_age: maximum age of any frame, s.
        """
        self._names = list(cameras)
        self._tracks: list[Track[T]] = [Track(slop, max_age) for _ in cameras]
        self.counts = {name: Counter(dict.fromkeys(OUTCOMES, 0)) for name in cameras}
        self.last = dict.fromkeys(cameras, -inf)  # stamp of the last frame that arrived, current or not

    def add_frame(self, camera: str, stamp: float, item: T, now: float) -> None:
        """Add a frame with its stamp that arrived at `now`, s."""
        number, counts = self._names.index(camera), self.counts[camera]
        self.last[camera] = stamp
        counts["received"] += 1
        self._forget(now)
        track = self._tracks[number]
        if not track.is_current(stamp, now):
            counts["late"] += 1
            return
        kept = track.add_frame(stamp, item)
        for other, others in enumerate(self._tracks):
            for near in others.kept if other != number else ():
                if abs(near.stamp - stamp) <= track.slop:
                    near.near.add(number)
                    kept.near.add(other)
        self._forget(now)

    def newest(self, now: float) -> tuple[Stamped[T], ...] | None:
        """The matching set with the newest frame of the first camera at `now`, s: one frame per camera, or None."""
        self._forget(now)
        first, *others = self._tracks
        for leader in sorted(first.kept, key=lambda kept: -kept.stamp):
            matches = [nearest(track.kept, leader.stamp, track.slop) for track in others]
            together = [match for match in matches if match is not None]
            if len(together) == len(others):
                return leader, *together
        return None

    def held(self, camera: str) -> int:
        """Number of buffered frames of a camera; `counts` has the outcome of the others."""
        return len(self._tracks[self._names.index(camera)].kept)

    def clear(self) -> None:
        """Drop all frames, for when the clock of the stamps was set."""
        self._forget(inf)
        self.last = dict.fromkeys(self._names, -inf)

    def _forget(self, now: float) -> None:
        for number, track in enumerate(self._tracks):
            wanted = set(range(1, len(self._tracks))) if number == 0 else {0}
            for gone in track.forget(now):
                fate = "used" if gone.used else "skipped" if wanted <= gone.near else "unmatched"
                self.counts[self._names[number]][fate] += 1
