"""Operators' drawings at the policy's topics: validated, followed as the gripper advances, and ended."""

from __future__ import annotations

import time

import numpy as np
from rclpy.node import Node

from molmoact_ros.msg import EngineStatus, Trace
from molmoact_ros.nodes.planning.gripper_projection import GripperProjection
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace_steering import DONE, Steering
from molmoact_ros.ros import conversions


class OperatorTrace:
    """The operator's trace in use, and the gripper's progress along it. Call it under the inference thread's lock."""

    def __init__(self, node: Node, camera: str, joint_states: str, max_age: float, timeout: float) -> None:
        """camera: name of the front one; joint_states: topic; max_age, timeout: s, as in Steering."""
        self._node = node
        self._steering, self._hand = Steering(max_age, timeout), GripperProjection(node, camera, joint_states)
        self._frame, self._log = conversions.optical_frame(camera), node.get_logger()
        self.camera_frame = ""
        """The front image's frame, as its driver names it: what is drawn on that image or its overlay may bear it."""

    @property
    def trace(self) -> np.ndarray | None:
        """The rest of the trace, int64 [n, 2] in 0..255; None without one."""
        return self._steering.trace

    @property
    def done(self) -> bool:
        """Whether the last trace ended because the gripper reached its end."""
        return self._steering.message.startswith(DONE)

    def check(self, message: Trace, shown: float | None = None) -> np.ndarray:
        """The trace of a valid drawing, int64 [n, 2] in 0..255. Raises RefusedStep for any other.

        shown: stamp of the image of a plan that waits for approval, s.
        """
        if message.header.frame_id not in ("", self._frame, self.camera_frame):
            frame = message.header.frame_id[:60]
            raise RefusedStep(f"the drawing is in {frame!r}; draw on the image of {self.camera_frame or self._frame}")
        picture, now = conversions.seconds(message.header.stamp), self._node.get_clock().now().nanoseconds * 1e-9
        return self._steering.check(conversions.stroke(message), picture, now, shown)

    def take_trace(self, trace: np.ndarray, message: Trace) -> None:
        """Follow a drawing's validated trace, int64 [n, 2] in 0..255, from now on."""
        self._steering.take_trace(trace, conversions.seconds(message.header.stamp), time.monotonic())
        self._hand.open()

    def refuse(self, reason: str) -> None:
        """Publish why a drawing is not used, for senders that do not wait for a response."""
        self._steering.message = f"a drawing was refused: {reason}"

    def end(self, why: str) -> bool:
        """Stop following the trace; False when there was none."""
        self._hand.close()
        return self._steering.end(why, time.monotonic())

    def advance(self) -> bool:
        """Drop the points that the gripper has passed; True when the trace ended by that, or by its timeout."""
        if self.trace is None:
            return False
        hand = self._hand.place()
        if hand is None:
            self._log.warning(
                "where the gripper is in the image is not known (joint states, camera_info and the camera's place in "
                "/tf_static are needed): the drawing is followed whole until it is cleared",
                throttle_duration_sec=10.0, skip_first=True,
            )  # fmt: skip
        ended = self._steering.advance(hand, time.monotonic())
        if ended:
            self._hand.close()
        return ended

    def write_status(self, status: EngineStatus) -> None:
        """Write the trace's state into the status."""
        drawn = self._steering
        status.trace_source = Trace.MODEL if drawn.trace is None else Trace.HUMAN
        status.trace_age, status.trace_points_left = drawn.age(time.monotonic()), drawn.left
        status.trace_message = drawn.message
