"""What /act writes and reads: the reference's bytes, and nothing that is not well-formed."""

from __future__ import annotations

import base64
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from molmoact_ros.engine.act_backend.json_numpy import IMAGE, NUMBERS, WireError, decode_array, encode_array
from molmoact_ros.engine.act_backend.protocol import (
    FIELDS,
    ActRequest,
    answer_body,
    error_of,
    fields_of,
    parse_answer,
    parse_request,
    request_body,
)

WIRE = json.loads((Path(__file__).parents[2] / "golden" / "act_wire.json").read_text())
DROID = FIELDS[2]
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
    max_leaves=8,
)


def array(**changed: Any) -> dict[str, Any]:
    """A state of eight numbers as JSON has it, with some of it changed."""
    return encode_array(np.arange(8, dtype=np.float32)) | changed


def body(**changed: Any) -> bytes:
    """The reference's request, with some fields changed; None leaves a field out."""
    fields = json.loads(WIRE["request"]) | changed
    return json.dumps({name: value for name, value in fields.items() if value is not None}).encode()


def test_the_reference_s_request_is_read_and_written_to_the_byte() -> None:
    request = parse_request(WIRE["request"].encode(), DROID, 8)
    assert request.instruction == "pick up the cup" and request.flow_steps == 10
    np.testing.assert_array_equal(request.images[0], np.arange(18, dtype=np.uint8).reshape(2, 3, 3))
    assert request.images[1].shape == (2, 3, 3) and request.images[1][0, 0].tolist() == [6, 7, 8]
    np.testing.assert_allclose(request.state, np.linspace(-1, 1, 8), atol=1e-7)
    assert request_body(request, DROID) == WIRE["request"].encode()


def test_the_reference_s_answer_is_read_and_written_to_the_byte() -> None:
    actions = parse_answer(WIRE["answer"].encode(), (15, 8))
    assert actions.dtype == np.float64 and actions.shape == (2, 8)
    np.testing.assert_array_equal(actions, np.arange(16).reshape(2, 8) / 8)
    assert answer_body(actions, 0.0125) == WIRE["answer"].encode()


def test_the_fields_are_droids_and_yams() -> None:
    assert fields_of(2) == ("external_cam", "wrist_cam")
    assert fields_of(3) == ("top_cam", "left_cam", "right_cam")
    with pytest.raises(ValueError, match="2 or 3 cameras .*, not for 1"):
        fields_of(1)


@settings(deadline=None, max_examples=50)
@given(arrays(np.uint8, array_shapes(min_dims=3, max_dims=3, max_side=5)))
def test_an_image_comes_back(image: np.ndarray) -> None:
    text = json.dumps(encode_array(image))
    back = decode_array(json.loads(text), "image", IMAGE, (None, None, None))
    np.testing.assert_array_equal(back, image)
    assert back.dtype == np.uint8 and back.flags.writeable


@settings(deadline=None, max_examples=50)
@given(
    arrays(np.float32, array_shapes(min_dims=2, max_dims=2, max_side=5), elements=st.floats(width=32)), st.booleans()
)
def test_numbers_come_back_if_they_are_finite(values: np.ndarray, turned: bool) -> None:
    """Also from an array that is not laid out row by row."""
    laid = np.asfortranarray(values) if turned else values
    text = json.dumps(encode_array(laid))
    if np.isfinite(values).all():
        np.testing.assert_array_equal(decode_array(json.loads(text), "state", NUMBERS, (None, None)), values)
    else:
        with pytest.raises(WireError, match="state holds NaN or infinity"):
            decode_array(json.loads(text), "state", NUMBERS, (None, None))


@settings(deadline=None, max_examples=30)
@given(st.fixed_dictionaries({"__numpy__": JSON, "dtype": JSON | st.just("<f4"), "shape": JSON | st.just([8])}) | JSON)
def test_whatever_is_no_array_is_one_line(value: object) -> None:
    try:
        decode_array(value, "state", NUMBERS, (None,))
    except WireError as error:
        assert "state" in str(error) and "\n" not in str(error) and len(str(error)) < 200
    else:
        assert isinstance(value, dict) and value["dtype"] in NUMBERS


