"""95 % intervals of what an evaluation measures."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from scipy.stats import binomtest, bootstrap

CONFIDENCE: Final = 0.95
RESAMPLES: Final = 10_000
Interval = tuple[float, float]


def rate_interval(successes: int, trials: int) -> Interval:
    """Wilson's interval of a rate of success (E. B. Wilson, 1927)."""
    found = binomtest(successes, trials).proportion_ci(CONFIDENCE, method="wilson")
    return float(found.low), float(found.high)


def mean_interval(values: Sequence[float], seed: int = 0) -> Interval | None:
    """Interval of the mean by percentiles of the bootstrap, drawn from `seed`; None for fewer than two values."""
    if len(values) < 2:
        return None
    rng = np.random.default_rng(seed)
    found = bootstrap(
        (np.asarray(values),), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, method="percentile", rng=rng
    ).confidence_interval  # fmt: skip
    return float(found.low), float(found.high)
