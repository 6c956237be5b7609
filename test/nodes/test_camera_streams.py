"""Streams as zed-ros2-wrapper, realsense-ros and usb_cam publish them reach the model; what is not known stays so.

The rules (encodings, steps, frames, stamps, QoS) are those of the drivers' sources: zed's sl_tools.cpp and
sl_types.hpp, realsense-ros' base_realsense_node.cpp and constants.h, usb_cam's formats/*.hpp and usb_cam_node.cpp.
"""

from __future__ import annotations

import array
from dataclasses import dataclass

import cv2
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from rclpy.qos import (
    DurabilityPolicy,
    HistoryPolicy,
    QoSCompatibility,
    QoSProfile,
    ReliabilityPolicy,
    qos_check_compatible,
    qos_profile_system_default,
)
from rclpy.serialization import serialize_message
from sensor_msgs.msg import CompressedImage, Image

from molmoact_ros.engine.model.checkpoint import load_depth_decoder
from molmoact_ros.engine.model.depth_vq import relative_depth
from molmoact_ros.nodes.planning.observation_buffer import FrameBuffer, wrong_size
from molmoact_ros.nodes.visualization import panel_images
from molmoact_ros.ros import qos
from molmoact_ros.ros.conversions import header, metres, millimetres, rgb_pixels
from molmoact_ros.ros.image_transport import CameraImage, colour_topic, depth_topic, wrong_transport
from molmoact_ros.utils.paths import default_checkpoint
from molmoact_ros.visualization.deproject import lift
from molmoact_ros.visualization.overlay import colour_depth

RELIABLE = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=10, reliability=ReliabilityPolicy.RELIABLE)
LATCHED = QoSProfile(
    history=HistoryPolicy.KEEP_LAST, depth=1, reliability=ReliabilityPolicy.RELIABLE,
    durability=DurabilityPolicy.TRANSIENT_LOCAL,
)  # fmt: skip
SENSOR_DATA = QoSProfile(history=HistoryPolicy.KEEP_LAST, depth=5, reliability=ReliabilityPolicy.BEST_EFFORT)
PROFILES = {
    "zed, usb_cam": RELIABLE, "realsense-ros": qos_profile_system_default, "sensor data": SENSOR_DATA,
    "latched": LATCHED,
}  # fmt: skip


@dataclass(frozen=True)
class Stream:
    """What a driver publishes: an encoding, the frame, and how many bytes each row has beyond its pixels."""

    encoding: str
    frame: str
    padding: int = 0


COLOUR = {
    "zed": Stream("bgra8", "zed_left_camera_frame_optical"),
    "zed, 24 bits": Stream("bgr8", "zed_left_camera_frame_optical", padding=64),
    "realsense-ros": Stream("rgb8", "camera_color_optical_frame"),
    "realsense-ros, YUYV": Stream("yuv422_yuy2", "camera_color_optical_frame"),
    "realsense-ros, UYVY": Stream("yuv422", "camera_color_optical_frame"),
    "realsense-ros, infra1": Stream("mono8", "camera_infra1_optical_frame"),
    "usb_cam, mjpeg2rgb": Stream("rgb8", "default_cam"),
    "usb_cam, yuyv": Stream("yuv422_yuy2", "default_cam"),
    "usb_cam, uyvy": Stream("yuv422", "default_cam"),
    "usb_cam, mono8": Stream("mono8", "default_cam"),
}
SCENE = cv2.resize(np.random.default_rng(3).integers(40, 200, (6, 8, 3), np.uint8), (64, 48))


def as_sent(rgb: np.ndarray, encoding: str) -> np.ndarray:
    """Pixels of an encoding, of colours uint8 [H, W, 3]."""
    codes = {"bgra8": cv2.COLOR_RGB2BGRA, "bgr8": cv2.COLOR_RGB2BGR, "mono8": cv2.COLOR_RGB2GRAY,
             "yuv422_yuy2": cv2.COLOR_RGB2YUV_YUY2, "yuv422": cv2.COLOR_RGB2YUV_UYVY}  # fmt: skip
    return rgb if encoding == "rgb8" else cv2.cvtColor(rgb, codes[encoding])


