"""Which moments become views of a calibration: those in which the arm stands still at a pose that is new."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final

import numpy as np

from molmoact_ros.robots.joint_state import JointStateMonitor

STILL: Final = 0.5
"""s for which the arm has to stand: longer than images and joint states take, however they are stamped."""
STANDS: Final = 0.003
"""rad within which a joint counts as standing."""
NEW_POSE: Final = 0.08
"""rad by which some joint differs from every earlier view."""
AGAIN: Final = 1.0
"""s after which a pose at which the board was not found is looked at again."""


class ViewCollector:
    """Follows the joints and says when a view is due. Times are seconds on one clock, of arrival.

    Args:
        joints: names of the arm's joints.

    Example:
        collector = ViewCollector(SINGLE.joints)
        collector.add_joints(now, message.name, message.position)
        if collector.is_due(now):
            collector.note_view(now, collector.positions)
    """

    def __init__(self, joints: Iterable[str]) -> None:
        self._monitor = JointStateMonitor(joints)
        self._recent: deque[tuple[float, np.ndarray]] = deque()
        self._taken: list[np.ndarray] = []
        self._tried_at = -np.inf

    def add_joints(self, now: float, names: Sequence[str], positions: Sequence[float]) -> None:
        """Process joint states that arrived at `now`, rad by name; an arm's may come in several messages."""
        updated = self._monitor.take_message(names, positions, now, now)
        sample = self._monitor.sample()
        if sample is None or not updated.any():
            return
        self._recent.append((now, sample.positions))
        while self._recent[0][0] < now - 2 * STILL:
            self._recent.popleft()

    @property
    def lacking(self) -> list[str]:
        """Joints without a position so far."""
        return self._monitor.missing

    @property
    def positions(self) -> dict[str, float]:
        """The newest position of each joint, rad."""
        return self._monitor.positions()

    def stands(self, now: float) -> bool:
        """Whether the arm has stood still for STILL s, by joint states of that time for each joint."""
        sample = self._monitor.sample()
        if sample is None or sample.heard.min() < now - STILL:
            return False
        rows = [q for at, q in self._recent if at >= now - STILL]
        covered = self._recent[0][0] <= now - 0.8 * STILL and len(rows) >= 3
        return covered and float(np.ptp(rows, axis=0).max()) < STANDS

    def is_due(self, now: float) -> bool:
        """Whether the arm stands still at a pose of which there is no view yet."""
        if not self.stands(now) or now - self._tried_at < AGAIN:
            return False
        q = self._recent[-1][1]
        return all(float(np.abs(q - other).max()) >= NEW_POSE for other in self._taken)

    def note_view(self, now: float, taken: Mapping[str, float] | None) -> None:
        """Record that a view was tried at `now`; taken: the joints of the view, None where the board was not found."""
        self._tried_at = now if taken is None else -np.inf
        if taken is not None:
            self._taken.append(np.array([taken[name] for name in self._monitor.joints]))
