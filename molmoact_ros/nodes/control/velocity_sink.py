"""Velocities for a controller that holds the last one for ever: they always end at zero, within acceleration limits.

One thread sends all of them. It waits for commands and for nothing else: neither the executor nor the control loop nor
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
"""Gain that pulls a joint back to the commanded position, 1/s."""
PULL_MAX: Final = 0.1
"""Largest velocity that this gain adds, rad/s."""
RATE: Final = 100.0
"""Rate at which velocities are ramped down without commands, Hz."""
ACCELERATION: Final = 0.9
"""Largest change between two messages, as a fraction of the FR3's acceleration limit: more than the controller's own
commands use (0.8), so that the velocity catches up after a gap."""
PATIENCE: Final = 2.0
"""Periods without a further command after which velocities are ramped down."""
HEARD: Final = Duration(seconds=0.5)
"""Time for the acknowledgement of the last command, of zero."""
END: Final = 3.0
"""s within which the thread ends when it is closed; from the highest velocity it takes 0.6."""


def toward(velocity: np.ndarray, wanted: np.ndarray, seconds: float) -> np.ndarray:
    """The velocity [7] rad/s nearest to `wanted` that can be reached from `velocity` in `seconds`."""
    change = ACCELERATION * FR3.acceleration_max * seconds
    return velocity + np.clip(wanted - velocity, -change, change)


class VelocityRamp:
    """Publishes one arm's velocities on `publisher`, with a pull toward the commanded positions."""

    def __init__(self, node: Node, arm: Arm, publisher: Publisher) -> None:
        self._publisher = publisher
        self._measured = Measured(node, arm.joints, joint_states(node))
        self._command: tuple[ArmCommand, float] | None = None  # and until when it is valid, s
        self._news, self._ended, self._failure = threading.Event(), False, ""
        self._thread = threading.Thread(target=self._run, name="velocity", daemon=True)
        self._thread.start()

    def send(self, command: ArmCommand) -> None:
        """Publish a command's velocity next. It is valid for PATIENCE periods."""
        self._command = command, time.monotonic() + PATIENCE * command.period
        self._news.set()

    def fault(self) -> str:
        """Why velocities are no longer published, or ""."""
        return self._failure

    def close(self) -> None:
        """Ramp to zero, and wait for that."""
        self._command, self._ended = None, True
        self._news.set()
        self._thread.join(END)

    def _run(self) -> None:
        try:
            self._send_all()
        except Exception as error:  # such as a context that was shut down; `fault` reports it
            self._failure = f"velocities are no longer sent: {error}"
        else:
            # Destroying a publisher discards messages that are still in flight, and the robot would go on.
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
            # Of the time since the last message only one period counts: a stall of this thread permits no larger step.
            velocity, sent = toward(velocity, wanted, min(now - sent, period)), now
            self._publisher.publish(Float64MultiArray(data=velocity.tolist()))

    def _pull(self, position: np.ndarray) -> np.ndarray:
        measured = self._measured.positions()
        return np.zeros(7) if measured is None else np.clip(PULL * (position - measured), -PULL_MAX, PULL_MAX)
