"""Velocities for a controller that keeps the last one for ever: they always end in zero, and accelerate within bounds.

One thread sends all of them. It waits for commands, and for nobody else: neither the executor nor the control loop nor
a lock of theirs can keep it from ramping to zero.
"""

from __future__ import annotations

import threading
import time
from typing import Final

import numpy as np
from rclpy.duration import Duration
from rclpy.node import Node
from rclpy.publisher import Publisher
from std_msgs.msg import Float64MultiArray

from molmoact_ros.nodes.control.measured_joints import Measured
from molmoact_ros.robots.command import ArmCommand
from molmoact_ros.robots.franka import FR3, Arm
from molmoact_ros.ros.arm_topics import joint_states

PULL: Final = 2.0
"""1/s; how strongly velocity commands pull a joint back to the commanded position."""
PULL_MAX: Final = 0.1
"""rad/s; the most that this adds."""
RATE: Final = 100.0
"""Hz at which a silent velocity is ramped down."""
ACCELERATION: Final = 0.9
"""Fraction of the FR3's acceleration limit that one message differs by at most from the one before: more than the
controller's own commands use (0.8), so that what they lost in a gap is caught up with."""
PATIENCE: Final = 2.0
"""Periods without a further command after which velocities are ramped down."""
HEARD: Final = Duration(seconds=0.5)
"""In which the last command, of zero, is acknowledged."""
END: Final = 3.0
"""s in which the thread has ended when it is told to; from the highest velocity it takes 0.6."""


def toward(velocity: np.ndarray, wanted: np.ndarray, seconds: float) -> np.ndarray:
    """The velocity [7] rad/s nearest to `wanted` that can be reached from `velocity` in `seconds`."""
    change = ACCELERATION * FR3.acceleration_max * seconds
    return velocity + np.clip(wanted - velocity, -change, change)


class VelocityRamp:
    """Sends one arm's velocities on `publisher`, with a pull toward the commanded positions."""

    def __init__(self, node: Node, arm: Arm, publisher: Publisher) -> None:
        self._publisher = publisher
        self._measured = Measured(node, arm.joints, joint_states(node))
        self._command: tuple[ArmCommand, float] | None = None  # and until when it counts, s
        self._news, self._ended, self._failure = threading.Event(), False, ""
        self._thread = threading.Thread(target=self._run, name="velocity", daemon=True)
        self._thread.start()

    def send(self, command: ArmCommand) -> None:
        """Have a command's velocity sent next. It counts for PATIENCE periods."""
        self._command = command, time.monotonic() + PATIENCE * command.period
        self._news.set()

    def fault(self) -> str:
        """Why no velocities are sent any more, or ""."""
        return self._failure

    def close(self) -> None:
        """Ramp to zero, and wait for that."""
        self._command, self._ended = None, True
        self._news.set()
        self._thread.join(END)

    def _run(self) -> None:
        try:
            self._send_all()
        except Exception as error:  # such as a context that has ended; `fault` says it
            self._failure = f"velocities are no longer sent: {error}"
        else:
            # A publisher that is destroyed takes with it what is still on its way, and the robot goes on.
            self._publisher.wait_for_all_acked(HEARD)

    def _send_all(self) -> None:
        velocity, sent = np.zeros(7), -np.inf
        while velocity.any() or not self._ended:
            new = self._news.wait(1.0 / RATE)
            self._news.clear()
            now, command = time.monotonic(), self._command
            playing = command is not None and now < command[1]
            if not (new if playing else velocity.any()):
                continue
            wanted, period = np.zeros(7), 1.0 / RATE
            if command is not None and playing:
                wanted, period = command[0].velocity + self._pull(command[0].position), command[0].period
            # Of the time since the last message no more counts than one period: a stall of this thread is no licence.
            velocity, sent = toward(velocity, wanted, min(now - sent, period)), now
            self._publisher.publish(Float64MultiArray(data=velocity.tolist()))

    def _pull(self, position: np.ndarray) -> np.ndarray:
        measured = self._measured.positions()
        return np.zeros(7) if measured is None else np.clip(PULL * (position - measured), -PULL_MAX, PULL_MAX)
