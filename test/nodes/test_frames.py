"""The newest frames that belong together, and how old their news is."""

from __future__ import annotations

import array
from math import inf

from sensor_msgs.msg import Image

from molmoact_ros.nodes.conversions import header
from molmoact_ros.nodes.frames import FrameBuffer


def image(stamp: float, pixel: int) -> Image:
    return Image(header=header(stamp, "camera"), height=1, width=1, data=array.array("B", [pixel, 0, 0]))


def test_a_frozen_camera_has_no_news_though_its_stamps_go_on() -> None:
    for noisy, age in ((True, 0.9), (False, 0.1)):
        frames = FrameBuffer(["front", "wrist"], slop=0.05, max_age=0.5, noisy=noisy)
        assert frames.age(1.0) == inf
        for k in range(10):
            frames.add("front", image(1.0 + k / 10, 7 if k >= 1 else 5))
            frames.add("wrist", image(1.0 + k / 10, k))
        assert abs(frames.age(2.0) - age) < 1e-6


def test_a_camera_that_is_gone_grows_old() -> None:
    frames = FrameBuffer(["front", "wrist"], slop=0.05, max_age=0.5)
    frames.add("front", image(1.0, 1))
    frames.add("wrist", image(3.0, 1))
    assert abs(frames.age(3.5) - 2.5) < 1e-6
