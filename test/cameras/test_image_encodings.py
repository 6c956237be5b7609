"""Every encoding of sensor_msgs: read as cv_bridge reads it, or refused in one line."""

from __future__ import annotations

from itertools import product

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmoact_ros.cameras.image_encodings import COLOUR, DEPTH, PIXEL, image_pixels, metres, rgb_pixels
from molmoact_ros.reasoning.answer import RefusedStep

from .images import raw

CV_BRIDGE = {
    "rgb8": None, "bgr8": cv2.COLOR_BGR2RGB, "rgba8": cv2.COLOR_RGBA2RGB, "bgra8": cv2.COLOR_BGRA2RGB,
    "mono8": cv2.COLOR_GRAY2RGB, "yuv422": cv2.COLOR_YUV2RGB_UYVY, "yuv422_yuy2": cv2.COLOR_YUV2RGB_YUY2,
    "bayer_rggb8": cv2.COLOR_BayerBG2RGB, "bayer_bggr8": cv2.COLOR_BayerRG2RGB, "bayer_gbrg8": cv2.COLOR_BayerGR2RGB,
    "bayer_grbg8": cv2.COLOR_BayerGB2RGB,
}  # fmt: skip
"""OpenCV's conversion to rgb8 that cv_bridge names for each encoding of 8 bits (vision_opencv, cv_bridge.cpp)."""
FOR_DISPLAY = {"8UC1": cv2.COLOR_GRAY2RGB, "8UC3": cv2.COLOR_BGR2RGB, "8UC4": cv2.COLOR_BGRA2RGB}
"""As cv_bridge guesses OpenCV's bare types in cvtColorForDisplay."""
SAME = {"uyvy": "yuv422", "yuyv": "yuv422_yuy2"}
"""Names of Iron and later for the same bytes."""
ALL = [
    *(f"{order}{bits}" for order, bits in product(("rgb", "bgr", "rgba", "bgra", "mono"), (8, 16))),
    *(f"bayer_{order}{bits}" for order, bits in product(("rggb", "bggr", "gbrg", "grbg"), (8, 16))),
    *(f"{kind}C{n}" for kind, n in product(("8U", "8S", "16U", "16S", "32S", "32F", "64F"), (1, 2, 3, 4))),
    "yuv422", "uyvy", "yuv422_yuy2", "yuyv", "nv21", "nv24",
]  # fmt: skip
"""sensor_msgs/image_encodings."""


def noise(encoding: str, height: int = 6, width: int = 8, seed: int = 0) -> np.ndarray:
    dtype, channels = PIXEL[encoding]
    values = np.random.default_rng(seed).integers(1, 256, (height, width, channels))
    return values.astype(dtype)[:, :, 0] if channels == 1 else values.astype(dtype)


@pytest.mark.parametrize("encoding", ALL)
def test_every_encoding_is_read_as_cv_bridge_reads_it_or_refused_in_one_line(encoding: str) -> None:
    if encoding in COLOUR:
        pixels = noise(encoding)
        code = (CV_BRIDGE | FOR_DISPLAY)[SAME.get(encoding, encoding)]
        wanted = pixels if code is None else cv2.cvtColor(pixels, code)
        read = rgb_pixels(raw(pixels, encoding))
        assert read.dtype == np.uint8
        np.testing.assert_array_equal(read, wanted)
        return
    with pytest.raises(RefusedStep) as refusal:
        rgb_pixels(raw(np.zeros((6, 8), np.uint16), encoding))
    line = str(refusal.value)
    assert "\n" not in line and len(line) < 300 and "publish" in line
    assert ("16 bits a channel" in line) == ("16" in encoding)


def test_no_encoding_of_cv_bridge_with_8_bits_is_missing() -> None:
    assert CV_BRIDGE.keys() | FOR_DISPLAY.keys() | SAME.keys() == set(COLOUR) and set(COLOUR) < set(ALL)


