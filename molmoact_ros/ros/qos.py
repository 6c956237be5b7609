"""Qualities of service, one for each kind of topic."""

from __future__ import annotations

from typing import Final

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def sensor(depth: int) -> QoSProfile:
    """Of images and joint states: the last `depth`, whether or not some were lost. Hears reliable publishers too."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


SENSOR: Final = sensor(1)
"""Only the newest matters: images, joint states. Hears reliable publishers too."""

RELIABLE: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""Every one matters, but only now: commands, chunks, traces."""

HEARTBEAT: Final = sensor(10)
"""States that come again and again: hears publishers of every reliability and durability, and no history."""

KEPT: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
"""As before, for who may be late to look at them."""

STATE: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""The last one is told to latecomers: status, camera info."""

TF_STATIC: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""/tf_static, as tf2 has it: of every publisher, what it said last."""

TF: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE)
"""/tf, as tf2 has it."""
