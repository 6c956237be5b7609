"""The SafetyStatus message of a controller."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk
from molmoact_ros.control.controller import Controller
from molmoact_ros.control.supervisor import State
from molmoact_ros.msg import SafetyStatus

STATES: Final = {
    State.IDLE: SafetyStatus.IDLE,
    State.POLICY: SafetyStatus.POLICY,
    State.TELEOP: SafetyStatus.TELEOP,
    State.HOLD: SafetyStatus.HOLD,
    State.STOPPED: SafetyStatus.STOPPED,
}


def safety_status(controller: Controller, chunk: ActionChunk | None, now: float) -> SafetyStatus:
    """The controller's status at `now`, s of ROS time, playing `chunk`; without its header and warnings."""
    supervisor, player, status = controller.supervisor, controller.arms[0].player, SafetyStatus()
    status.state = STATES[supervisor.state]
    status.reason = "" if supervisor.state is State.POLICY else supervisor.reason
    status.chunk_age = status.joints_age = -1.0
    if chunk is not None:
        length = chunk.dt * len(chunk.actions)
        status.plan_id, status.chunk_age = chunk.plan_id, now - chunk.stamp
        status.progress = float(np.clip(1.0 - player.remaining / length, 0.0, 1.0)) if player.loaded else 1.0
    if all(arm.measured is not None for arm in controller.arms):
        status.joints_age = now - min(arm.measured_at for arm in controller.arms)
    status.latency = player.latency.seconds
    counts = controller.counts
    status.limits, status.limit_counts = list(counts), list(counts.values())
    status.refused = counts.pop("refused")
    status.clipped = sum(counts.values())
    return status