@pytest.mark.parametrize(
    ("encoding", "pixel"),
    [("yuv422", (90, 81)), ("yuv422_yuy2", (81, 90)), ("uyvy", (90, 81)), ("yuyv", (81, 90))],
)
def test_red_is_red_in_yuv(encoding: str, pixel: tuple[int, int]) -> None:
    """Red is Y 81, U 90, V 240 in BT.601, limited range."""
    other = tuple(240 if value == 90 else value for value in pixel)
    row = np.array([pixel, other] * 4, np.uint8)
    read = rgb_pixels(raw(np.tile(row, (4, 1, 1)), encoding)).astype(int)
    assert np.abs(read - [255, 0, 0]).max() <= 3


@pytest.mark.parametrize("encoding", ["bayer_rggb8", "bayer_bggr8", "bayer_gbrg8", "bayer_grbg8"])
def test_a_bayer_pattern_is_named_by_its_first_two_rows(encoding: str) -> None:
    colour = {"r": 200, "g": 120, "b": 30}
    tile = np.array([colour[letter] for letter in encoding[6:10]], np.uint8).reshape(2, 2)
    read = rgb_pixels(raw(np.tile(tile, (4, 4)), encoding))
    np.testing.assert_array_equal(read[2:-2, 2:-2], np.broadcast_to([200, 120, 30], (4, 4, 3)))


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(sorted(PIXEL)), height=st.integers(1, 5), width=st.integers(1, 5),
    padding=st.integers(0, 9), big_endian=st.booleans(), trailing=st.integers(0, 7),
)  # fmt: skip
def test_padded_rows_and_either_byte_order_hold_the_same_pixels(
    encoding: str, height: int, width: int, padding: int, big_endian: bool, trailing: int
) -> None:
    pixels = noise(encoding, height, width)
    message = raw(pixels, encoding, padding, big_endian)
    message.data += bytes(trailing)
    read = image_pixels(message)
    assert read.dtype == pixels.dtype and read.dtype.isnative
    np.testing.assert_array_equal(read, pixels)


@settings(max_examples=60, deadline=None)
@given(
    encoding=st.sampled_from(ALL), width=st.integers(0, 5), height=st.integers(0, 5), step=st.integers(0, 40),
    data=st.binary(max_size=200),
)  # fmt: skip
def test_any_image_is_read_or_refused(encoding: str, width: int, height: int, step: int, data: bytes) -> None:
    message = raw(np.zeros((1, 1), np.uint8), encoding)
    message.width, message.height, message.step, message.data = width, height, step, data
    for read in (rgb_pixels, metres):
        try:
            assert read(message).shape[:2] == (height, width)
        except RefusedStep as refusal:
            assert "\n" not in str(refusal)


@pytest.mark.parametrize("big_endian", [False, True])
@pytest.mark.parametrize(("encoding", "unit"), [("16UC1", 1000.0), ("mono16", 1000.0), ("32FC1", 1.0)])
def test_depth_is_in_metres_whatever_the_byte_order(encoding: str, unit: float, big_endian: bool) -> None:
    depth = np.linspace(0.25, 1.25, 24).reshape(4, 6)
    pixels = (depth * unit).round(3).astype(PIXEL[encoding][0])
    read = metres(raw(pixels, encoding, 3, big_endian))
    assert read.dtype == np.float32 and encoding in DEPTH
    np.testing.assert_allclose(read, depth, atol=1e-3)


def test_no_measurement_is_zero() -> None:
    depth = np.array([[0.5, np.nan, np.inf, -np.inf, 0.0, -0.2]], np.float32)
    np.testing.assert_array_equal(metres(raw(depth, "32FC1")), np.array([[0.5, 0, 0, 0, 0, 0]], np.float32))


@pytest.mark.parametrize("encoding", ["rgb8", "mono8", "32FC3", "64FC1", "16SC1"])
def test_what_is_no_depth_is_refused(encoding: str) -> None:
    with pytest.raises(RefusedStep, match="a depth image is needed"):
        metres(raw(np.zeros((2, 2), np.uint8), encoding))


def test_an_odd_width_has_no_yuv422() -> None:
    with pytest.raises(RefusedStep, match="its width is even; got 7"):
        rgb_pixels(raw(np.zeros((4, 7, 2), np.uint8), "yuv422_yuy2"))