@pytest.mark.parametrize(
    ("value", "words"),
    [
        ([0.0] * 8, "json_numpy"),
        (array(more=1), "json_numpy"),
        (array(dtype="|O"), r"dtype \|O; give <f4 or <f8"),  # numpy unpickles objects
        (array(dtype=">f4"), "dtype >f4"),
        (array(dtype=[["a", "<f4"]]), "dtype"),
        (array(shape=[4, 2]), r"shape \[4, 2\]; give \[8\]"),
        (array(shape=[7]), "shape"),
        (array(shape=[8.0]), "shape"),
        (array(shape=[True]), "shape"),
        (array(shape=8), "shape"),
        (array(__numpy__="AAAA"), "holds 3 bytes, which do not fill the shape"),
        (array(__numpy__="*" * 44), "not base64"),
        (array(__numpy__="ä" * 44), "not base64"),
        (array(__numpy__=base64.b64encode(bytes(31)).decode()), "holds 31 bytes"),
        (array(__numpy__=["A"] * 44), "not base64"),
        (encode_array(np.array([math.nan] * 8, np.float32)), "NaN or infinity"),
        (encode_array(np.array([math.inf] * 8, np.float64)), "NaN or infinity"),
    ],
)
def test_a_state_that_is_not_one_is_refused(value: object, words: str) -> None:
    with pytest.raises(WireError, match=f"state .*{words}"):
        parse_request(body(state=value), DROID, 8)


def test_a_claimed_size_takes_no_memory() -> None:
    huge = {"__numpy__": "AAAA", "dtype": "|u1", "shape": [10**9, 10**9, 3]}
    with pytest.raises(WireError, match="external_cam holds 3 bytes"):
        parse_request(body(external_cam=huge), DROID, 8)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"wrist_cam": None}, "wrist_cam is missing; send external_cam, wrist_cam, instruction and state"),
        ({"state": None}, "state is missing"),
        ({"instruction": 7}, "instruction has to be a text"),
        ({"instruction": "a" * 2001}, "at most 2000"),
        ({"num_steps": 0}, "num_steps is 0; give a whole number from 1 to 100"),
        ({"num_steps": 10**9}, "num_steps"),
        ({"num_steps": True}, "num_steps"),
        ({"num_steps": "ten\nsteps"}, "num_steps is ten steps"),
        ({"wrist_cam": encode_array(np.zeros((2, 3, 4), np.uint8))}, r"wrist_cam has the shape \[2, 3, 4\]"),
        ({"wrist_cam": encode_array(np.zeros((2, 3, 3), np.float32))}, r"dtype <f4; give \|u1"),
    ],
)
def test_a_request_that_does_not_fit_is_refused(changed: dict[str, Any], words: str) -> None:
    with pytest.raises(WireError, match=words) as refusal:
        parse_request(body(**changed), DROID, 8)
    assert "\n" not in str(refusal.value)


def test_what_the_reference_ignores_is_ignored() -> None:
    more = {"timestamp": 1.5, "normalization_tag": "x", "enable_cuda_graph": True, "num_steps": None}
    assert parse_request(body(**more), DROID, 8).flow_steps is None


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "[" * 100_000, '{"state": NaN}', "9" * 5000, "\xff"])
def test_what_is_no_json_is_refused(text: str) -> None:
    with pytest.raises(WireError, match="body") as refusal:
        parse_request(text.encode("latin-1"), DROID, 8)
    assert len(str(refusal.value)) < 200 and "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("actions", "words"),
    [
        (np.zeros((16, 8), np.float32), "actions are 16; a chunk of this robot has at most 15"),
        (np.zeros((15, 7), np.float32), r"shape \[15, 7\]; give \[any, 8\]"),
        (np.zeros((15, 14), np.float32), "shape"),
        (np.zeros((0, 8), np.float32), "shape"),
        (np.zeros(8, np.float32), "shape"),
        (np.full((15, 8), np.nan, np.float32), "NaN"),
        (np.zeros((15, 8), np.int64), "dtype"),
    ],
)
def test_an_answer_that_does_not_fit_the_robot_is_refused(actions: np.ndarray, words: str) -> None:
    with pytest.raises(WireError, match=words):
        parse_answer(json.dumps({"actions": encode_array(actions)}).encode(), (15, 8))


def test_an_answer_without_actions_is_refused() -> None:
    with pytest.raises(WireError, match="actions are missing; the answer holds error"):
        parse_answer(b'{"error": "x"}', (15, 8))


def test_a_refusal_is_one_short_line_whatever_it_is() -> None:
    assert error_of(b'{"error": "state\\nis missing"}') == "state is missing"
    assert error_of(b"<html>\n" + b"x" * 500) == "<html> " + "x" * 193


@settings(deadline=None, max_examples=50)
@given(st.tuples(st.integers(1, 4), st.integers(1, 4)), st.integers(1, 100) | st.none(), st.text(max_size=20))
def test_a_request_comes_back(size: tuple[int, int], steps: int | None, words: str) -> None:
    image = np.arange(size[0] * size[1] * 3, dtype=np.uint8).reshape(*size, 3)
    asked = ActRequest((image,) * 3, words, np.linspace(-1, 1, 14), steps)
    found = parse_request(request_body(asked, FIELDS[3]), FIELDS[3], 14)
    assert (found.instruction, found.flow_steps) == (words, steps)
    np.testing.assert_array_equal(found.images, asked.images)
    np.testing.assert_allclose(found.state, asked.state, atol=1e-7)
