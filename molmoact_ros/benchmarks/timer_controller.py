"""The controller with an rclpy timer, as a baseline for its own realtime loop."""

from __future__ import annotations

from molmoact_ros.nodes.controller import ControllerNode
from molmoact_ros.ros.spin import run


class TimerController(ControllerNode):
    """Runs its cycle in an rclpy timer, as rclpy's tutorials do."""

    def _begin_loop(self) -> None:
        self.create_timer(self._period, lambda: self._cycle(0.0))


if __name__ == "__main__":
    run(TimerController)
