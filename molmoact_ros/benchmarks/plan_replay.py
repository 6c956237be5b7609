"""A node in the policy's place that sends the plans of recorded episodes again, each to the image that asks for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from rclpy.node import Node
from sensor_msgs.msg import Image
from std_msgs.msg import String

from molmoact_ros.control.osc_pose import STEP, checkpoint_actions
from molmoact_ros.msg import ActionChunk
from molmoact_ros.nodes.benchmark_server import IN_METRES
from molmoact_ros.ros import conversions, qos

Plans = Mapping[tuple[str, int], Sequence[np.ndarray]]
"""Inputs float64 [N, 7] of OSC_POSE of each plan, by an episode's instruction and number among those of this task."""


class ReplayCursor:
    """Which plan is due: episodes come in order, and an empty instruction is between two of them."""

    def __init__(self, plans: Plans) -> None:
        self._plans, self._begun = plans, dict[str, int]()  # the number of the last episode, by instruction
        self._between, self._sent = True, 0

    def end_episode(self) -> None:
        """The next plan is of another episode."""
        self._between = True

    def next_plan(self, instruction: str) -> np.ndarray:
        """The inputs float64 [N, 7] that are due. Where an episode goes on for longer than it did, nothing moves.

        Raises ValueError for an episode that was not recorded.
        """
        if self._between:
            self._between, self._sent = False, 0
            self._begun[instruction] = self._begun.get(instruction, -1) + 1
        key = instruction, self._begun[instruction]
        if key not in self._plans:
            raise ValueError(f"there is no recorded episode {key[1]} of {instruction!r}")
        plans, self._sent = self._plans[key], self._sent + 1
        return plans[self._sent - 1] if self._sent <= len(plans) else np.array([[0.0] * 6 + [plans[-1][-1, 6]]])


class PlanReplayNode(Node):
    """Answers the images of benchmark_server as the policy does."""

    def __init__(self, plans: Plans) -> None:
        super().__init__("policy")
        self._cursor, self._count = ReplayCursor(plans), 0
        self._instruction, self._image = "", Image()  # that no plan was sent to; the image's stamp 0 is none
        self._chunks = self.create_publisher(ActionChunk, "policy/action_chunk", qos.RELIABLE)
        self.create_subscription(String, "policy/instruction", self._on_instruction, qos.RELIABLE)
        self.create_subscription(Image, "front/color/image_raw", self._on_image, qos.SENSOR)

    def _on_instruction(self, message: String) -> None:
        self._instruction = message.data
        if not message.data:
            self._cursor.end_episode()
        self._answer()

    def _on_image(self, message: Image) -> None:
        self._image = message
        self._answer()

    def _answer(self) -> None:
        """Send a plan once both came, in whichever order."""
        if not self._instruction or not self._image.header.stamp.sec:
            return
        inputs, self._count = self._cursor.next_plan(self._instruction), self._count + 1
        actions = checkpoint_actions(inputs, IN_METRES)
        self._chunks.publish(conversions.chunk_message(actions, STEP, "", self._count, self._image.header, stated=True))
        self._instruction, self._image = "", Image()
