"""Writes every topic into an MCAP bag, as it passes."""

from __future__ import annotations

import re
from functools import partial
from importlib import import_module
from pathlib import Path

from pydantic import BaseModel, Field
from rclpy.node import Node
from rclpy.qos import DurabilityPolicy, QoSProfile, ReliabilityPolicy

from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.process import run
from molmoact_ros.record.bag import BagMessage, BagWriter


class RecorderConfig(BaseModel):
    """Parameters of the recorder."""

    bag: str = Field("bag", min_length=1, description="folder of the bag; must not exist yet")
    exclude: list[str] = Field(
        [r"/rosout", r"/parameter_events", r"/view/(?!markers).*", r".*/model_overlay.*", r".*/depth_image"],
        description="topics left out, as regular expressions: pictures that are made of what is recorded, for one",
    )


class RecorderNode(Node):
    """Looks for new topics twice a second and subscribes to each as its publishers offer it."""

    def __init__(self) -> None:
        super().__init__("recorder")
        config = declare(self, RecorderConfig)
        self._exclude = [re.compile(pattern) for pattern in config.exclude]
        self._bag = BagWriter(Path(config.bag))
        self._seen: set[str] = set()
        self._look_for_topics()
        self.create_timer(0.5, self._look_for_topics)
        self.get_logger().info(f"ready: recording into {config.bag}")

    def destroy_node(self) -> None:
        """Finish the bag, then the node."""
        super().destroy_node()
        self._bag.close()

    def _look_for_topics(self) -> None:
        for topic, types in self.get_topic_names_and_types():
            if topic not in self._seen and not any(pattern.fullmatch(topic) for pattern in self._exclude):
                self._seen.add(topic)
                self._record(topic, types[0])

    def _record(self, topic: str, type_name: str) -> None:
        package, _, kind = type_name.split("/")
        try:
            message_type = getattr(import_module(f"{package}.msg"), kind)
        except (ImportError, AttributeError):
            self.get_logger().warning(f"{topic} is not recorded: {type_name} is not installed here")
            return
        self.create_subscription(
            message_type, topic, partial(self._write, topic, type_name), self._offered(topic), raw=True
        )

    def _offered(self, topic: str) -> QoSProfile:
        """The best that all publishers of a topic offer, so that nothing is lost and nobody is left out."""
        offers = [info.qos_profile for info in self.get_publishers_info_by_topic(topic)]
        reliable = bool(offers) and all(offer.reliability is ReliabilityPolicy.RELIABLE for offer in offers)
        kept = bool(offers) and all(offer.durability is DurabilityPolicy.TRANSIENT_LOCAL for offer in offers)
        return QoSProfile(
            depth=100,
            reliability=ReliabilityPolicy.RELIABLE if reliable else ReliabilityPolicy.BEST_EFFORT,
            durability=DurabilityPolicy.TRANSIENT_LOCAL if kept else DurabilityPolicy.VOLATILE,
        )

    def _write(self, topic: str, type_name: str, data: bytes) -> None:
        self._bag.write(BagMessage(topic, type_name, data, self.get_clock().now().nanoseconds))


def main() -> None:
    """Start the node."""
    run(RecorderNode)


if __name__ == "__main__":
    main()
