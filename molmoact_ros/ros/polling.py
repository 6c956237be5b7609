"""Subscriptions that are asked what has come, instead of waking the node for each message.

Waking up costs an executor in Python up to half a millisecond, since it gathers everything that it waits for anew. Who
only keeps messages, or looks at the newest now and then, saves most of that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message


class Taken(NamedTuple):
    """A serialised message. heard, sent: when, by the middleware of either side, ns since 1970."""

    data: bytes
    heard: int
    sent: int


class PollingSubscription:
    """One such subscription. What waits longer than `quality.depth` messages is lost, as for any reader."""

    def __init__(self, node: Node, kind: type, topic: str, quality: QoSProfile, largest: int | None = None) -> None:
        """largest: bytes of a serialised message beyond which it is left out unread; `refusal` then says so."""
        self._node, self._kind, self._largest = node, kind, largest
        self.refusal = ""
        self._subscription = node.create_subscription(
            kind, topic, lambda data: None, quality, callback_group=_Quiet(), raw=True
        )  # fmt: skip

    def take_serialized(self) -> list[Taken]:
        """What has come since the last time, oldest first."""
        taken, reader = [], self._subscription.handle
        with reader:
            while (message := reader.take_message(self._kind, True)) is not None:
                data, info = message
                if self._largest is None or len(data) <= self._largest:
                    taken.append(Taken(data, info["received_timestamp"], info["source_timestamp"]))
                else:
                    topic = self._subscription.topic_name
                    self.refusal = f"{len(data)} bytes on {topic} are refused; at most {self._largest} are read"
        return taken

    def messages(self) -> list[Any]:
        """The same, deserialised."""
        return [deserialize_message(taken.data, self._kind) for taken in self.take_serialized()]

    def newest(self) -> Any:
        """The last of them, deserialised, or None."""
        taken = self.take_serialized()
        return deserialize_message(taken[-1].data, self._kind) if taken else None

    def close(self) -> None:
        """Listen no more."""
        self._node.destroy_subscription(self._subscription)


class LazyPollingSubscription:
    """One that comes and goes with who wants it; there is nothing to take while it is not there."""

    def __init__(self, node: Node, kind: type, topic: str, quality: QoSProfile, largest: int | None = None) -> None:
        """As Polled's."""
        self._make = lambda: PollingSubscription(node, kind, topic, quality, largest)
        self._polled: PollingSubscription | None = None

    @property
    def wanted(self) -> bool:
        """It is there."""
        return self._polled is not None

    def want(self, wanted: bool) -> None:
        """Listen, or listen no more."""
        if wanted and self._polled is None:
            self._polled = self._make()
        elif not wanted and self._polled is not None:
            self._polled.close()
            self._polled = None

    def take_serialized(self) -> list[Taken]:
        """As Polled.take."""
        return [] if self._polled is None else self._polled.take_serialized()

    def messages(self) -> list[Any]:
        """As Polled.messages."""
        return [] if self._polled is None else self._polled.messages()

    def newest(self) -> Any:
        """As Polled.newest."""
        return None if self._polled is None else self._polled.newest()


class _Quiet(CallbackGroup):
    """What is in it never wakes an executor."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
