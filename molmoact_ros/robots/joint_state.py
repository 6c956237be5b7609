"""Joint states, put together by joint name: drivers of arm and hand publish separately, on one topic or on several.

Neither a message nor a publisher is the state. Each joint has the position and the stamp that came last for it,
whatever else its message held.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Sequence
from typing import Final, NamedTuple

import numpy as np

RECENT: Final = 5.0
"""s for which the joints that a message named count as published together: some drivers publish once a second."""
MOST_GROUPS: Final = 64
"""Groups of joints that are remembered: more than any robot has publishers."""


class JointSample(NamedTuple):
    """Joints at their newest: positions float64 [n] rad or m, stamps [n] s, heard [n] s on the steady clock."""

    positions: np.ndarray
    stamps: np.ndarray
    heard: np.ndarray


class JointStateMonitor:
    """The newest position and stamp of each of some joints, from any split of them into messages. Not thread-safe.

        monitor = JointStateMonitor(["fr3_joint1", "fr3_finger_joint1"])
        monitor.take_message(["fr3_finger_joint1"], [0.04], stamp=1.0, heard=0.0)
        monitor.missing  # ["fr3_joint1"]
        monitor.take_message(["fr3_joint1"], [0.3], stamp=1.1, heard=0.1)
        monitor.sample().stamps  # [1.1, 1.0]

    A position that is not finite is left out, and the joint keeps the one before, which ages.
    """

    def __init__(self, joints: Iterable[str]) -> None:
        """joints: names of the joints that count; others in the messages are ignored."""
        self.joints = tuple(joints)
        self._places = {name: place for place, name in enumerate(self.joints)}
        self._positions, self._stamps, self._heard = (np.full(len(self.joints), np.nan) for _ in range(3))
        self._complete = False  # each joint has come
        self._not_finite: set[str] = set()  # joints whose last position was not finite
        self._orders: dict[tuple[tuple[str, ...], int], tuple[np.ndarray, np.ndarray]] = {}

    def take_message(self, names: Sequence[str], positions: Sequence[float], stamp: float, heard: float) -> np.ndarray:
        """Take the positions, rad or m, that came at `heard`, s on the steady clock; stamp: s.

        Returns which joints they are of, bool [n]. Of names and positions in different numbers the shorter counts.
        """
        sources, places = self._order(tuple(names), len(positions))
        values, updated = np.asarray(positions, np.float64)[sources], np.zeros(len(self.joints), bool)
        if self._not_finite or not math.isfinite(values.sum()):
            self._not_finite -= {self.joints[place] for place in places}
            finite = np.isfinite(values)
            self._not_finite |= {self.joints[place] for place in places[~finite]}
            values, places = values[finite], places[finite]
        updated[places] = True
        self._positions[places], self._stamps[places], self._heard[places] = values, stamp, heard
        self._complete = self._complete or not np.isnan(self._positions).any()
        return updated

    def _order(self, names: tuple[str, ...], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Which of `count` positions by these names are of our joints, and of which; messages repeat their names."""
        if (order := self._orders.get((names, count))) is None:
            # The last of a name that is there twice counts.
            found = {self._places[name]: source for source, name in enumerate(names[:count]) if name in self._places}
            order = np.array(list(found.values()), int), np.array(list(found), int)
            if len(self._orders) >= MOST_GROUPS:
                self._orders.clear()
            self._orders[names, count] = order
        return order

    @property
    def missing(self) -> list[str]:
        """The joints of which no position ever came."""
        return [name for name, position in zip(self.joints, self._positions, strict=True) if position != position]

    def not_finite_of(self, joints: Iterable[str]) -> list[str]:
        """Those of these joints whose last position was NaN or infinite."""
        return [joint for joint in joints if joint in self._not_finite] if self._not_finite else []

    def sample(self, places: slice = slice(None)) -> JointSample | None:
        """The joints at `places` of `joints`; None until each has come once."""
        if not self._complete and np.isnan(self._positions[places]).any():
            return None
        return JointSample(self._positions[places].copy(), self._stamps[places].copy(), self._heard[places].copy())

    def positions(self) -> dict[str, float]:
        """The positions that are known, by joint, rad or m."""
        pairs = zip(self.joints, self._positions.tolist(), strict=True)
        return {name: position for name, position in pairs if position == position}

    def forget(self) -> None:
        """Forget all positions: the clock of the stamps was set."""
        for values in self._positions, self._stamps, self._heard:
            values.fill(np.nan)
        self._complete = False
        self._not_finite.clear()


class JointGroups:
    """Which joints are published together: two publishers of different joints are one robot, of the same ones not."""

    def __init__(self) -> None:
        self._groups: dict[tuple[str, ...], float] = {}

    def take_names(self, names: Collection[str], heard: float) -> None:
        """Count the joints of a message that came at `heard`, s on the steady clock."""
        self._groups[tuple(names)] = heard
        if len(self._groups) > MOST_GROUPS:
            del self._groups[min(self._groups, key=self._groups.__getitem__)]

    def count(self, now: float) -> int:
        """How many publishers of different joints there may be: groups that came of late and share no joint."""
        apart: list[set[str]] = []
        for names in (names for names, heard in self._groups.items() if now - heard <= RECENT and names):
            shared = [group for group in apart if group & set(names)]
            apart = [group for group in apart if not group & set(names)] + [set(names).union(*shared)]
        return len(apart)


def nearest_positions(
    messages: Iterable[tuple[float, Sequence[str], Sequence[float]]], stamp: float, within: float
) -> dict[str, tuple[float, float]]:
    """Position and stamp of each joint in the message nearest to `stamp`, s, and not farther from it than `within` s.

    messages: stamp, names and positions of each. Positions that are not finite are left out.
    """
    found: dict[str, tuple[float, float]] = {}
    near = (message for message in messages if abs(message[0] - stamp) <= within)
    for at, names, positions in sorted(near, key=lambda message: abs(message[0] - stamp), reverse=True):
        pairs = zip(names, positions, strict=False)
        found |= {name: (position, at) for name, position in pairs if math.isfinite(position)}
    return found
