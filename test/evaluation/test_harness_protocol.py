"""vla-eval's messages, as its client writes them."""

from __future__ import annotations

from typing import Any

import cv2
import msgpack
import numpy as np
import pytest

from molmoact_ros.evaluation.harness_protocol import ACTION, HarnessMessage, hello, observation, pack, unpack

IMAGE = np.random.default_rng(1).integers(0, 255, (32, 48, 3), dtype=np.uint8)


def encoded(form: str) -> dict[str, Any]:
    """An image as vla-eval 0.8.0 packs it."""
    if form == "raw":
        return {"__image__": True, "format": "raw", "data": IMAGE.tobytes(), "dtype": "|u1", "shape": [32, 48, 3]}
    _, data = cv2.imencode(f".{form}", IMAGE[:, :, ::-1])
    return {"__image__": True, "format": form, "data": data.tobytes(), "shape": [32, 48, 3]}


def message(payload: object, kind: str = "observation", **more: Any) -> bytes:
    return msgpack.packb({"type": kind, "payload": payload, "seq": 5, "timestamp": 1.0} | more, use_bin_type=True)


@pytest.mark.parametrize("form", ["raw", "png"])
def test_an_observations_images_arrive_as_they_were(form: str) -> None:
    state = np.arange(8.0)
    array = {"__ndarray__": True, "data": state.tobytes(), "dtype": "<f8", "shape": [8]}
    read = unpack(message({"images": {"agentview": encoded(form)}, "task_description": "pick", "states": array}))
    assert (read.kind, read.seq) == ("observation", 5)
    seen = observation(read.payload, ["agentview"])
    np.testing.assert_array_equal(seen.images[0], IMAGE)
    assert seen.instruction == "pick"
    np.testing.assert_array_equal(read.payload["states"], state)


def test_a_jpeg_is_rgb_too() -> None:
    red = np.zeros((32, 32, 3), np.uint8)
    red[:, :, 0] = 250
    _, data = cv2.imencode(".jpg", red[:, :, ::-1])
    fields = {"__image__": True, "format": "jpeg", "data": data.tobytes(), "shape": [32, 32, 3]}
    read = unpack(message({"image": fields}))
    np.testing.assert_allclose(read.payload["image"][5, 5], [250, 0, 0], atol=4)


def test_an_action_is_read_by_its_client() -> None:
    fields = msgpack.unpackb(pack(HarnessMessage(ACTION, {"actions": [0.5, -1.0]}, 7)), raw=False)
    assert (fields["type"], fields["seq"], fields["payload"]) == ("action", 7, {"actions": [0.5, -1.0]})
    assert isinstance(fields["timestamp"], float)


def test_hello_states_the_version_and_asks_for_the_wrist_camera() -> None:
    about = hello(3).payload
    assert about["protocol_version"] == 1 and about["observation_params"] == {"send_wrist_image": True}
    assert about["action_spec"]["gripper"]["format"] == "binary_close_positive"


BAD_ARRAY = {"__ndarray__": True, "data": b"12345678", "dtype": "|O", "shape": [1]}


@pytest.mark.parametrize(
    "data",
    [b"", b"\xc1", msgpack.packb([1, 2]), msgpack.packb({"type": "hello"}), message({}, seq="one"), message([]),
     message({"x": BAD_ARRAY}), message({"x": {"__image__": True, "format": "png", "data": b"no image"}}),
     message({"x": {"__ndarray__": True, "data": b"1", "dtype": "<f8", "shape": [3]}})],
)  # fmt: skip
def test_whatever_is_no_message_is_refused_in_one_line(data: bytes) -> None:
    with pytest.raises(ValueError, match=r"vla-eval's protocol") as refusal:
        unpack(data)
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("payload", "why"),
    [({"task_description": "x"}, "no image 'agentview'; there are: none"),
     ({"images": {"top": IMAGE}, "task_description": "x"}, "no image 'agentview'; there are: top .set the parameter"),
     ({"images": {"agentview": IMAGE}}, "has no task_description"),
     ({"images": {"agentview": IMAGE[:, :, 0]}, "task_description": "x"}, "is no RGB image")],
)  # fmt: skip
def test_an_observation_that_lacks_something_says_what(payload: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        observation(payload, ["agentview"])
