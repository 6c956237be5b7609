"""CompressedImage in image_transport's formats: what they hold, what they lose, and what is refused."""

from __future__ import annotations

import struct

import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from molmoact_ros.cameras.compressed_images import MOST_PIXELS, declared_size, decoded
from molmoact_ros.cameras.image_encodings import metres, rgb_pixels
from molmoact_ros.reasoning.answer import RefusedStep

from .images import compressed, depth_head, file, rvl

RGB = cv2.resize(np.random.default_rng(1).integers(0, 256, (6, 8, 3), np.uint8), (32, 24))
BGR = np.ascontiguousarray(RGB[:, :, ::-1])
DEPTH = np.random.default_rng(2).integers(0, 3000, (24, 32)).astype(np.uint16)
DEPTH[5:9, :20] = 0


@pytest.mark.parametrize(
    "form", ["png", "rgb8; png compressed bgr8", "bgr8; png compressed bgr8", "bgra8; png compressed bgr8", ""]
)
def test_png_colour_is_the_very_same(form: str) -> None:
    np.testing.assert_array_equal(rgb_pixels(compressed(file(BGR, ".png"), form)), RGB)


def test_colour_that_was_compressed_as_rgb_is_turned_back() -> None:
    """image_transport's rule: without "compressed bgr" the file holds red where OpenCV reads blue."""
    np.testing.assert_array_equal(rgb_pixels(compressed(file(RGB, ".png"), "rgb8; png compressed rgb8")), RGB)


@pytest.mark.parametrize("form", ["jpeg", "jpg", "rgb8; jpeg compressed bgr8", "yuv422_yuy2; jpeg compressed bgr8"])
def test_jpeg_colour_is_nearly_the_same(form: str) -> None:
    read = rgb_pixels(compressed(file(BGR, ".jpg"), form)).astype(int)
    assert np.abs(read - RGB).mean() < 6


def test_grey_and_alpha_become_colour() -> None:
    grey = rgb_pixels(compressed(file(RGB[:, :, 0], ".png"), "mono8; png compressed "))
    np.testing.assert_array_equal(grey, np.repeat(RGB[:, :, :1], 3, axis=2))
    alpha = np.dstack([BGR, np.full(BGR.shape[:2], 7, np.uint8)])
    np.testing.assert_array_equal(rgb_pixels(compressed(file(alpha, ".png"), "rgba8; png compressed bgr8")), RGB)


@pytest.mark.parametrize("pixels", [BGR.astype(np.uint16) * 257, DEPTH], ids=["rgb16", "mono16"])
def test_16_bits_are_no_colour_here_either(pixels: np.ndarray) -> None:
    with pytest.raises(RefusedStep, match="16 bits a channel .* are not read as colour"):
        rgb_pixels(compressed(file(pixels, ".png"), "rgb16; png compressed bgr16"))


@pytest.mark.parametrize(
    "form", ["16UC1; compressedDepth png", "16UC1; compressedDepth", "mono16; compressedDepth png"]
)
def test_png_depth_is_the_very_same(form: str) -> None:
    read = metres(compressed(depth_head() + file(DEPTH, ".png"), form))
    np.testing.assert_array_equal(read, DEPTH.astype(np.float32) * np.float32(1e-3))


def test_depth_in_a_plain_png_is_read_too() -> None:
    read = metres(compressed(file(DEPTH, ".png"), "16UC1; png compressed "))
    np.testing.assert_allclose(read, DEPTH / 1000, atol=1e-6)


@settings(max_examples=60, deadline=None)
@given(
    arrays(
        np.uint16, array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.one_of(st.just(0), st.integers(0, 65535), st.integers(500, 520)),
    )
)  # fmt: skip
def test_rvl_holds_every_depth_image(pixels: np.ndarray) -> None:
    read, encoding = decoded(compressed(depth_head() + rvl(pixels), "16UC1; compressedDepth rvl"))
    assert encoding == "16UC1" and read.dtype == np.uint16
    np.testing.assert_array_equal(read, pixels)


