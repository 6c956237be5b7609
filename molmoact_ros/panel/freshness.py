"""How late a browser's commands are, though its clock and this machine's have nothing in common."""

from __future__ import annotations

import math
from typing import Final

DRIFT: Final = 1e-3
"""s a second by which two clocks may drift apart; common ones keep to a tenth of that."""


class Freshness:
    """Measures one connection. Its least delay so far is taken for none; what any command takes more, it is late by."""

    def __init__(self) -> None:
        self._number = -1
        self._offset, self._at = math.inf, 0.0  # the least of (arrival - sent), and when it was measured

    def lateness(self, number: int, sent: float, arrival: float) -> float:
        """s by which a command is late that was sent at the browser's time and arrived at this machine's, monotonic, s.

        Infinite for one that is repeated or overtaken: its number is not greater than that of all before it.
        """
        if number <= self._number:
            return math.inf
        self._number = number
        self._offset = min(self._offset + DRIFT * (arrival - self._at), arrival - sent)
        self._at = arrival
        return arrival - sent - self._offset
