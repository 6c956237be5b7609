"""The graph's topics on Foxglove's websocket, without a ROS installation; subscribes only to topics with a viewer."""

from __future__ import annotations

import secrets
import socket
import threading
from typing import Any

from pydantic import BaseModel, Field
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy
from rclpy.subscription import Subscription

from molmoact_ros.bags.message_types import definition
from molmoact_ros.ros.clocks import STEADY
from molmoact_ros.ros.contained import ContainedNode
from molmoact_ros.ros.message_types import message_class, offered
from molmoact_ros.ros.parameters import declare
from molmoact_ros.ros.spin import run
from molmoact_ros.utils.secret import is_loopback

BACKLOG = 16
"""Length of a slow viewer's queue, messages; older ones are dropped, so that no backlog builds up."""
LOOK = 0.2
"""s between checks of which client watches which topic."""


ORIGINS = ["https://app.foxglove.dev", "file://"]
"""Foxglove in a browser, and its desktop application. Not "null": any page can give itself that origin."""


class FoxgloveConfig(BaseModel):
    """Parameters of the bridge. The token is no parameter: anybody on the graph could read it."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen at; any but this machine's own: token")
    port: int = Field(8765, ge=0, le=65535, description="port; 0: any that is free")
    origins: list[str] = Field(ORIGINS, description="sites whose pages may look, such as http://localhost:8080")
    token_file: str = Field("", description="file with the token; empty: ~/.config/molmoact_ros/panel_token, if needed")


class FoxgloveNode(ContainedNode):
    """The server's threads report which topics are watched; the executor's thread subscribes and forwards."""

    def __init__(self) -> None:
        super().__init__("foxglove")
        config = declare(self, FoxgloveConfig)
        try:
            import foxglove

            from molmoact_ros.panel.approval import ApprovalView
            from molmoact_ros.panel.auth import token
        except ImportError as error:
            raise RuntimeError(f"{error.name} is not installed; pip install 'molmoact_ros[foxglove]'") from None
        self._sdk = foxglove
        self._channels: dict[str, _Relay | None] = {}
        watchers = _Watchers()
        self._watchers = watchers
        self._sinks = foxglove.Context()
        secret, file = token(config.host, config.token_file)
        # The SDK's server has no authentication, so it is reachable only through the gate. It has no capabilities: no
        # client can publish, call or set anything through it.
        hidden = hidden_address()
        self._server = foxglove.start_server(
            name="MolmoAct ROS", host=hidden, port=0, capabilities=[], server_listener=watchers,
            message_backlog_size=BACKLOG, context=self._sinks,
        )  # fmt: skip
        self._gate = ApprovalView(f"ws://{hidden}:{self._server.port}", config.origins, secret)
        try:
            port = self._gate.start(config.host, config.port)
        except OSError:
            self._server.stop()
            raise
        self._discover_topics()
        self.create_timer(1.0, self._discover_topics, clock=STEADY)
        self.create_timer(LOOK, self._update_relays, clock=STEADY)
        name = config.host if is_loopback(config.host) else socket.gethostname()
        at = f"ws://{f'[{name}]' if ':' in name else name}:{port}"
        more = f", followed by /?token= and the token in {file}," if file else ""
        self.get_logger().info(f"ready: open {at}{more} in Foxglove")

    def destroy_node(self) -> None:
        """End the servers, then destroy the node."""
        self._gate.close()
        self._server.stop()
        super().destroy_node()

    def _discover_topics(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic not in self._channels:
                self._channels[topic] = None  # whatever the result, each topic is tried once
                self._channels[topic] = self._relay(topic, types[0])

    def _relay(self, topic: str, type_name: str) -> _Relay | None:
        kind = message_class(type_name)
        try:
            text = definition(type_name)
        except ValueError:
            kind = None
        if kind is None:
            self.get_logger().warning(f"{topic} is not shown: {type_name} is not installed here")
            return None
        schema = self._sdk.Schema(name=type_name, encoding="ros2msg", data=text.encode())
        channel = self._sdk.Channel(topic, message_encoding="cdr", schema=schema, context=self._sinks)
        return _Relay(self, topic, kind, channel)

    def _update_relays(self) -> None:
        watched = self._watchers.taken()
        for topic, relay in self._channels.items():
            if relay is not None:
                relay.serve(watched.get(topic, frozenset()))


def hidden_address() -> str:
    """A loopback address that no page in a local browser can guess: one of 2^24, at one of thousands of ports.

    Programs can read it in /proc, but those may join the ROS graph anyway.
    """
    return f"127.{1 + secrets.randbelow(254)}.{secrets.randbelow(256)}.{1 + secrets.randbelow(254)}"


class _Relay:
    """Forwards one topic to its channel."""

    def __init__(self, node: Node, topic: str, kind: type, channel: Any) -> None:
        self._node, self._channel = node, channel
        self._kind, self._topic, self._is_latched = kind, topic, False
        self._subscription: Subscription | None = None
        self._clients: frozenset[int] = frozenset()
        self._latched_message: bytes | None = None  # the last message, where late joiners receive it

    def serve(self, clients: frozenset[int]) -> None:
        """Subscribe while there are clients; new ones receive the last message."""
        if clients and self._subscription is None:
            quality = offered(self._node, self._topic, depth=5)
            self._is_latched = quality.durability is DurabilityPolicy.TRANSIENT_LOCAL
            self._subscription = self._node.create_subscription(
                self._kind, self._topic, self._on_message, quality, raw=True
            )
        elif not clients and self._subscription is not None:
            self._node.destroy_subscription(self._subscription)
            self._subscription, self._latched_message = None, None
        elif self._latched_message is not None and clients - self._clients:
            self._log(self._latched_message)
        self._clients = clients

    def _on_message(self, data: bytes) -> None:
        if self._is_latched:
            self._latched_message = data
        self._log(data)

    def _log(self, data: bytes) -> None:
        self._channel.log(data, log_time=self._node.get_clock().now().nanoseconds)


class _Watchers:
    """Which clients watch which topic; the server's threads update it."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._clients: dict[str, set[int]] = {}

    def taken(self) -> dict[str, frozenset[int]]:
        """The clients of each watched topic."""
        with self._lock:
            return {topic: frozenset(clients) for topic, clients in self._clients.items() if clients}

    def on_subscribe(self, client: Any, channel: Any) -> None:
        """A client subscribes to a channel."""
        with self._lock:
            self._clients.setdefault(channel.topic, set()).add(client.id)

    def on_unsubscribe(self, client: Any, channel: Any) -> None:
        """A client unsubscribes, or has disconnected."""
        with self._lock:
            self._clients.get(channel.topic, set()).discard(client.id)


def main() -> None:
    """Start the node."""
    run(FoxgloveNode)


if __name__ == "__main__":
    main()
