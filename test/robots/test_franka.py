"""The FR3's limits, against numbers of the FCI documentation that are written down here once more."""

from __future__ import annotations

import numpy as np
import pytest

from molmoact_ros.robots.franka import FR3, HOME_Q

UPPER = [
    # joint, position in rad, highest velocity in rad/s
    (1, 2.70, np.sqrt(12.0 * (2.75010 - 2.70)) - 0.30),
    (2, 1.70, np.sqrt(5.17 * (1.79180 - 1.70)) - 0.20),
    (3, 2.85, np.sqrt(7.0 * (2.90650 - 2.85)) - 0.20),
    (4, -0.20, np.sqrt(8.0 * (-0.1458 + 0.20)) - 0.30),
    (5, 2.75, np.sqrt(34.0 * (2.81010 - 2.75)) - 0.35),
    (6, 4.45, np.sqrt(11.0 * (4.52050 - 4.45)) - 0.35),
    (7, 2.95, np.sqrt(34.0 * (3.01960 - 2.95)) - 0.35),
]
LOWER = [
    (1, -2.70, np.sqrt(12.0 * (2.75010 - 2.70)) - 0.30),
    (2, -1.70, np.sqrt(5.17 * (1.79180 - 1.70)) - 0.20),
    (3, -2.85, np.sqrt(7.0 * (2.90650 - 2.85)) - 0.20),
    (4, -3.00, np.sqrt(8.0 * (3.0481 - 3.00)) - 0.30),
    (5, -2.75, np.sqrt(34.0 * (2.81010 - 2.75)) - 0.35),
    (6, 0.60, np.sqrt(11.0 * (0.60 - 0.54092)) - 0.35),
    (7, -2.95, np.sqrt(34.0 * (3.01960 - 2.95)) - 0.35),
]


@pytest.mark.parametrize(("joint", "at", "speed"), UPPER)
def test_upper_side_of_the_velocity_law(joint: int, at: float, speed: float) -> None:
    q = HOME_Q.copy()
    q[joint - 1] = at
    low, high = FR3.velocity_bounds(q)
    assert 0.05 < speed < FR3.velocity_max[joint - 1], "the law bites there"
    assert high[joint - 1] == pytest.approx(speed)
    assert low[joint - 1] == -FR3.velocity_max[joint - 1], "away from the end it is free"


@pytest.mark.parametrize(("joint", "at", "speed"), LOWER)
def test_lower_side_of_the_velocity_law(joint: int, at: float, speed: float) -> None:
    q = HOME_Q.copy()
    q[joint - 1] = at
    low, high = FR3.velocity_bounds(q)
    assert 0.05 < speed < FR3.velocity_max[joint - 1]
    assert low[joint - 1] == pytest.approx(-speed)
    assert high[joint - 1] == FR3.velocity_max[joint - 1]


def test_beyond_the_ends_no_velocity_leads_outward() -> None:
    for beyond in (0.02, 1.0):  # the law's ends are up to 0.01 rad beyond those of the positions
        assert not FR3.velocity_bounds(FR3.position_max + beyond)[1].any()
        assert not FR3.velocity_bounds(FR3.position_min - beyond)[0].any()
    middle = (FR3.position_min + FR3.position_max) / 2
    low, high = FR3.velocity_bounds(middle)
    assert np.all(high <= FR3.velocity_max) and np.all(low == -high)
