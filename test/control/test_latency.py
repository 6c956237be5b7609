"""The latency of plans."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.control.latency import Latency


def test_latency_leaves_the_warm_up_out_and_shrugs_at_outliers() -> None:
    latency = Latency()
    latency.add_sample(9.0)
    assert np.isnan(latency.seconds)
    for seconds in (0.1, 0.12, 5.0, 0.11):
        latency.add_sample(seconds)
    assert latency.seconds == pytest.approx(0.115)
    latency.restart()
    latency.add_sample(9.0)
    assert latency.seconds == pytest.approx(0.115)
