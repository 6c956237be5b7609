"""How long after its picture was taken a plan arrives."""

from __future__ import annotations

from collections import deque

import numpy as np

KEPT = 15  # the estimate follows the last this many plans


class Latency:
    """A robust estimate: the median of the last plans. The first after a start warms the engine up and is left out."""

    def __init__(self) -> None:
        self._samples: deque[float] = deque(maxlen=KEPT)
        self._warm = False

    def restart(self) -> None:
        """The engine begins anew: its next plan counts as warm-up. Earlier samples stay."""
        self._warm = False

    def add_sample(self, seconds: float) -> None:
        """A plan has arrived this long after its picture."""
        if self._warm:
            self._samples.append(seconds)
        self._warm = True

    @property
    def seconds(self) -> float:
        """The estimate, s; nan before there is one."""
        return float(np.median(self._samples)) if self._samples else float("nan")