def message(pixels: np.ndarray, stream: Stream, stamp: float) -> Image:
    """The Image that a driver makes of pixels."""
    height, width = pixels.shape[:2]
    rows = np.pad(np.ascontiguousarray(pixels).view(np.uint8).reshape(height, -1), ((0, 0), (0, stream.padding)))
    return Image(
        header=header(stamp, stream.frame), height=height, width=width, encoding=stream.encoding, step=rows.shape[1],
        data=array.array("B", rows.tobytes()),
    )  # fmt: skip


def shown(image: CameraImage, depth: CameraImage | None = None) -> tuple[np.ndarray, np.ndarray | None]:
    """Colour and depth that a step gets of one camera, through the policy's buffer."""
    frames = FrameBuffer(["front"], slop=0.05, max_age=0.5)
    if depth is not None:
        frames.add_depth(depth)
    frames.add_image("front", image, 10.01)
    found = frames.newest(10.02)
    assert found is not None, frames.missing(10.02)
    return rgb_pixels(found.images[0]), None if found.depth is None else metres(found.depth)


@pytest.mark.parametrize("driver", sorted(COLOUR))
def test_colour_of_every_driver_is_the_scene(driver: str) -> None:
    stream = COLOUR[driver]
    colour, _ = shown(message(as_sent(SCENE, stream.encoding), stream, 10.0))
    wanted = SCENE if stream.encoding != "mono8" else np.repeat(as_sent(SCENE, "mono8")[:, :, None], 3, axis=2)
    off = np.abs(colour.astype(int) - wanted)
    assert colour.shape == SCENE.shape and (off.mean() < 12 if "yuv" in stream.encoding else off.max() == 0)


def test_zed_depth_has_nan_and_infinities_which_are_not_known() -> None:
    depth = np.full((48, 64), 0.8, np.float32)
    depth[0], depth[1], depth[2] = np.nan, np.inf, -np.inf  # occluded, too far, too near
    stream = Stream("32FC1", "zed_left_camera_frame_optical", padding=32)
    colour = message(as_sent(SCENE, "bgra8"), COLOUR["zed"], 10.0)
    _, read = shown(colour, message(depth, stream, 10.0))
    assert read is not None and (read[:3] == 0).all() and (read[3:] == np.float32(0.8)).all()


def test_usb_cam_sends_its_jpegs_as_they_are() -> None:
    """With raw_mjpeg it has no Image topic, and the format is "jpeg" alone."""
    done, jpeg = cv2.imencode(".jpg", SCENE[:, :, ::-1])
    sent = CompressedImage(header=header(10.0, "default_cam"), format="jpeg", data=array.array("B", jpeg.tobytes()))
    colour, _ = shown(sent)
    assert done and np.abs(colour.astype(int) - SCENE).mean() < 6
    sent.data = sent.data[:40]
    assert wrong_size(sent) == "a compressed image claims 0x0 pixels; at most 100 MP are read"


def test_compressed_depth_of_realsense_ros_is_in_metres() -> None:
    depth = np.linspace(300, 900, 48 * 64).reshape(48, 64).astype(np.uint16)
    done, png = cv2.imencode(".png", depth)
    sent = CompressedImage(header=header(10.0, "camera_color_optical_frame"), format="16UC1; compressedDepth png",
                           data=array.array("B", bytes(12) + png.tobytes()))  # fmt: skip
    _, read = shown(message(SCENE, COLOUR["realsense-ros"], 10.0), sent)
    assert done and read is not None
    np.testing.assert_allclose(read, depth / 1000, atol=1e-6)


@pytest.mark.parametrize("driver", sorted(PROFILES))
def test_our_subscriptions_match_every_driver(driver: str) -> None:
    found, reason = qos_check_compatible(PROFILES[driver], qos.SENSOR)
    assert found != QoSCompatibility.ERROR, reason
    wanted, _ = qos_check_compatible(SENSOR_DATA, RELIABLE)
    assert wanted == QoSCompatibility.ERROR, "the check tells what does not match"


def test_topics_are_named_as_image_transport_names_them() -> None:
    assert colour_topic("front", "raw") == (Image, "front/color/image_raw")
    assert colour_topic("front", "compressed") == (CompressedImage, "front/color/image_raw/compressed")
    assert depth_topic("front", "compressed") == (
        CompressedImage, "front/aligned_depth_to_color/image_raw/compressedDepth",
    )  # fmt: skip


