"""Callbacks that log their exceptions: one malformed message or late response must not end a display node."""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import Future, InvalidStateError
from contextlib import suppress
from functools import wraps
from typing import Any, TypeVar

from rclpy.node import Node
from rclpy.task import Future as RosFuture

Value = TypeVar("Value")


def contained(node: Node, callback: Callable[..., Any]) -> Callable[..., Any]:
    """Wrap `callback`: an exception that it raises is logged, at most once in five seconds, and not propagated."""

    @wraps(callback)  # rclpy inspects its signature
    def call(*arguments: Any) -> Any:
        try:
            return callback(*arguments)
        except Exception as error:
            text = f"{getattr(callback, '__name__', 'callback')}: {error!r}"[:300]
            node.get_logger().error(f"not handled, and passed over: {text}", throttle_duration_sec=5.0)
            return None

    return call


def settle(future: Future[Value], value: Value) -> None:
    """Complete a future, unless its waiter has cancelled it."""
    with suppress(InvalidStateError):
        future.set_result(value)


class ContainedNode(Node):
    """A node whose subscriptions, timers and futures are contained. For nodes that send no commands on their own."""

    def create_subscription(self, kind: Any, topic: str, callback: Any, *arguments: Any, **options: Any) -> Any:
        """See Node.create_subscription."""
        return super().create_subscription(kind, topic, contained(self, callback), *arguments, **options)

    def create_timer(self, period: float, callback: Any, *arguments: Any, **options: Any) -> Any:
        """See Node.create_timer."""
        return super().create_timer(period, contained(self, callback), *arguments, **options)

    def when_done(self, future: RosFuture, act: Callable[[RosFuture], None]) -> None:
        """Call `act` with an rclpy future once it is done."""
        future.add_done_callback(contained(self, act))
