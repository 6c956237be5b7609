"""Subscriptions that check a message's size before they deserialise it: a huge one would hold the GIL for seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

LARGEST: Final = 64 * 1024
"""Largest message that a controller reads, bytes: a chunk of 255 steps for two arms has 29 kB."""


def unpacked(data: bytes, kind: type, largest: int = LARGEST) -> Any:
    """Deserialise a message. Raises ValueError, in one line, where it is too large or not of type `kind`."""
    if len(data) > largest:
        raise ValueError(f"a message of {len(data)} bytes; {largest} are enough for any {kind.__name__}")
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # whatever the middleware raises for bytes that are not such a message
        raise ValueError(f"bytes that are no {kind.__name__}: {error}") from None


def subscribe(
    node: Node, kind: type, topic: str, take: Callable[[Any, float], None], quality: QoSProfile,
    refuse: Callable[[str], None],
) -> None:  # fmt: skip
    """Subscribe to `topic` and call `take(message, sent)`; sent: the middleware's source timestamp, s since 1970.

    refuse: receives one line about each message that is not deserialised.
    """

    def on_data(data: bytes, info: dict[str, Any]) -> None:
        try:
            message = unpacked(data, kind)
        except ValueError as error:
            refuse(f"{topic}: refused {error}")
            return
        take(message, info["source_timestamp"] * 1e-9)

    node.create_subscription(kind, topic, on_data, quality, raw=True)
