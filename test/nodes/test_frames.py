"""The newest frames that belong together, how old their news is, and what is said when there are none."""

from __future__ import annotations

import array
from math import inf

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from sensor_msgs.msg import Image, JointState

from molmoact_ros.cameras.image_encodings import PIXEL
from molmoact_ros.nodes.planning.observation_buffer import MOST_PIXELS, FrameBuffer, wrong_size
from molmoact_ros.ros.conversions import header, image_message


def image(stamp: float, pixel: int) -> Image:
    return Image(header=header(stamp, "camera"), height=1, width=1, data=array.array("B", [pixel, 0, 0]))


def joints(stamp: float, position: float) -> JointState:
    return JointState(header=header(stamp, "base"), name=["a"], position=[position])


def buffer(noisy: bool = True) -> FrameBuffer:
    return FrameBuffer(["front", "wrist"], slop=0.05, max_age=0.5, noisy=noisy, joint_slop=0.02)


def test_a_frozen_camera_has_no_news_though_its_stamps_go_on() -> None:
    for noisy, age in ((True, 0.9), (False, 0.1)):
        frames = buffer(noisy)
        assert frames.age(1.0) == inf
        for k in range(10):
            frames.add_image("front", image(1.0 + k / 10, 7 if k >= 1 else 5), 1.0 + k / 10)
            frames.add_image("wrist", image(1.0 + k / 10, k), 1.0 + k / 10)
        assert abs(frames.age(2.0) - age) < 1e-6


def test_a_camera_that_is_gone_grows_old() -> None:
    frames = buffer()
    frames.add_image("front", image(1.0, 1), 1.0)
    frames.add_image("wrist", image(3.0, 1), 3.0)
    assert abs(frames.age(3.5) - 2.5) < 1e-6


def test_a_camera_that_comes_late_is_still_matched() -> None:
    """Here by 0.3 s, more than four frames of the other camera."""
    frames = buffer()
    for k in range(30):
        now = 1.0 + k / 30
        frames.add_image("front", image(now, k), now)
        if k >= 9:
            frames.add_image("wrist", image(1.0 + (k - 9) / 30, k), now)
    found = frames.newest(1.0 + 29 / 30)
    assert found is not None and abs(found.stamp - (1.0 + 21 / 30)) < 1e-6 and found.apart < 0.05


def test_depth_and_joints_of_the_same_moment_come_with_the_picture() -> None:
    frames = buffer()
    for k in range(20):
        frames.add_joints(joints(1.0 + k / 100, k))
    frames.add_image("front", image(1.107, 1), 1.2)
    frames.add_image("wrist", image(1.11, 1), 1.2)
    frames.add_depth(image(1.107, 9))
    found = frames.newest(1.2)
    assert found is not None and found.depth is not None and found.depth.data[0] == 9
    found = frames.mark_used(found)
    assert found.joints is not None and found.joints.position[0] == 11 and abs(found.joints_apart - 0.003) < 1e-6
    frames.add_image("front", image(1.3, 2), 1.3)
    frames.add_image("wrist", image(1.3, 2), 1.3)
    later = frames.newest(1.3)
    assert later is not None and later.depth is None and frames.mark_used(later).joints is None, "none of that moment"
    assert frames.newest(3.0) is None
    report = frames.report()
    assert report["front received"] == report["front used"] == 2 and report["steps_without_joints"] == 1
    assert report["slop_s"] == 0.05 and report["joint_slop_s"] == 0.02


def test_what_is_missing_is_named() -> None:
    frames = buffer()
    assert "no image on front yet" in frames.missing(1.0)
    frames.add_image("front", image(1.0, 1), 1.0)
    frames.add_image("wrist", image(1.2, 1), 1.2)
    assert frames.newest(1.2) is None and "within 0.05 s" in frames.missing(1.2)
    assert "front is 9.0 s old" in frames.missing(10.0)
    frames.add_image("front", image(20.0, 1), 10.0)
    assert frames.newest(10.0) is None and "front is 10.0 s in the future" in frames.missing(10.0)


@given(st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 2**32 - 1), st.integers(0, 64))
def test_m6_an_image_is_taken_only_if_it_holds_what_it_claims(wide: int, high: int, step: int, held: int) -> None:
    claimed = Image(width=wide, height=high, step=step, encoding="rgb8", data=array.array("B", bytes(held)))
    reason = wrong_size(claimed)
    assert reason or (step * high <= held and wide * high <= MOST_PIXELS)
    assert "\n" not in reason and len(reason) < 200
    frames = buffer()
    frames.add_image("front", claimed, 0.0)
    assert (frames.age(0.0) == inf) or not reason
    assert not reason or reason in frames.missing(0.0)


def test_m6_images_of_every_encoding_are_taken() -> None:
    for encoding, (dtype, channels) in PIXEL.items():
        shape = (4, 6, channels) if channels > 1 else (4, 6)
        whole = image_message(np.zeros(shape, dtype), encoding, header(1.0, "camera"))
        assert wrong_size(whole) == ""
        whole.data = whole.data[:-1]
        assert "it holds" in wrong_size(whole)
    assert wrong_size(Image(encoding="x" * 1_000_000)) == "its encoding's name has 1000000 characters"


def test_the_joints_of_a_picture_come_from_whichever_messages_have_them() -> None:
    """Arm and hand apart, the hand's slower; one joint that is NaN for a while."""
    frames = buffer()
    for k in range(20):
        positions = [float(k), float("nan") if k in (10, 11) else k + 0.5]
        frames.add_joints(JointState(header=header(1.0 + k / 100, ""), name=["a", "b"], position=positions))
        if k % 3 == 0:
            frames.add_joints(JointState(header=header(1.0 + k / 100, ""), name=["f"], position=[k / 1000]))
    for camera in ("front", "wrist"):
        frames.add_image(camera, image(1.1, 1), 1.2)
    found = frames.newest(1.2)
    assert found is not None
    joints = frames.mark_used(found).joints
    assert joints is not None
    assert dict(zip(joints.name, joints.position, strict=True)) == {"a": 10.0, "b": 9.5, "f": 0.009}
    assert abs(frames.report()["joints_apart_s"] - 0.01) < 1e-6 and frames.joint_groups() == 2
    frames.add_joints(JointState(name=["a", "f"], position=[0.0, 0.0]))
    assert frames.joint_groups() == 0, "stamped 0"
    frames.add_joints(JointState(header=header(1.3, ""), name=["b", "f"], position=[0.0, 0.0]))
    assert frames.joint_groups() == 1, "of one robot"


def test_case_12_after_the_clock_was_set_nothing_from_before_is_planned_on() -> None:
    frames = buffer()
    for camera in ("front", "wrist"):
        frames.add_image(camera, image(100.0, 1), 100.0)
    frames.add_joints(joints(100.0, 1.0))
    assert frames.newest(100.1) is not None
    frames.clear()
    assert frames.newest(100.1) is None and "no image on front" in frames.missing(0.0) and frames.age(0.0) == inf
    for stamp, now in ((100.2, 0.0), (0.1, 0.1)):  # the first ones were on their way
        for camera in ("front", "wrist"):
            frames.add_image(camera, image(stamp, int(stamp)), now)
    found = frames.newest(0.1)
    assert found is not None and found.stamp == 0.1 and frames.mark_used(found).joints is None
