"""Latency of a browser's commands, without synchronized clocks."""

from __future__ import annotations

import math
from typing import Final

DRIFT: Final = 1e-3
"""s per second by which two clocks may drift apart; common ones stay within a tenth of that."""


class Freshness:
    """Measures the excess latency of one connection: the delay of a command beyond the least delay so far."""

    def __init__(self) -> None:
        self._number = -1
        self._offset, self._at = math.inf, 0.0  # the least of (arrival - sent), and when it was measured

    def lateness(self, number: int, sent: float, arrival: float) -> float:
        """Excess latency of a command, s. sent: on the browser's clock, s; arrival: on our monotonic clock, s.

        Infinite for a command that is repeated or out of order: its number is not greater than all earlier ones.
        """
        if number <= self._number:
            return math.inf
        self._number = number
        self._offset = min(self._offset + DRIFT * (arrival - self._at), arrival - sent)
        self._at = arrival
        return arrival - sent - self._offset
