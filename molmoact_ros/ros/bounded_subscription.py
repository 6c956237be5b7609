"""Subscriptions that look at a message's size before they unpack it: a huge one would hold Python for seconds."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Final

from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message

LARGEST: Final = 64 * 1024
"""Bytes of a message that a controller needs: a chunk of 255 steps for two arms has 29 kB."""


def unpacked(data: bytes, kind: type, largest: int = LARGEST) -> Any:
    """The message. Raises ValueError, in one line, where it is too large or no message of that kind."""
    if len(data) > largest:
        raise ValueError(f"a message of {len(data)} bytes; {largest} are enough for any {kind.__name__}")
    try:
        return deserialize_message(data, kind)
    except Exception as error:  # whatever the middleware raises for bytes that are no such message
        raise ValueError(f"bytes that are no {kind.__name__}: {error}") from None


def subscribe(
    node: Node, kind: type, topic: str, take: Callable[[Any, float], None], quality: QoSProfile,
    refuse: Callable[[str], None],
) -> None:  # fmt: skip
    """Hear `topic`: `take(message, sent)` with the time at which the sender's middleware sent it, s since 1970.

    refuse: is told, in one line, of what is not unpacked.
    """

    def on_data(data: bytes, info: dict[str, Any]) -> None:
        try:
            message = unpacked(data, kind)
        except ValueError as error:
            refuse(f"{topic}: refused {error}")
            return
        take(message, info["source_timestamp"] * 1e-9)

    node.create_subscription(kind, topic, on_data, quality, raw=True)
