"""Interpolates joint trajectories over time, like ros2_control's joint_trajectory_controller."""

from __future__ import annotations

import numpy as np


class TrajectoryFollower:
    """The desired position of some joints at any time; holds the last point when a trajectory has ended."""

    def __init__(self, positions: np.ndarray) -> None:
        """`positions` [n]: initial positions to hold (rad, or m for fingers)."""
        self.hold(positions)

    def hold(self, positions: np.ndarray) -> None:
        """Drop the trajectory and hold `positions` [n]."""
        self._times = np.zeros(1)
        self._positions = np.array([positions], dtype=np.float64)
        self._velocities = np.zeros_like(self._positions)

    def follow(self, start: float, times: np.ndarray, positions: np.ndarray, velocities: np.ndarray | None) -> None:
        """Replace the trajectory, from the desired positions at `start` (s) on.

        times: seconds after `start` [k], increasing, the first >= 0. positions: [k, n]. velocities: [k, n], or None for
        linear interpolation. Raises ValueError, and keeps the old trajectory, for anything else.
        """
        times, positions = np.asarray(times, np.float64), np.asarray(positions, np.float64)
        now, speed = self.at(start)
        slopes = None if velocities is None else np.asarray(velocities, np.float64)
        if len(times) == 0 or positions.shape != (len(times), len(now)):
            raise ValueError(f"a trajectory needs points of {len(now)} positions; got {list(positions.shape)}")
        if slopes is not None and slopes.shape != positions.shape:
            raise ValueError(f"a trajectory has velocities {list(slopes.shape)} for positions {list(positions.shape)}")
        if not np.isfinite(positions).all() or (slopes is not None and not np.isfinite(slopes).all()):
            raise ValueError("a trajectory holds NaN or infinity; nothing moves")
        if times[0] < 0 or np.any(np.diff(times) <= 0):
            raise ValueError("time_from_start must rise from point to point")
        first = times[0] > 0  # a point at the start itself replaces the present desired positions
        self._times = start + (np.concatenate([[0.0], times]) if first else times)
        self._positions = np.vstack([now, positions]) if first else positions
        if slopes is None:
            slopes = np.full_like(positions, np.nan)
            speed = np.full_like(speed, np.nan)
        self._velocities = np.vstack([speed, slopes]) if first else slopes

    def at(self, now: float) -> tuple[np.ndarray, np.ndarray]:
        """Desired positions and velocities [n] at `now`, s."""
        i = int(np.searchsorted(self._times, now, side="right")) - 1
        if i < 0 or i >= len(self._times) - 1:
            end = self._positions[0 if i < 0 else -1]
            return end.copy(), np.zeros_like(end)
        span = self._times[i + 1] - self._times[i]
        return _between((now - self._times[i]) / span, span, *self._positions[i : i + 2], *self._velocities[i : i + 2])


def _between(
    s: float, span: float, p0: np.ndarray, p1: np.ndarray, v0: np.ndarray, v1: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Position and velocity at the fraction `s` (0..1) of a segment: cubic if velocities are given, else linear."""
    if np.isnan(v0).any() or np.isnan(v1).any():
        return p0 + s * (p1 - p0), (p1 - p0) / span
    a, b = span * v0, span * v1
    c2, c3 = 3 * (p1 - p0) - 2 * a - b, 2 * (p0 - p1) + a + b
    return p0 + s * (a + s * (c2 + s * c3)), (a + s * (2 * c2 + s * 3 * c3)) / span
