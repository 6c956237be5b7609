"""What the bench of teleoperation judges by."""

from __future__ import annotations

import numpy as np

from molmoact_ros.benchmarks.teleop_takeover import PERIOD, Told, jump
from molmoact_ros.control.limiter import LimitScaling
from molmoact_ros.robots.franka import FR3, HOME_Q


def told(q: np.ndarray, late: int | None = None) -> list[Told]:
    """Commands [n] of joint 1, one a period; from number `late` on a cycle later."""
    return [
        Told((k + (late is not None and k >= late)) * PERIOD, HOME_Q + [x, 0, 0, 0, 0, 0, 0]) for k, x in enumerate(q)
    ]


def test_a_ramp_within_the_limits_is_measured_as_what_it_is() -> None:
    time = np.arange(0.0, 0.2, PERIOD)
    allowed = LimitScaling().jerk * FR3.jerk_max[0]
    out = jump(told(0.03 * allowed * time**3 / 6), LimitScaling())
    assert out.kept and abs(out.jerk - 0.03) < 1e-6 and 0.5 < out.acceleration < 0.75


def test_a_jump_is_seen() -> None:
    q = np.zeros(50)
    q[25:] = 0.02
    assert not jump(told(q), LimitScaling()).kept


def test_a_missed_cycle_is_no_jump_but_nothing_judged_is_no_success() -> None:
    q = 0.3 * PERIOD * np.arange(50.0)
    missed = np.concatenate([q[:25], q[26:]])
    assert jump(told(missed, late=25), LimitScaling()).kept
    assert not jump(told(missed), LimitScaling()).kept
    assert not jump([], LimitScaling()).kept
