"""QoS profiles, one for each kind of topic."""

from __future__ import annotations

from typing import Final

from rclpy.qos import DurabilityPolicy, HistoryPolicy, QoSProfile, ReliabilityPolicy


def sensor(depth: int) -> QoSProfile:
    """For images and joint states: the last `depth` messages, best effort. Matches reliable publishers too."""
    return QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=depth, reliability=ReliabilityPolicy.BEST_EFFORT)


SENSOR: Final = sensor(1)
"""For images and joint states of which only the newest matters. Matches reliable publishers too."""

RELIABLE: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
"""For volatile topics of which every message matters: commands, chunks, traces."""

HEARTBEAT: Final = sensor(10)
"""For states that are published periodically: matches publishers of every reliability and durability; no history."""

KEPT: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=1000, reliability=ReliabilityPolicy.RELIABLE)
"""RELIABLE for subscribers that may read late."""

STATE: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=1,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""For status and camera info: late joiners receive the last message."""

TF_STATIC: Final = QoSProfile(
    history=HistoryPolicy.KEEP_LAST,
    depth=100,
    reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)
"""/tf_static, as in tf2: the last message of every publisher."""

TF: Final = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=100, reliability=ReliabilityPolicy.RELIABLE)
"""/tf, as in tf2."""
