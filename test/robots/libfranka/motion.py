"""Commands such as a policy's chunks make them, without controller and model."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import ruckig

from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, HOME_Q, OPENING_MAX


def policy_motion(
    seed: int, start: np.ndarray, period: float, speed: float = 0.5, acceleration: float = 0.5
) -> Iterator[ArmCommand]:
    """An endless motion such as a policy's chunks make it, from `start`, float64 [7] rad: another goal near home every
    0.75 s, approached under these parts of the FR3's velocity and acceleration, and a fifth of its jerk.
    """
    rng = np.random.default_rng(seed)
    generator, now, after = ruckig.Ruckig(7, period), ruckig.InputParameter(7), ruckig.OutputParameter(7)
    now.current_position = np.asarray(start).tolist()
    now.max_velocity = (speed * FR3.velocity_max).tolist()
    now.max_acceleration, now.max_jerk = (acceleration * FR3.acceleration_max).tolist(), (0.2 * FR3.jerk_max).tolist()
    while True:
        goal = HOME_Q + rng.uniform(-0.4, 0.4, 7)
        now.target_position = np.clip(goal, FR3.position_min + 0.3, FR3.position_max - 0.3).tolist()
        for _ in range(round(0.75 / period)):
            generator.update(now, after)
            position, velocity = np.array(after.new_position), np.array(after.new_velocity)
            yield ArmCommand(position, velocity, np.array(after.new_acceleration), OPENING_MAX, period)
            after.pass_to_input(now)
