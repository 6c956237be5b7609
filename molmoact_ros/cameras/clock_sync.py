"""When a picture was taken, from what the camera's clock says and from when the picture arrived.

Three clocks of the host are told apart: the steady one never jumps, the system's and ROS' may. A camera's own clock
drifts and begins anew now and then. So its time is mapped to the steady clock's, which is then read as ROS time.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from math import inf
from typing import Final

MAX_DRIFT: Final = 200e-6
"""Greatest drift of a camera's clock that is believed, s/s: two crystals, each off by less than 100 ppm."""
RESTART: Final = 1.0
"""A camera whose clock is off by more than this from what was known has a new clock, s."""
STEP: Final = 0.02
"""A system clock that moves by more than this between two pictures was set, s; slewing moves it by 500 ppm at most."""
SETTLE: Final = 10.0
"""For so long after that, librealsense's global time, which follows the system's clock, is not believed, s."""
TOGETHER: Final = 1e-4
"""Clocks that are read within this time are read at one moment, s."""
READINGS: Final = 5
"""How often that is tried."""
APART: Final = 1e-6
"""Least time between the stamps of two pictures of a camera, s."""


@dataclass(frozen=True)
class HostTime:
    """One moment, as each clock of the host has it, s."""

    steady: float
    system: float
    ros: float

    @classmethod
    def now(cls, ros: Callable[[], float]) -> HostTime:
        """This moment; `ros` reads ROS' clock, s.

        A thread may be kept waiting between reading two clocks; then they are read anew.
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
    """The camera's clock against the host's steady one: at `camera` s it lay `offset` s behind it."""

    offset: float
    camera: float


def follow(fit: ClockFit | None, camera: float, arrival: float) -> ClockFit:
    """Take in that a picture of `camera` s (the camera's clock) arrived at `arrival` s (the steady clock).

    A picture arrives late, never early. So the least difference seen is nearest to the truth, and it is let grow by as
    much as the clocks may drift apart. `camera + offset` then never lies before the moment the picture was taken, nor
    behind its arrival; it is late by no more than the promptest picture was, and 2 * MAX_DRIFT a second since then.
    """
    seen = arrival - camera
    if fit is None or camera < fit.camera:
        return ClockFit(seen, camera)
    drifted = fit.offset + MAX_DRIFT * (camera - fit.camera)
    return ClockFit(seen if abs(seen - drifted) > RESTART else min(drifted, seen), camera)


@dataclass(frozen=True)
class CameraClock:
    """What is known of one camera's clock, and of the host's clocks at its last picture (stamp: steady time, s)."""

    fit: ClockFit | None = None
    lead: float | None = None  # of the system's clock over the steady one, s
    settled: float = -inf  # steady time from which on the system's clock is believed
    stamp: float = -inf


def stamped(known: CameraClock, camera: float, is_global: bool, arrived: HostTime) -> tuple[CameraClock, float]:
    """What is known with one more picture, and the ROS time at which it was taken, s.

    camera: time of the picture by the camera's clock, s; is_global: that is librealsense's global time, which is the
    system's. arrived: when it came. Stamps grow as long as ROS' clock does, and never lie behind the arrival.
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
