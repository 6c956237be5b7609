"""Which pictures belong together: the newest of the first camera for which every other one has one of that moment.

Freshest wins: what is older than a set that was used is of no use any more. What became of every picture is counted.
"""

from __future__ import annotations

from collections import Counter, deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from math import inf
from typing import Final, Generic, TypeVar

T = TypeVar("T")

OUTCOMES: Final = ("received", "used", "skipped", "unmatched", "late")
"""used: in a set that was used. skipped: belonged to a set, a fresher one was used. unmatched: another camera had none
of that moment. late: too old when it came, or stamped in the future. The rest is still kept."""


@dataclass
class Stamped(Generic[T]):
    """Something of the moment `stamp`, s. near: the cameras, by number, that have something of the same moment."""

    stamp: float
    item: T
    near: set[int] = field(default_factory=set)
    used: bool = False


def nearest(kept: Iterable[Stamped[T]], stamp: float, slop: float) -> Stamped[T] | None:
    """What lies nearest to `stamp`, s, and within `slop` s of it."""
    near = min(kept, key=lambda one: abs(one.stamp - stamp), default=None)
    return near if near is not None and abs(near.stamp - stamp) <= slop else None


MOST: Final = 32
"""Pictures that are kept of a camera at most, however long they stay current."""


class Track(Generic[T]):
    """The pictures of one camera in the last `max_age` s; `slop`: tolerance of stamps, s."""

    def __init__(self, slop: float, max_age: float) -> None:
        self.slop, self._max_age = slop, max_age
        self.kept: deque[Stamped[T]] = deque()

    def is_current(self, stamp: float, now: float) -> bool:
        """Whether `stamp` is neither too old at `now` nor, beyond the tolerance, in the future; s."""
        return -self.slop <= now - stamp <= self._max_age

    def add_frame(self, stamp: float, item: T) -> Stamped[T]:
        """Keep something of the moment `stamp`, s."""
        kept = Stamped(stamp, item)
        self.kept.append(kept)
        return kept

    def forget(self, now: float) -> list[Stamped[T]]:
        """Let go of what is no longer current at `now`, s, and of the oldest where there is too much."""
        gone = [kept for kept in self.kept if not self.is_current(kept.stamp, now)]
        rest = deque(kept for kept in self.kept if self.is_current(kept.stamp, now))
        while len(rest) > MOST:
            gone.append(rest.popleft())
        self.kept = rest
        return gone


class Synchronizer(Generic[T]):
    """Keeps the last pictures of each camera and finds the newest set. Not for several threads at once."""

    def __init__(self, cameras: Sequence[str], slop: float, max_age: float) -> None:
        """cameras: the first one leads. slop: greatest difference of stamps to its picture, s; max_age: of any, s."""
        self._names = list(cameras)
        self._tracks: list[Track[T]] = [Track(slop, max_age) for _ in cameras]
        self.counts = {name: Counter(dict.fromkeys(OUTCOMES, 0)) for name in cameras}
        self.last = dict.fromkeys(cameras, -inf)  # stamp of the last picture that came, current or not

    def add_frame(self, camera: str, stamp: float, item: T, now: float) -> None:
        """Take a picture of the moment `stamp` that came at `now`, s."""
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
        """The set whose first picture is the newest at `now`, s: one of each camera; None where there is none."""
        self._forget(now)
        first, *others = self._tracks
        for leader in sorted(first.kept, key=lambda kept: -kept.stamp):
            matches = [nearest(track.kept, leader.stamp, track.slop) for track in others]
            together = [match for match in matches if match is not None]
            if len(together) == len(others):
                return leader, *together
        return None

    def held(self, camera: str) -> int:
        """How many pictures are kept of a camera; what became of the others, `counts` says."""
        return len(self._tracks[self._names.index(camera)].kept)

    def clear(self) -> None:
        """Keep nothing: the clock of the stamps was set."""
        self._forget(inf)
        self.last = dict.fromkeys(self._names, -inf)

    def _forget(self, now: float) -> None:
        for number, track in enumerate(self._tracks):
            wanted = set(range(1, len(self._tracks))) if number == 0 else {0}
            for gone in track.forget(now):
                fate = "used" if gone.used else "skipped" if wanted <= gone.near else "unmatched"
                self.counts[self._names[number]][fate] += 1
