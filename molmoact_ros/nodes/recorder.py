"""Writes every topic into an MCAP bag, as it passes."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

from pydantic import BaseModel, Field
from rclpy.node import Node

from molmoact_ros.nodes.parameters import declare
from molmoact_ros.nodes.process import run
from molmoact_ros.nodes.topics import message_class, offered
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
        kind = message_class(type_name)
        if kind is None:
            self.get_logger().warning(f"{topic} is not recorded: {type_name} is not installed here")
            return
        quality = offered(self, topic, depth=100)
        self.create_subscription(kind, topic, partial(self._write, topic, type_name), quality, raw=True)

    def _write(self, topic: str, type_name: str, data: bytes) -> None:
        self._bag.write(BagMessage(topic, type_name, data, self.get_clock().now().nanoseconds))


def main() -> None:
    """Start the node."""
    run(RecorderNode)


if __name__ == "__main__":
    main()
