"""Subscriptions that exist only while somebody wants what comes of them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.node import Node
from rclpy.qos import QoSProfile


class LazySubscription:
    """A subscription that comes and goes. raw: the callback takes bytes, so that only what is used is decoded."""

    def __init__(
        self, node: Node, kind: type, topic: str, take: Callable[[Any], None], quality: QoSProfile, raw: bool = False
    ) -> None:
        self._node, self._raw = node, raw
        self._kind, self._topic, self._take, self._quality = kind, topic, take, quality
        self._subscription: Any = None

    def want(self, wanted: bool) -> None:
        """Listen, or listen no more."""
        if wanted and self._subscription is None:
            self._subscription = self._node.create_subscription(
                self._kind, self._topic, self._take, self._quality, raw=self._raw
            )
        elif not wanted and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription = None
