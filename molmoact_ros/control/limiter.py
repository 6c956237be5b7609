"""The last gate before the arm: position, velocity, acceleration, workspace."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from pydantic import BaseModel

from molmoact_ros.control.pose import Pose
from molmoact_ros.robots.franka import ACCELERATION_MAX, POSITION_MAX, POSITION_MIN, VELOCITY_MAX

BRAKING = 0.8  # fraction of the allowed deceleration that is planned with


class Workspace(BaseModel):
    """The box in the base frame, m, that the tool centre point never leaves."""

    low: tuple[float, float, float] = (0.25, -0.45, 0.008)
    high: tuple[float, float, float] = (0.75, 0.45, 0.70)

    def clamp(self, pose: Pose) -> tuple[Pose, bool]:
        """The nearest pose inside, and whether that is another one."""
        inside = np.clip(pose.position, self.low, self.high)
        return Pose(inside, pose.rotation), bool(np.any(inside != pose.position))


@dataclass
class Limiter:
    """Keeps joint commands inside fractions of the robot's limits; counts how often each one bites."""

    speed: float = 0.5  # fraction of the velocity limits
    acceleration: float = 0.8  # fraction of the acceleration limits
    margin: float = 0.02  # rad kept from the position limits
    counts: dict[str, int] = field(default_factory=lambda: {"position": 0, "velocity": 0, "acceleration": 0})

    def step(self, q: np.ndarray, dq: np.ndarray, wanted: np.ndarray, dt: float) -> tuple[np.ndarray, np.ndarray]:
        """Next command (q, dq), float64 [7] rad and rad/s, from the last one toward `wanted` in `dt` s.

        A wanted position that is not finite is answered by braking.
        """
        if not np.isfinite(wanted).all():
            wanted = q
        fastest, hardest = self.speed * VELOCITY_MAX, self.acceleration * ACCELERATION_MAX
        distance = np.abs(wanted - q)
        # Never so fast that braking would overshoot what is wanted; one factor for all joints keeps the direction.
        braking = np.sqrt(2 * BRAKING * hardest * distance)
        moving = distance > 1e-9
        scale = float(np.min(np.minimum(braking, fastest)[moving] * dt / distance[moving], initial=1.0))
        velocity = (wanted - q) / dt * scale
        self.counts["velocity"] += int(bool(np.any(distance > fastest * dt)))
        low, high = POSITION_MIN + self.margin, POSITION_MAX - self.margin
        # The speed from which braking still ends inside the limit; half a step is kept for the discrete time.
        up = np.sqrt(2 * hardest * np.maximum(high - q - np.abs(dq) * dt, 0.0))
        down = np.sqrt(2 * hardest * np.maximum(q - low - np.abs(dq) * dt, 0.0))
        velocity = self._note("position", velocity, np.clip(velocity, -down, up))
        change = np.clip(velocity, dq - hardest * dt, dq + hardest * dt)
        velocity = self._note("acceleration", velocity, change)
        return q + velocity * dt, velocity

    def _note(self, limit: str, before: np.ndarray, after: np.ndarray) -> np.ndarray:
        self.counts[limit] += int(np.any(np.abs(before - after) > 1e-9))
        return after
