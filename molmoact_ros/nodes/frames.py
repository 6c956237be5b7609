"""The newest set of camera frames that belong together."""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from math import inf

from sensor_msgs.msg import Image

from molmoact_ros.nodes.conversions import seconds

KEPT = 4  # frames of each camera: at 15 Hz a quarter of a second, longer than any pair is apart


@dataclass(frozen=True)
class FrameSet:
    """One image of each camera, front first; `stamp`: time of the front one, s."""

    images: tuple[Image, ...]
    stamp: float


class FrameBuffer:
    """Keeps the last frames of each camera and picks those taken together. Not for several threads at once."""

    def __init__(self, topics: Sequence[str], slop: float, max_age: float, noisy: bool = True) -> None:
        """`topics`: front camera first. slop: greatest difference of stamps, s; max_age: of the front one, s.

        noisy: no two frames are equal, unless the camera is frozen.
        """
        self._noisy = noisy
        self._frames: dict[str, deque[Image]] = {topic: deque(maxlen=KEPT) for topic in topics}
        self._slop, self._max_age = slop, max_age
        self._news = dict.fromkeys(topics, -inf)  # when the last frame was taken that shows something new

    def add(self, topic: str, image: Image) -> None:
        """Take a frame. One that equals the one before to the last bit is no news: no sensor is that free of noise."""
        frames = self._frames[topic]
        if not self._noisy or not frames or frames[-1].data != image.data:
            self._news[topic] = seconds(image.header.stamp)
        frames.append(image)

    def age(self, now: float) -> float:
        """Age of the newest frame with news, of the camera where it is oldest, s; inf before all have one."""
        return now - min(self._news.values())

    def newest(self, now: float) -> FrameSet | None:
        """The newest set that is no older than `max_age` at `now`, s; None without one (`missing` says why)."""
        front, *others = self._frames.values()
        for image in reversed(front):
            stamp = seconds(image.header.stamp)
            matches = [min(other, key=lambda i: abs(seconds(i.header.stamp) - stamp), default=None) for other in others]
            together = [m for m in matches if m is not None and abs(seconds(m.header.stamp) - stamp) <= self._slop]
            if now - stamp <= self._max_age and len(together) == len(others):
                return FrameSet((image, *together), stamp)
        return None

    def missing(self, now: float) -> str:
        """One line that says which camera is silent, or that their clocks differ."""
        for topic, frames in self._frames.items():
            if not frames:
                return f"no image on {topic} yet; start the camera, or check the topic's name"
            age = now - seconds(frames[-1].header.stamp)
            if age > self._max_age:
                return f"the newest image on {topic} is {age:.1f} s old; check the camera and the clocks"
        return f"no images taken within {self._slop:.2f} s of each other; synchronise the cameras"
