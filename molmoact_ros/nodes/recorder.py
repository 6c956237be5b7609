"""Writes every topic into an MCAP bag, message by message, and the parameters of all nodes with them."""

from __future__ import annotations

import os
import re
import time
from functools import partial
from pathlib import Path
from typing import Any, Final, NamedTuple

from diagnostic_msgs.msg import DiagnosticArray
from pydantic import BaseModel, Field
from rcl_interfaces.msg import Parameter, ParameterEvent
from rcl_interfaces.srv import GetParameters, ListParameters
from rclpy.client import Client
from rclpy.clock import Clock, ClockType
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy
from rclpy.task import Future

from molmoact_ros.bags.bag import BagMessage, BagWriter, Qos
from molmoact_ros.bags.image_codec import PICTURES, Form
from molmoact_ros.bags.recorder import MIB, Recorder, keep_memory
from molmoact_ros.ros import qos
from molmoact_ros.ros.diagnostics import status
from molmoact_ros.ros.message_types import message_class, offered
from molmoact_ros.ros.parameters import Regex, declare, refuse_misspelt
from molmoact_ros.ros.polling import PollingSubscription, Taken
from molmoact_ros.ros.spin import run
from molmoact_ros.utils.paths import fastdds_profile
from molmoact_ros.utils.provenance import machine

KEEP_ALL: Final = QoSProfile(
    depth=100, reliability=ReliabilityPolicy.RELIABLE, durability=DurabilityPolicy.TRANSIENT_LOCAL
)
LOOK: Final = 0.2
"""s between discoveries of new topics and nodes."""
TAKE: Final = 0.05
"""s between polls of the subscriptions: a camera at 60 Hz sends three images meanwhile."""
REMINDER: Final = 10.0
"""s between log lines on the recording's progress."""


class RecorderConfig(BaseModel):
    """Parameters of the recorder node."""

    bag: str = Field("bag", min_length=1, description="folder of the bag; must not exist yet")
    exclude: list[Regex] = Field(
        [r"/view/(?!markers).*", r".*/model_overlay.*", r".*/depth_image"],
        description="topics left out besides those of actions, as regular expressions: images made of others",
    )
    images: Form = Field("raw", description="raw; png: without loss; jpeg: colour as JPEG, depth as PNG")
    quality: int = Field(95, ge=1, le=100, description="of JPEG")
    max_bag_size: int = Field(2048, ge=0, description="MiB after which the bag goes on in another file; 0: never")
    max_bag_duration: float = Field(600.0, ge=0, description="s after which it does; 0: never")
    waiting: int = Field(128, ge=1, description="MiB of images, and as many of others, that may wait for the disk")
    reserve: int = Field(16, ge=0, description="MiB of the disk set aside for what is no image")
    awaited: list[str] = Field([], description="topics that the status names until a message of each has come")


OVERLAP: Final = 1.0
"""s for which both subscriptions of a topic that is subscribed to anew are received: no message falls between them."""


class RecordedTopic(NamedTuple):
    """A recorded topic's type, subscription and QoS."""

    type_name: str
    polled: PollingSubscription
    quality: QoSProfile


class Handover(NamedTuple):
    """A topic's former subscription, which is received until the steady time `until`, s.

    seen: send times and data of the messages that either subscription received meanwhile.
    """

    polled: PollingSubscription
    until: float
    seen: set[tuple[int, bytes]]


