"""Checks that ROS time runs at the rate of the machine's steady clock; otherwise stamps and ages mean nothing."""

from __future__ import annotations

from typing import Final

import numpy as np

JUMP: Final = 0.2
"""s by which the ROS clock may deviate from its expected value according to the steady clock."""
BACK: Final = 0.005
"""s by which it may go back between two checks: rounding, and /clock messages that arrive out of order."""
STILL: Final = 0.3
"""s for which simulated time may stand still: a /clock of 5 Hz or more passes."""
OTHER_CLOCK: Final = 1e7
"""s of age beyond which no clock is merely off: there is no stamp, or one side has simulated time."""
SLEW: Final = 1e-3
"""s per second of clock correction that is tolerated on a real clock: twice the kernel's slew rate under NTP
(adjtime(3): 500 ppm). A faster correction accumulates until it exceeds JUMP."""


class ClockMonitor:
    """Checks the clocks in every cycle.

    simulated: ROS time comes from /clock, which may run at another rate but must not stand still.
    """

    def __init__(self, simulated: bool) -> None:
        self._simulated = simulated
        self._last: tuple[float, float] | None = None
        self._offset, self._moved = 0.0, 0.0  # expected ROS time minus steady time; when ROS time last advanced

    def check_clocks(self, ros: float, steady: float) -> str:
        """What is wrong with the clocks at this check, in a few words; empty: nothing. Both times in s."""
        if self._last is None:
            self._last, self._offset, self._moved = (ros, steady), ros - steady, steady
            return ""
        (ros_before, steady_before), self._last = self._last, (ros, steady)
        step, passed = ros - ros_before, steady - steady_before
        if step > 0:
            self._moved = steady
        if step < -BACK:
            self._offset = ros - steady
            return f"it went back by {-step:.2f} s"
        if self._simulated:
            if steady - self._moved > STILL:
                return f"it has stood still for {steady - self._moved:.1f} s"
            return f"it jumped by {step - passed:.2f} s" if step - passed > JUMP else ""
        away = ros - steady - self._offset
        if abs(away) > JUMP:
            self._offset = ros - steady
            return f"by {away:.2f} s"
        self._offset += float(np.clip(away, -SLEW * passed, SLEW * passed))
        return ""