@pytest.mark.parametrize("coding", ["png", "rvl"])
def test_metres_are_quantised_by_inverse_depth(coding: str) -> None:
    """As image_transport does it: depth_quantization 100, depth_max 10; the nearer, the finer."""
    a, b = 100.0 * 101.0, 1.0 - 100.0 * 101.0 / 10.0
    depth = np.linspace(0.3, 9.0, 24 * 32, dtype=np.float32).reshape(24, 32)
    depth[0, :4] = np.nan, np.inf, 12.0, 0.3
    near = depth < 10.0
    stored = np.where(near, a / np.where(near, depth, 1.0) + b, 0).astype(np.uint16)
    data = rvl(stored) if coding == "rvl" else file(stored, ".png")
    read = metres(compressed(depth_head(a, b) + data, f"32FC1; compressedDepth {coding}"))
    assert (read[0, :3] == 0).all()
    step = depth[1:] ** 2 / a  # of one unit of the integer
    assert (np.abs(read[1:] - depth[1:]) <= 1.01 * step).all()
    assert np.abs(read[1:] - depth[1:]).max() > 1e-4


@pytest.mark.parametrize(
    ("data", "form", "why"),
    [
        (b"", "jpeg", "is not read; publish JPEG or PNG"),
        (b"GIF89a" + bytes(40), "gif", "is not read; publish JPEG or PNG"),
        (file(BGR, ".png")[:60], "png", "is damaged"),
        (b"\xff\xd8" + bytes(50), "jpeg", "claims 0x0 pixels"),
        (depth_head() + struct.pack("<II", 40_000, 40_000), "16UC1; compressedDepth rvl", "claims 40000x40000"),
        (depth_head() + rvl(DEPTH)[:-40], "16UC1; compressedDepth rvl", "cut off or damaged"),
        (depth_head() + file(BGR[:, :, 0].copy(), ".png"), "32FC1; compressedDepth png", "holds no 16 bits"),
        (depth_head(), "16UC1; compressedDepth png", "is not read; publish JPEG or PNG"),
    ],
)  # fmt: skip
def test_what_cannot_be_decoded_is_refused_in_one_line(data: bytes, form: str, why: str) -> None:
    with pytest.raises(RefusedStep, match=why) as refusal:
        decoded(compressed(data, form))
    assert "\n" not in str(refusal.value)


def test_a_small_file_that_claims_gigabytes_is_not_decoded() -> None:
    bomb = bytearray(file(BGR, ".png"))
    bomb[16:24] = struct.pack(">II", 60_000, 60_000)
    with pytest.raises(RefusedStep, match="claims 60000x60000 pixels; at most 100 MP"):
        rgb_pixels(compressed(bytes(bomb), "png"))
    assert MOST_PIXELS < 60_000**2


@pytest.mark.parametrize("ending", [".png", ".jpg"])
@pytest.mark.parametrize("width", [1, 31, 640])
def test_the_declared_size_is_the_decoded_one(ending: str, width: int) -> None:
    message = compressed(file(np.zeros((9, width, 3), np.uint8), ending), ending)
    assert declared_size(message) == (width, 9) == decoded(message)[0].shape[1::-1]


@settings(max_examples=80, deadline=None)
@given(
    which=st.sampled_from(["png", "jpeg", "16UC1; compressedDepth png", "16UC1; compressedDepth rvl"]),
    keep=st.floats(0, 1), at=st.integers(0, 400), byte=st.integers(0, 255),
)  # fmt: skip
def test_damage_is_refused_or_seen_as_pixels(which: str, keep: float, at: int, byte: int) -> None:
    plain = {"png": file(BGR, ".png"), "jpeg": file(BGR, ".jpg")}
    depth = {"16UC1; compressedDepth png": file(DEPTH, ".png"), "16UC1; compressedDepth rvl": rvl(DEPTH)}
    whole = bytearray(plain[which] if which in plain else depth_head() + depth[which])
    whole[at % len(whole)] = byte
    try:
        pixels, _ = decoded(compressed(bytes(whole[: round(keep * len(whole))]), which))
        assert pixels.size <= MOST_PIXELS * 3
    except RefusedStep as refusal:
        assert "\n" not in str(refusal)
