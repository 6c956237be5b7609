"""Estimates the ROS time of a frame from the camera's timestamp and the frame's arrival time.

The host has three clocks: the steady (monotonic) one never jumps; the system clock and the ROS clock may. A camera's
own clock drifts and restarts now and then. The camera's time is therefore mapped to the steady clock, and from there to
ROS time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

MAX_DRIFT: Final = 200e-6
"""Maximum relative drift of camera clock and host clock, s/s: two crystals, each off by less than 100 ppm."""
RESTART: Final = 1.0
"""A camera clock that deviates from its estimate by more than this has restarted, s."""
STEP: Final = 0.02
"""A system clock that jumps by more than this between two frames was set, s; slewing moves it by 500 ppm at most."""
SETTLE: Final = 10.0
"""Time after such a jump during which librealsense's global time, which follows the system clock, is ignored, s."""
TOGETHER: Final = 1e-4
"""Readings of several clocks within this time count as simultaneous, s."""
READINGS: Final = 5
"""Attempts to read the clocks simultaneously."""
APART: Final = 1e-6
"""Minimum time between the stamps of two frames of a camera, s."""


@dataclass(frozen=True)
class HostTime:
    """One instant on each clock of the host, s."""

    steady: float
    system: float
    ros: float

    @classmethod
    def now(cls, ros: Callable[[], float]) -> HostTime:
        """The current time. ros: reads the ROS clock, s.

        If the thread is preempted between two clocks, they are read again.
        """
        readings = []
        for _ in range(READINGS):
            before, system, there, after = time.monotonic(), time.time(), ros(), time.monotonic()
            readings.append((after - before, cls((before + after) / 2, system, there)))
            if after - before < TOGETHER:
                break
        return min(readings, key=lambda reading: reading[0])[1]


@dataclass(frozen=True)
class ClockFit:
    """The offset of the host's steady clock from the camera's clock: `offset` s, at camera time `camera` s."""

    offset: float
    camera: float


def follow(fit: ClockFit | None, camera: float, arrival: float) -> ClockFit:
    """Update the fit with a frame of camera time `camera`, s, that arrived at steady time `arrival`, s.

    A frame arrives late, never early, so the smallest difference seen is the best estimate; it may grow by the maximum
    drift of the clocks. `camera + offset` therefore lies neither before the capture nor after the arrival. It is late
    by at most the smallest transport delay seen, plus 2 * MAX_DRIFT a second since then.
    """
    seen = arrival - camera
    if fit is None or camera < fit.camera:
        return ClockFit(seen, camera)
    drifted = fit.offset + MAX_DRIFT * (camera - fit.camera)
    return ClockFit(seen if abs(seen - drifted) > RESTART else min(drifted, seen), camera)


@dataclass(frozen=True)
class CameraClock:
    """State of one camera's clock estimate, and the host's clocks at its last frame (stamp: steady time, s)."""

    fit: ClockFit | None = None
    lead: float | None = None  # system clock minus steady clock, s
    settled: float = -inf  # steady time from which on the system clock is trusted
    stamp: float = -inf


def stamped(known: CameraClock, camera: float, is_global: bool, arrived: HostTime) -> tuple[CameraClock, float]:
    """Update the state with one frame; return the new state and the frame's capture time in ROS time, s.

    camera: the frame's time on the camera's clock, s. is_global: whether that is librealsense's global time, which is
    system time. arrived: the arrival time. Stamps increase as long as the ROS clock does, and never lie after the
    arrival.
    """
    fit = follow(known.fit, camera, arrived.steady)
    lead = arrived.system - arrived.steady
    was_set = known.lead is not None and abs(lead - known.lead) > STEP
    settled = arrived.steady + SETTLE if was_set else known.settled
    taken = camera + fit.offset
    if is_global and arrived.steady >= settled and 0.0 <= arrived.system - camera <= RESTART:
        taken = camera - lead
    taken = min(max(taken, known.stamp + APART), arrived.steady)
    return CameraClock(fit, lead, settled, taken), arrived.ros - (arrived.steady - taken)
