"""The times of recorded messages: whether their stamps can be believed, and what takes their place where they cannot.

A driver may leave stamps at zero, repeat them or take them from a clock of its own, and a clock may be set back while a
bag is recorded: a bag was played in a loop, a simulator was reset. `check_times` looks at the stamps of all topics that
are read together, and says in one line for each fault what it did:

- single stamps that are zero, repeat or go back: those messages are left out;
- stamps that mostly are so, or belong to another clock than the first topic's: times of receipt take their place;
- stamps that jump for good: the longest part of the bag without a jump is read.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from typing import Final

import numpy as np

JUMP: Final = 0.25
"""s by which a stamp goes back when it is not merely late: images of two threads change places by less."""
AHEAD: Final = 10.0
"""s by which stamps run ahead of the times of receipt when their clock was set: no buffer holds messages so long."""
DAY: Final = 86_400.0
"""s between two messages of one topic after which the clock was set, whatever the times of receipt say."""
TOLERATED: Final = 0.1
"""Share of a topic's messages that may be left out for their stamps; with more, the times of receipt are better."""
CLOCK: Final = 2.0
"""s between the stamps of two topics, at the same time of receipt, from which on their clocks are different ones: a
camera's images seldom take so long."""
Place = tuple[int, ...]
"""Where a message lies in the bag, in the order in which it was written."""


@dataclass(frozen=True)
class StampedTopic:
    """The messages of a topic in the order in which they were written.

    name: how a note names them, such as "images on /front/color/image_raw". stamps: of their headers, float64 [n] s, 0:
    none. received: times of receipt, float64 [n] s. places: n of them, increasing.
    """

    name: str
    stamps: np.ndarray
    received: np.ndarray
    places: Sequence[Place]


@dataclass(frozen=True)
class CheckedTimes:
    """The result of `check_times`.

    times: for each topic float64 [n] s, increasing; nan for a message that is left out. notes: one line for each fault.
    window: the places of the part that is read, first and behind the last; None: there is no such end.
    """

    times: list[np.ndarray]
    notes: list[str]
    window: tuple[Place | None, Place | None] = (None, None)
    _received: np.ndarray = field(default_factory=lambda: np.zeros(0))
    _stamped: np.ndarray = field(default_factory=lambda: np.zeros(0))

    def time_of(self, received: np.ndarray | float) -> np.ndarray:
        """Times of receipt, s, by the clock of the stamps: as they are, unless the two clocks are different ones."""
        return _translated(np.asarray(received, np.float64), self._received, self._stamped)

    def covers(self, place: Place) -> bool:
        """Whether a message at this place is in the part that is read."""
        begin, end = self.window
        return (begin is None or place >= begin) and (end is None or place < end)


def check_times(topics: Sequence[StampedTopic]) -> CheckedTimes:
    """Check the stamps of topics that are read together.

    The first topic whose stamps can be believed gives the clock; times of receipt are translated to it. Raises
    ValueError, in one line, for a topic with neither stamps nor times of receipt that advance.
    """
    notes: list[str] = []
    begin, end = _window(topics, notes)
    inside = [np.array([_within(place, begin, end) for place in topic.places], bool) for topic in topics]
    believed = [_believed(topic, mask, notes) for topic, mask in zip(topics, inside, strict=True)]
    received, stamped, reference = np.zeros(0), np.zeros(0), ""
    for topic, times in zip(topics, believed, strict=True):
        if times is not None and np.isfinite(times).any():
            known = np.isfinite(times)
            received, stamped, reference = np.maximum.accumulate(topic.received[known]), times[known], topic.name
            break
    out = []
    for topic, mask, times in zip(topics, inside, believed, strict=True):
        apart = 0.0 if times is None else _apart(topic.received, times, received, stamped)
        if abs(apart) > CLOCK:
            notes.append(
                f"the stamps of {topic.name} differ by {apart:.2f} s from those of {reference}, so they belong to "
                "another clock: their times of receipt are used"
            )
        if times is None or abs(apart) > CLOCK:
            times = _by_receipt(topic, mask, _translated(topic.received, received, stamped))
        out.append(times)
    if len(stamped) and abs(float(np.median(received - stamped))) <= CLOCK:
        return CheckedTimes(out, notes, (begin, end))
    return CheckedTimes(out, notes, (begin, end), received, stamped)


def _within(place: Place, begin: Place | None, end: Place | None) -> bool:
    return (begin is None or place >= begin) and (end is None or place < end)


