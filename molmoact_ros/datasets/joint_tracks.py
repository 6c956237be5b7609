"""The motion of joints over time, each by its own samples."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from molmoact_ros.bags.recorded_times import Samples


@dataclass(frozen=True)
class JointTracks:
    """Samples of joints, which may have different times: the arm and the hand are often published apart."""

    samples: Samples

    @staticmethod
    def of(messages: Iterable[tuple[float, Sequence[str], Sequence[float]]]) -> JointTracks:
        """Put messages together: time (s), names, positions. Positions that are not finite are left out."""
        found: dict[str, dict[float, float]] = {}
        for at, names, positions in messages:
            for name, position in zip(names, positions, strict=False):
                if np.isfinite(position):
                    found.setdefault(name, {})[at] = float(position)
        return JointTracks({name: _sorted(of) for name, of in found.items()})

    def lacking(self, names: Iterable[str]) -> list[str]:
        """Those of `names` that have no position."""
        return [name for name in names if name not in self.samples]

    def at(self, names: Sequence[str], ticks: np.ndarray) -> np.ndarray:
        """Positions at `ticks` [n], each joint between its own nearest two samples, float64 [n, names].

        Before its first and after its last sample a joint stands still. Raises KeyError for a joint without samples.
        """
        return np.column_stack([np.interp(ticks, *self.samples[name]) for name in names])

    def span(self, names: Sequence[str]) -> tuple[float, float]:
        """The times, s, between which all of `names` have samples around them."""
        times = [self.samples[name][0] for name in names]
        return max(float(of[0]) for of in times), min(float(of[-1]) for of in times)

    def longest_pause(self, names: Sequence[str]) -> float:
        """The longest time between two samples of one of `names`, s."""
        return max(float(np.diff(self.samples[name][0]).max(initial=0.0)) for name in names)


def _sorted(samples: dict[float, float]) -> tuple[np.ndarray, np.ndarray]:
    times = sorted(samples)
    return np.array(times), np.array([samples[at] for at in times])