class RecorderNode(Node):
    """Discovers topics and nodes, subscribes to each topic with its publishers' QoS, and polls the subscriptions."""

    def __init__(self) -> None:
        super().__init__("recorder")
        self.config = declare(self, RecorderConfig)
        refuse_misspelt(self)  # before there is a bag
        # The hidden topics of actions have types of their own, which no bag of Jazzy holds.
        self._exclude = [re.compile(pattern) for pattern in (".*/_action/.*", *self.config.exclude) if pattern]
        folder = Path(self.config.bag)
        writer = BagWriter(
            folder, about=machine(""), max_bytes=self.config.max_bag_size * MIB,
            max_ns=round(self.config.max_bag_duration * 1e9),
        )  # fmt: skip
        self._recorder = Recorder(
            writer, folder, self.config.images, self.config.quality, self.config.waiting * MIB,
            self.config.reserve * MIB, self.get_logger().error,
        )  # fmt: skip
        self._topics: dict[str, int] = {}  # how many publishers each had at the last discovery
        self._polled: dict[str, RecordedTopic] = {}
        self._former: dict[str, Handover] = {}
        self._taken = self._clocks()  # time of the last poll, ns: by the machine's clock, by ROS'
        self._awaited = set(self.config.awaited)
        self._nodes: set[str] = set()  # whose parameters are known, or requested
        self._parameter_clients: dict[str, tuple[Client, Client]] = {}
        # Published for the bag: each node's parameters when it was discovered. Changes are on /parameter_events.
        self._recorded_parameters = self.create_publisher(ParameterEvent, "~/parameters", KEEP_ALL)
        self._diagnostics = self.create_publisher(DiagnosticArray, "/diagnostics", qos.RELIABLE)
        self._look()
        steady = Clock(clock_type=ClockType.STEADY_TIME)  # a bag's clock may stand, or not have begun
        for seconds, do in (
            (LOOK, self._look), (TAKE, self._take), (1.0, self._report),
            (REMINDER, lambda: self._log_size("recording")),
        ):  # fmt: skip
            self.create_timer(seconds, do, clock=steady)
        self.get_logger().info(f"ready: recording into {folder}")

    def destroy_node(self) -> None:
        """Finish the bag, then destroy the node."""
        self._take()
        super().destroy_node()
        self._recorder.close()
        self._log_size("recorded")

    def _look(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic not in self._topics and any(pattern.fullmatch(topic) for pattern in self._exclude):
                continue
            count = self.count_publishers(topic)
            if count and count != self._topics.get(topic):  # without publishers, their QoS is unknown
                self._record(topic, types[0]) if topic not in self._topics else self._listen_again(topic)
                self._topics[topic] = count
        names = {f"{space.rstrip('/')}/{name}" for name, space in self.get_node_names_and_namespaces()}
        for node in names - self._nodes - {self.get_fully_qualified_name()}:
            self._request_parameters(node)

    # Topics

    def _record(self, topic: str, type_name: str) -> None:
        kind = message_class(type_name)
        # A queue of large images would be as large as everything that may wait for the disk.
        quality = offered(self, topic, depth=10 if type_name in PICTURES else 1000)
        try:
            if kind is None:
                raise ValueError("its package was not found")
            self._recorder.offer(topic, type_name, [as_metadata(quality)])
        except ValueError as error:
            self.get_logger().warning(f"{topic} is not recorded: {type_name} is not installed here ({error})")
            return
        self._polled[topic] = RecordedTopic(type_name, PollingSubscription(self, kind, topic, quality), quality)

    def _listen_again(self, topic: str) -> None:
        """Relax the QoS where a later publisher offers less: otherwise none of its messages would match."""
        listener = self._polled.get(topic)
        if listener is None or topic in self._former:
            return
        quality = offered(self, topic, listener.quality.depth)
        less = [
            word
            for word, before, now in (
                ("reliable", listener.quality.reliability, quality.reliability),
                ("transient local", listener.quality.durability, quality.durability),
            )
            if before != now and now in (ReliabilityPolicy.BEST_EFFORT, DurabilityPolicy.VOLATILE)
        ]
        if not less:
            return
        self.get_logger().warning(
            f"{topic} has a later publisher that is not {' and '.join(less)}, unlike the first: both are recorded from "
            "now on, as that one offers it"
        )
        kind = message_class(listener.type_name)
        assert kind is not None
        self._former[topic] = Handover(listener.polled, time.monotonic() + OVERLAP, set())
        self._polled[topic] = RecordedTopic(
            listener.type_name, PollingSubscription(self, kind, topic, quality), quality
        )

    def _take(self) -> None:
        """Pass received messages to the writer, oldest first, stamped with the middleware's reception time."""
        since, self._taken = self._taken, self._clocks()
        messages = [
            BagMessage(topic, listener.type_name, data, ros_time(heard, since, self._taken))
            for topic, listener in self._polled.items()
            for data, heard, _ in self._received(topic, listener)
        ]
        for message in sorted(messages, key=lambda message: message.stamp_ns):
            self._recorder.put(message)

    def _received(self, topic: str, listener: RecordedTopic) -> list[Taken]:
        """Messages of a topic since the last poll; those of two overlapping subscriptions once."""
        new = listener.polled.take_serialized()
        if new:
            self._awaited.discard(topic)
        former = self._former.get(topic)
        if former is None:
            return new
        out = []
        for taken in [*former.polled.take_serialized(), *new]:
            if (taken.sent, taken.data) not in former.seen:
                former.seen.add((taken.sent, taken.data))
                out.append(taken)
        if time.monotonic() > former.until:
            former.polled.close()
            del self._former[topic]
        return out

    def _clocks(self) -> tuple[int, int]:
        return time.time_ns(), self.get_clock().now().nanoseconds

    # Parameters

    def _request_parameters(self, node: str) -> None:
        """Request a node's parameters, once its services are up, and publish them as if it had just declared them."""
        if node not in self._parameter_clients:
            self._parameter_clients[node] = (
                self.create_client(ListParameters, f"{node}/list_parameters"),
                self.create_client(GetParameters, f"{node}/get_parameters"),
            )
        lister, getter = self._parameter_clients[node]
        if not (lister.service_is_ready() and getter.service_is_ready()):
            return
        self._nodes.add(node)

        def names_came(future: Future) -> None:
            names = future.result().result.names
            got = getter.call_async(GetParameters.Request(names=names))
            got.add_done_callback(partial(values_came, names))

        def values_came(names: list[str], future: Future) -> None:
            event = ParameterEvent(node=node, stamp=self.get_clock().now().to_msg())
            values = future.result().values
            event.new_parameters = [Parameter(name=n, value=v) for n, v in zip(names, values, strict=True)]
            self._recorded_parameters.publish(event)
            for client in self._parameter_clients.pop(node):
                self.destroy_client(client)

        lister.call_async(ListParameters.Request()).add_done_callback(names_came)

    # Progress

    def _report(self) -> None:
        for topic in self._polled:  # a publisher may have been replaced between two discoveries
            if self.count_publishers(topic):
                self._listen_again(topic)
        tally = self._recorder.tally
        lost = tally.pictures + tally.others
        values = {
            "messages": tally.messages,
            "bytes": tally.bytes,
            "pictures_lost": tally.pictures,
            "others_lost": tally.others,
            "awaited": " ".join(sorted(self._awaited)),
        }
        text = tally.problem or f"into {self.config.bag}"
        message = DiagnosticArray(status=[status(f"{self.get_name()}: bag", lost > 0, text, values, "disk")])
        message.header.stamp = self.get_clock().now().to_msg()
        self._diagnostics.publish(message)

    def _log_size(self, what: str) -> None:
        tally = self._recorder.tally
        lost = f"; lost: {tally.pictures} images, {tally.others} others ({tally.problem})" if tally.problem else ""
        self.get_logger().info(f"{what}: {tally.messages} messages, {tally.bytes / MIB:.1f} MiB{lost}")


def ros_time(heard: int, since: tuple[int, int], until: tuple[int, int]) -> int:
    """A time of the machine's clock, ns, by ROS' clock, which may be simulated: interpolated between two readings."""
    (began, first), (ended, last) = since, until
    if not first:  # a simulated clock that was not there yet
        return last
    share = min(1.0, max(0.0, (heard - began) / max(1, ended - began)))
    return first + round(share * (last - first))


def as_metadata(profile: QoSProfile) -> Qos:
    """A QoS profile in the format of rosbag2's metadata.yaml."""
    forever: Any = {"sec": 9223372036, "nsec": 854775807}
    return {
        "history": "keep_last", "depth": profile.depth,
        "reliability": "reliable" if profile.reliability is ReliabilityPolicy.RELIABLE else "best_effort",
        "durability": "transient_local" if profile.durability is DurabilityPolicy.TRANSIENT_LOCAL else "volatile",
        "deadline": forever, "lifespan": forever, "liveliness": "automatic", "liveliness_lease_duration": forever,
        "avoid_ros_namespace_conventions": False,
    }  # fmt: skip


def free_payloads() -> None:
    """Let Fast DDS free each message that was read, by the reader's profile in config/fastdds.xml.

    By default (PREALLOCATED_WITH_REALLOC) a subscription keeps memory for as many messages as ever waited in it: after
    a second without the processor, a recorder of four image topics was 25 MB larger for good. Where the user has chosen
    a profile of their own, it stays as it is.
    """
    if os.environ.get("FASTRTPS_DEFAULT_PROFILES_FILE") == str(fastdds_profile()):
        os.environ.setdefault("RMW_FASTRTPS_USE_QOS_FROM_XML", "1")


def main() -> None:
    """Start the node. Its priority is not lowered: the controller publishes to it under a lock that both share."""
    keep_memory()
    free_payloads()
    run(RecorderNode)


if __name__ == "__main__":
    main()