def _window(topics: Sequence[StampedTopic], notes: list[str]) -> tuple[Place | None, Place | None]:
    """The longest part in which no topic's clock jumps: with most messages of the first topic that has any."""
    cuts: dict[Place, str] = {}
    jumps = [_jumps(topic) for topic in topics]
    for topic, of in zip(topics, jumps, strict=True):
        for index, by, what in of:
            way = "go back" if by < 0 else "jump ahead"
            cuts.setdefault(
                topic.places[index],
                f"the {what} of {topic.name} {way} by {abs(by):.2f} s after {index} of {len(topic.stamps)}, as in a "
                "loop or when a clock is set",
            )
    counted = next((topic for topic in topics if len(topic.places)), None)
    if not cuts or counted is None:
        return None, None
    ends = [None, *sorted(cuts), None]
    parts = list(pairwise(ends))
    counts = [sum(_within(place, *part) for place in counted.places) for part in parts]
    best = int(np.argmax(counts))
    times = max(len(of) for of in jumps)
    more = f", the first of {times} such jumps" if times > 1 else ""
    notes.append(
        f"{cuts[min(cuts)]}{more}: the longest part without is read, "
        f"{counts[best]} of {len(counted.places)} {counted.name}"
    )
    return parts[best]


def _jumps(topic: StampedTopic) -> list[tuple[int, float, str]]:
    """Where a clock was set: the index of the first message after it, by how many seconds, and whose clock.

    Empty where that happens so often that it is no clock: then single stamps are judged.
    """
    out: dict[int, tuple[int, float, str]] = {}
    known = np.flatnonzero((topic.stamps != 0) & ~_outliers(topic.stamps))
    for what, values, index in (
        ("times of receipt", topic.received, np.arange(len(topic.received))),
        ("stamps", topic.stamps, known),
    ):
        steps = np.diff(values[index])
        beside = np.diff(topic.received[index]) if what == "stamps" else steps
        jumped = (steps < -JUMP) | (steps > DAY) | ((steps - beside > AHEAD) & (beside > -JUMP))
        if jumped.sum() <= TOLERATED * len(index):
            out |= {int(index[k + 1]): (int(index[k + 1]), float(steps[k]), what) for k in np.flatnonzero(jumped)}
    return list(out.values())


def _outliers(stamps: np.ndarray) -> np.ndarray:
    """Messages, bool [n], that alone are ahead of the next one or behind the one before, which agree."""
    out = np.zeros(len(stamps), bool)
    if len(stamps) > 2:
        before, at, after = stamps[:-2], stamps[1:-1], stamps[2:]
        out[1:-1] = (after >= before - JUMP) & ((at > after + JUMP) | (at < before - JUMP))
    if len(stamps) > 1:
        out[-1] = stamps[-1] < stamps[-2] - JUMP and not out[-2]
    return out


def _believed(topic: StampedTopic, inside: np.ndarray, notes: list[str]) -> np.ndarray | None:
    """The stamps as times, nan for those that are left out; None where times of receipt are better."""
    zero = inside & (topic.stamps == 0)
    usable = inside & ~zero
    usable[usable] = ~_outliers(topic.stamps[usable])
    newest = np.maximum.accumulate(np.where(usable, topic.stamps, -np.inf))
    before = np.concatenate([[-np.inf], newest[:-1]])[: len(newest)]
    good = usable & (topic.stamps > before)
    repeated = usable & (topic.stamps == before)
    back = inside & ~zero & ~good & ~repeated
    count, total = int((inside & ~good).sum()), int(inside.sum())
    if not count:
        return np.where(good, topic.stamps, np.nan)
    kinds = (("are 0", zero), ("repeat the one before", repeated), ("go back", back))
    why = ", ".join(f"{int(which.sum())} {what}" for what, which in kinds if which.any())
    if zero[inside].all():
        notes.append(f"{topic.name} are stamped 0: their times of receipt are used")
    elif count > TOLERATED * total:
        notes.append(f"of the {total} stamps of {topic.name}, {why}: their times of receipt are used")
    else:
        notes.append(f"{count} of {total} {topic.name} are left out: of their stamps, {why}")
        return np.where(good, topic.stamps, np.nan)
    return None


def _by_receipt(topic: StampedTopic, inside: np.ndarray, received: np.ndarray) -> np.ndarray:
    """Times of receipt as times; nan for those that do not advance."""
    newest = np.maximum.accumulate(np.where(inside, received, -np.inf))
    good = inside & (received > np.concatenate([[-np.inf], newest[:-1]])[: len(newest)])
    if inside.sum() > 1 and good.sum() < 0.5 * inside.sum():
        raise ValueError(
            f"neither the stamps of {topic.name} nor their times of receipt advance: the bag does not say when they "
            "were sent"
        )
    return np.where(good, received, np.nan)


def _apart(received: np.ndarray, times: np.ndarray, clock_received: np.ndarray, clock: np.ndarray) -> float:
    """How far stamps are from those of the clock at the same time of receipt, s, at the median; 0: not known."""
    if not len(clock):
        return 0.0
    known = np.isfinite(times) & (received >= clock_received[0] - CLOCK) & (received <= clock_received[-1] + CLOCK)
    if not known.any():
        return 0.0
    return float(np.median(times[known] - _translated(received[known], clock_received, clock)))


def _translated(received: np.ndarray, clock_received: np.ndarray, clock: np.ndarray) -> np.ndarray:
    """Times of receipt by another clock: interpolated, and beyond its ends by a clock as fast as that of receipt."""
    if not len(clock):
        return received
    inside = np.clip(received, clock_received[0], clock_received[-1])
    return np.asarray(np.interp(inside, clock_received, clock) + (received - inside))
