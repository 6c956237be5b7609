"""Subscriptions that a node polls, instead of being woken for each message.

A wake-up costs a Python executor up to half a millisecond, since it collects everything that it waits for anew. Nodes
that only store messages, or read the newest now and then, save most of that.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from rclpy.callback_groups import CallbackGroup
from rclpy.node import Node
from rclpy.qos import QoSProfile
from rclpy.serialization import deserialize_message


class Taken(NamedTuple):
    """A serialised message. heard, sent: reception and source timestamp of the middleware, ns since 1970."""

    data: bytes
    heard: int
    sent: int


class PollingSubscription:
    """A subscription whose messages stay in the middleware's queue until they are taken.

    The queue holds `quality.depth` messages; older ones are lost, as in any subscription.

    Args of `__init__`:
        node: owns the subscription; its executor is never woken by it.
        kind: message class, such as sensor_msgs.msg.JointState.
        topic: name; a relative one is in the node's namespace.
        quality: QoS profile, such as qos.SENSOR.
        largest: bytes of a serialised message beyond which it is dropped unread; `refusal` then gives the reason, in
            one line. None: no limit.

    Example:
        joints = PollingSubscription(node, JointState, "joint_states", qos.SENSOR)
        newest = joints.newest()  # a JointState, or None where none has arrived since the last call
    """

    def __init__(self, node: Node, kind: type, topic: str, quality: QoSProfile, largest: int | None = None) -> None:
        """largest: bytes of a serialised message beyond which it is dropped unread; `refusal` then gives the reason."""
        self._node, self.kind, self._largest = node, kind, largest
        self.refusal = ""
        self._subscription = node.create_subscription(
            kind, topic, lambda data: None, quality, callback_group=_Quiet(), raw=True
        )  # fmt: skip

    def take_serialized(self) -> list[Taken]:
        """Messages received since the last call, oldest first."""
        taken, reader = [], self._subscription.handle
        with reader:
            while (message := reader.take_message(self.kind, True)) is not None:
                data, info = message
                if self._largest is None or len(data) <= self._largest:
                    taken.append(Taken(data, info["received_timestamp"], info["source_timestamp"]))
                else:
                    topic = self._subscription.topic_name
                    self.refusal = f"{len(data)} bytes on {topic} are refused; at most {self._largest} are read"
        return taken

    def messages(self) -> list[Any]:
        """Messages received since the last call, oldest first, deserialised."""
        return [deserialize_message(taken.data, self.kind) for taken in self.take_serialized()]

    def newest(self) -> Any:
        """The newest message received since the last call, deserialised, or None."""
        taken = self.take_serialized()
        return deserialize_message(taken[-1].data, self.kind) if taken else None

    def close(self) -> None:
        """Destroy the subscription."""
        self._node.destroy_subscription(self._subscription)


class LazyPollingSubscription:
    """A PollingSubscription that exists only while it is wanted; without it there are no messages."""

    def __init__(self, node: Node, kind: type, topic: str, quality: QoSProfile, largest: int | None = None) -> None:
        """Args: see PollingSubscription."""
        self._make = lambda: PollingSubscription(node, kind, topic, quality, largest)
        self._polled: PollingSubscription | None = None

    @property
    def wanted(self) -> bool:
        """Whether the subscription exists."""
        return self._polled is not None

    def want(self, wanted: bool) -> None:
        """Create or destroy the subscription."""
        if wanted and self._polled is None:
            self._polled = self._make()
        elif not wanted and self._polled is not None:
            self._polled.close()
            self._polled = None

    def take_serialized(self) -> list[Taken]:
        """See PollingSubscription.take_serialized."""
        return [] if self._polled is None else self._polled.take_serialized()

    def messages(self) -> list[Any]:
        """See PollingSubscription.messages."""
        return [] if self._polled is None else self._polled.messages()

    def newest(self) -> Any:
        """See PollingSubscription.newest."""
        return None if self._polled is None else self._polled.newest()


class _Quiet(CallbackGroup):
    """A callback group whose entities never wake an executor."""

    def can_execute(self, entity: Any) -> bool:
        return False

    def beginning_execution(self, entity: Any) -> bool:
        return False

    def ending_execution(self, entity: Any) -> None:
        pass
