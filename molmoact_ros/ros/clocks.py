"""Two clocks: deadlines use the steady one, which nobody can set; steps of ROS time are detected."""

from __future__ import annotations

from typing import Final

from rclpy.clock import Clock, ClockType

STEADY: Final = Clock(clock_type=ClockType.STEADY_TIME)
"""For `create_timer`: a node's own clock stops with its simulator, and jumps back with it."""
BACK: Final = 0.05
"""s that ROS time may go back: several publishers of /clock differ slightly, and clocks are slewed."""
FORWARD: Final = 0.5
"""s that ROS time may gain on the steady clock between two calls: simulators may run faster than real time."""


class ClockJumps:
    """Detects that ROS time was set: a simulator's reset, a bag that starts over, a step by NTP."""

    def __init__(self) -> None:
        self._latest, self._steady = 0.0, 0.0

    def moved(self, ros: float, steady: float) -> float:
        """By how much ROS time was set since the last call, s, < 0: back; 0.0 while it runs or stands still.

        ros, steady: the two clocks now, s. Simulated time is 0 before the first /clock; its start is no jump.
        """
        gained, passed, known = ros - self._latest, steady - self._steady, self._latest > 0.0
        back, forward = gained < -BACK, gained - passed > FORWARD
        self._latest, self._steady = ros if back else max(ros, self._latest), steady
        return (gained if back else gained - passed) if known and (back or forward) else 0.0
