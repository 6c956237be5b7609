"""The noise of a stereo depth camera."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.cameras.depth_noise import NOISE, with_sensor_noise


def test_noise_is_of_the_inverse_and_unknown_stays_unknown() -> None:
    depth = np.full((480, 640), 0.85)
    depth[:40] = 0.0
    noisy = with_sensor_noise(depth, np.random.default_rng(0))
    assert not noisy[:40].any()
    assert (1 / noisy[40:] - 1 / 0.85).std() == pytest.approx(NOISE, rel=0.05)
    assert np.abs(np.diff(noisy[40:], axis=1)).mean() < 0.6 * noisy[40:].std(), "neighbours are alike"
