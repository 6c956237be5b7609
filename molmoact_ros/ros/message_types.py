"""Topics of any type: their message class, and a QoS that loses no message."""

from __future__ import annotations

from importlib import import_module

from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy


def message_class(type_name: str) -> type | None:
    """The class of a message type such as `sensor_msgs/msg/Image`; None where it is not installed."""
    package, _, kind = type_name.partition("/msg/")
    if not package or not kind:  # another tool's type, or a service's
        return None
    try:
        found: type = getattr(import_module(f"{package}.msg"), kind)
    except (ImportError, AttributeError):
        return None
    return found


def offered(node: Node, topic: str, depth: int) -> QoSProfile:
    """The strictest QoS that all publishers of a topic offer, so that no message is lost and every one matches."""
    offers = [info.qos_profile for info in node.get_publishers_info_by_topic(topic)]
    reliable = bool(offers) and all(offer.reliability is ReliabilityPolicy.RELIABLE for offer in offers)
    kept = bool(offers) and all(offer.durability is DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
    return QoSProfile(
        depth=depth,
        reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
        durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
    )
