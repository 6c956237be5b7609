"""Latency of a plan: the time from the capture of its image to its arrival."""

from __future__ import annotations

from collections import deque

import numpy as np

KEPT = 15  # number of plans in the estimate


class Latency:
    """A robust estimate: the median of the last plans. The first plan after a start is warm-up and is skipped."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=KEPT)
        self._warm = False

    def restart(self) -> None:
        """The engine restarts: its next plan counts as warm-up. Earlier samples stay."""
        self._warm = False

    def add_sample(self, seconds: float) -> None:
        """Add the latency of a plan that has just arrived, s."""
        if self._warm:
            self._samples.append(seconds)
        self._warm = True

    @property
    def seconds(self) -> float:
        """The median, s; nan before the first sample."""
        return float(np.median(self._samples)) if self._samples else float("nan")
