"""Subscriptions of the controller to the policy's topics: chunks to play, and chunks that wait for approval."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Sequence

import numpy as np
from rclpy.logging import LoggingSeverity
from rclpy.node import Node

from molmoact_ros.control.action_chunk import ActionChunk as Chunk
from molmoact_ros.control.action_chunk import ActionSpace
from molmoact_ros.control.controller import Controller
from molmoact_ros.msg import ActionChunk
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.ros import conversions, qos
from molmoact_ros.ros.bounded_subscription import subscribe
from molmoact_ros.ros.logging import ThreadedLog


class ChunkInputs:
    """Passes chunks to the controller under `lock`. played: the last one that it accepted; None before."""

    def __init__(
        self,
        node: Node,
        policy: str,
        controller: Controller,
        lock: threading.Lock,
        keys: Sequence[str],
        log: ThreadedLog,
        refuse: Callable[[str], None],
    ) -> None:
        """policy: node name of the planner; keys: un-normalisation keys whose convention somebody has checked."""
        self._node, self._controller, self._lock, self._log, self._refuse = node, controller, lock, log, refuse
        arms = [arm.arm for arm in controller.arms]
        self._frames = {"", arms[0].base_frame} if len(arms) == 1 else {""}
        self._keys = {"", *keys}
        self.played: Chunk | None = None
        subscribe(node, ActionChunk, f"{policy}/action_chunk", self._on_chunk, qos.RELIABLE, refuse)
        subscribe(node, ActionChunk, f"{policy}/pending_chunk", self._on_pending, qos.RELIABLE, refuse)

    def _converted(self, message: ActionChunk) -> Chunk:
        """Convert a message to a chunk. Raises RefusedStep where its frame or its key is not this arm's."""
        frame, key = message.header.frame_id, message.unnorm_key
        if frame not in self._frames:
            raise RefusedStep(f"its actions are in the frame {frame!r}; plan in {' or '.join(map(repr, self._frames))}")
        if not message.stated and key not in self._keys:
            raise RefusedStep(
                f"nobody has said what the numbers of the key {key!r} mean (units, frame, rotations, signs): state it "
                "in the checkpoint's run.json, or check them against msg/ActionChunk.msg and list the key in the "
                "controller's parameter unnorm_keys"
            )
        stamp = conversions.seconds(message.header.stamp)
        try:
            actions = conversions.chunk_actions(message)
        except RefusedStep:
            actions = np.zeros((0, 0))  # malformed, so the controller refuses it
        known = message.action_space in set(ActionSpace)
        space = ActionSpace(message.action_space) if known else ActionSpace.DELTA_EE
        return Chunk(actions, message.dt, stamp, message.plan_id, space)

    def _on_chunk(self, message: ActionChunk, sent: float) -> None:
        try:
            chunk = self._converted(message)
        except RefusedStep as refusal:
            with self._lock:
                self._controller.refuse(str(refusal))
            self._refuse(f"chunk not played: {refusal}")
            return
        now = float(self._node.get_clock().now().nanoseconds * 1e-9)
        with self._lock:
            played = self._controller.on_chunk(chunk, now, time.monotonic())
            reason = self._controller.last_refusal
        if played:
            self.played = chunk
        else:
            self._log.note(f"chunk not played: {reason}", LoggingSeverity.WARN)

    def _on_pending(self, message: ActionChunk, sent: float) -> None:
        try:
            chunk = self._converted(message)
        except RefusedStep:
            return  # the controller will refuse it when it is to be played
        with self._lock:
            self._controller.consent.show(chunk)
