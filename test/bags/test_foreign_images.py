"""Images of a bag that other drivers recorded: read as live ones are, and refused as live ones are."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from molmoact_ros.bags.bag import BagMessage, BagWriter
from molmoact_ros.bags.image_codec import COMPRESSED, IMAGE, Form, pack
from molmoact_ros.bags.message_types import Types
from molmoact_ros.bags.recording import Recording
from molmoact_ros.cameras.compressed_images import decoded

TYPES = Types()
SCENE = cv2.resize(np.random.default_rng(3).integers(40, 200, (6, 8, 3), np.uint8), (64, 48))
TOPIC = "/front/color/image_raw"


def raw(pixels: np.ndarray, encoding: str) -> BagMessage:
    height, width = pixels.shape[:2]
    data = np.ascontiguousarray(pixels).reshape(-1).view(np.uint8)
    image = TYPES.make(IMAGE, height=height, width=width, encoding=encoding, step=data.size // height, data=data)
    return BagMessage(TOPIC, IMAGE, TYPES.encode(image), 10**9)


def compressed(data: bytes, form: str) -> BagMessage:
    image = TYPES.make(COMPRESSED, format=form, data=np.frombuffer(data, np.uint8))
    return BagMessage(TOPIC, COMPRESSED, TYPES.encode(image), 10**9)


def read(folder: Path, message: BagMessage, depth: bool = False) -> np.ndarray:
    with BagWriter(folder) as bag:
        bag.write(message)
    with Recording(folder) as recording:
        return recording.picture(next(recording.messages([TOPIC])), depth)[1]


def png(pixels: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", pixels)[1])


def deep() -> Iterator[Any]:
    pixels = SCENE.astype(np.uint16) * 257
    yield pytest.param(raw(pixels, "rgb16"), id="rgb16")
    yield pytest.param(raw(pixels[:, :, 0], "mono16"), id="mono16")
    yield pytest.param(raw(pixels[:, :, 0], "bayer_rggb16"), id="bayer")
    yield pytest.param(compressed(png(pixels), "rgb16; png compressed bgr16"), id="png")


@pytest.mark.parametrize("message", [*deep()])
def test_16_bit_colour_is_refused_as_it_is_live(tmp_path: Path, message: BagMessage) -> None:
    with pytest.raises(ValueError, match=r"a recorded image cannot be read: 16 bits a channel .*publish 8") as refusal:
        read(tmp_path / "bag", message)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("encoding", "code"),
    [("yuv422_yuy2", cv2.COLOR_RGB2YUV_YUY2), ("yuv422", cv2.COLOR_RGB2YUV_UYVY), ("8UC3", cv2.COLOR_RGB2BGR)],
)
def test_colour_of_other_drivers_is_read(tmp_path: Path, encoding: str, code: int) -> None:
    pixels = read(tmp_path / "bag", raw(cv2.cvtColor(SCENE, code), encoding))
    assert np.abs(pixels.astype(int) - SCENE).mean() < 12


def test_quantised_metres_are_read_and_what_is_unknown_is_0(tmp_path: Path) -> None:
    a, b = np.float32(10_100), np.float32(1 - 1010)
    depth = np.linspace(0.3, 9.0, 48 * 64, dtype=np.float32).reshape(48, 64)
    stored = (a / depth + b).astype(np.uint16)
    stored[:5] = 0
    head = np.array([0], np.int32).tobytes() + np.array([a, b], np.float32).tobytes()
    pixels = read(tmp_path / "bag", compressed(head + png(stored), "32FC1; compressedDepth png"), depth=True)
    assert (pixels[:5] == 0).all() and np.abs(pixels[5:] - depth[5:]).max() < 0.02
    raws = np.where(stored > 0, depth, np.inf).astype(np.float32)
    assert (read(tmp_path / "raw", raw(raws, "32FC1"), depth=True)[:5] == 0).all()


@pytest.mark.parametrize(("form", "packed"), [("png", False), ("jpeg", True)])
def test_a_recorder_stores_what_png_would_lose_as_it_is(form: Form, packed: bool) -> None:
    message = raw(cv2.cvtColor(SCENE, cv2.COLOR_RGB2YUV_YUY2), "yuv422_yuy2")
    done = pack(message, TYPES, form, 95)
    assert (done == message) is not packed
    if packed:  # and image_transport's tools find a name that they know
        image = TYPES.decode(done.data, done.type_name)
        assert image.format == "rgb8; jpeg compressed bgr8"
        assert np.abs(decoded(image)[0].astype(int) - SCENE).mean() < 12