def test_a_camera_with_the_other_transport_alone_says_what_to_set() -> None:
    there = {"front/color/image_raw": 1, "wrist/color/image_raw/compressed": 1}
    said = wrong_transport(["front", "wrist"], "raw", lambda topic: there.get(topic, 0))
    assert said == (
        "wrist/color/image_raw/compressed is published and wrist/color/image_raw is not; "
        "set image_transport to compressed"
    )
    assert "set image_transport to raw" in wrong_transport(["front"], "compressed", lambda topic: there.get(topic, 0))
    assert wrong_transport(["front", "wrist"], "raw", lambda topic: 1) == ""
    assert wrong_transport(["front", "wrist"], "raw", lambda topic: 0) == "", "the camera is off: nothing is known"


def depths_like(depth: np.ndarray, unknown: np.ndarray, values: list[float]) -> list[np.ndarray]:
    """The same depth with each of `values`, and all of them in turn, where it is not known."""
    fills = [*([value] for value in values), values]
    return [np.where(unknown, np.resize(np.array(fill, np.float32), depth.shape), depth) for fill in fills]


@settings(max_examples=15, deadline=None)
@given(seed=st.integers(0, 999), share=st.floats(0.0, 1.0))
def test_whatever_reads_depth_takes_nan_and_infinities_as_not_known(seed: int, share: float) -> None:
    rng = np.random.default_rng(seed)
    depth = rng.uniform(0.3, 2.0, (24, 32)).astype(np.float32)
    unknown = rng.random((24, 32)) < share
    trace, k = np.array([[10, 20], [200, 220]]), np.array([[30.0, 0, 16], [0, 30, 12], [0, 0, 1]])
    with np.errstate(all="raise"):
        first, *others = (
            {
                "metres": metres(message(each, Stream("32FC1", "f"), 1.0)), "relative": relative_depth(each),
                "millimetres": millimetres(each), "lifted": lift(trace, each, k),
                "panel": panel_images._depth(message(each, Stream("32FC1", "f"), 1.0)),
            }
            for each in depths_like(depth, unknown, [0.0, np.nan, np.inf, -np.inf, -1.0])
        )  # fmt: skip
    for other in others:
        for name, read in first.items():
            assert np.isfinite(read).all(), name
            np.testing.assert_array_equal(other[name], read, err_msg=name)


def test_depth_of_infinity_gives_the_same_depth_tokens_and_colours() -> None:
    vq = load_depth_decoder(default_checkpoint())
    assert vq is not None
    depth = np.tile(np.linspace(0.5, 1.0, 320, dtype=np.float32), (240, 1))
    unknown = np.arange(240)[:, None] < 80
    codes = [
        vq.encode(torch.from_numpy(relative_depth(each))[None, None])[0].numpy()
        for each in depths_like(depth, unknown, [np.nan, 0.0, np.inf, -np.inf])
    ]
    assert all((other == codes[0]).all() for other in codes) and len(np.unique(codes[0])) > 1
    near = panel_images._depth(message(np.where(unknown, np.inf, depth), Stream("32FC1", "f"), 1.0))[100:]
    assert len(np.unique(near.reshape(-1, 3), axis=0)) > 50
    said = np.where(unknown, np.inf, depth)
    np.testing.assert_array_equal(colour_depth(said, 64), colour_depth(np.where(unknown, 0.0, depth), 64))


def test_the_panel_shows_compressed_images_and_refuses_16_bits_of_them() -> None:
    done, png = cv2.imencode(".png", SCENE[:, :, ::-1])
    sent = CompressedImage(format="rgb8; png compressed bgr8", data=array.array("B", png.tobytes()))
    made = panel_images.encode("color", bytes(serialize_message(sent)), compressed=True)
    raw = panel_images.encode("color", bytes(serialize_message(message(SCENE, COLOUR["realsense-ros"], 0.0))))
    assert done and made.jpeg == raw.jpeg
    _, deep = cv2.imencode(".png", SCENE.astype(np.uint16) * 257)
    sent.data = array.array("B", deep.tobytes())
    for image, compressed in (sent, True), (Image(encoding="rgb16", width=2, height=1, step=12), False):
        with pytest.raises(Exception, match="are not read as colour; publish 8"):
            panel_images.encode("color", bytes(serialize_message(image)), compressed)
