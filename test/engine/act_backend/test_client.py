"""The engine that asks a server for chunks: what is believed, what is dropped, and who is left alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import numpy as np
import pytest

from molmoact_ros.engine.act_backend.client import ActEngine
from molmoact_ros.engine.act_backend.json_numpy import encode_array
from molmoact_ros.engine.act_backend.protocol import FIELDS, LARGEST_ANSWER, answer_body, parse_request
from molmoact_ros.engine.act_backend.robots import served_robot
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState

TAG = "franka_droid"
DROID = served_robot(TAG)
ACTIONS = np.linspace(-1, 1, 15 * 8).reshape(15, 8)
Send = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, content: bytes = b"") -> Send:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.send_header("Content-Length", str(len(content)))
        handler.end_headers()
        handler.wfile.write(content)

    return send


class ScriptedServer:
    """A server whose next answers are given beforehand; at first it is as the reference's is."""

    def __init__(self) -> None:
        self.about = status(200, json.dumps({"status": "ok", "repo_id": "x", "norm_tag": TAG}).encode())
        self.send, self.asked, self.keys = status(200, answer_body(ACTIONS, 0.1)), list[bytes](), list[str]()
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                assert self.path == "/act"
                outer.about(self)

            def do_POST(self) -> None:
                assert self.path == "/act" and self.headers["Content-Type"] == "application/json"
                outer.keys.append(self.headers.get("Authorization", ""))
                outer.asked.append(self.rfile.read(int(self.headers["Content-Length"])))
                outer.send(self)

            def log_message(self, *_: object) -> None:
                pass

        self.http = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.http.daemon_threads = True
        threading.Thread(target=self.http.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.http.server_port}"

    def engine(self, **changed: Any) -> ActEngine:
        return ActEngine(self.url, DROID, **{"timeout": 5.0, **changed})


@pytest.fixture
def server() -> Iterator[ScriptedServer]:
    scripted = ScriptedServer()
    yield scripted
    scripted.http.shutdown()
    scripted.http.server_close()


@pytest.fixture
def engine(server: ScriptedServer) -> ActEngine:
    return server.engine()


STATE = RobotState(np.linspace(-2, 2, 8), 0.0)


def look(state: RobotState | None = STATE, images: int = 2, **more: Any) -> Observation:
    rng = np.random.default_rng(0)
    seen = tuple(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8) for _ in range(images))
    return Observation(seen, "pick up the cup", 0.0, state=state, **more)


def test_an_answer_is_one_whole_chunk_as_it_was_sent(server: ScriptedServer, engine: ActEngine) -> None:
    (said,) = engine.reason(look())
    assert said.complete and said.trace is None and said.depth_codes is None
    assert said.actions is not None
    np.testing.assert_allclose(said.actions, ACTIONS, atol=1e-7)
    assert said.actions.dtype == np.float64 and engine.tokens == [] and engine.seed is None
    request = parse_request(server.asked[0], FIELDS[2], 8)
    np.testing.assert_array_equal(request.images, look().images)
    np.testing.assert_allclose(request.state, STATE.values, atol=1e-6)
    assert request.instruction == "pick up the cup" and request.flow_steps is None
    assert engine.timings.mode is ReasoningMode.FULL and set(engine.timings.stages) == {"preprocess", "server"}


def test_the_number_of_flow_steps_is_asked_for(server: ScriptedServer) -> None:
    list(server.engine(flow_steps=5).reason(look(), ReasoningMode.DIRECT))
    assert json.loads(server.asked[0])["num_steps"] == 5


def actions(array: np.ndarray) -> Send:
    return status(200, json.dumps({"actions": encode_array(array)}).encode())


def cut_off(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.send_header("Content-Length", "5000")
    handler.end_headers()
    handler.wfile.write(answer_body(ACTIONS, 0.1)[:100])


def endless(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    for _ in range(2 * LARGEST_ANSWER >> 16):
        handler.wfile.write(bytes(1 << 16))


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (actions(np.zeros((15, 14), np.float32)), r"not understood: actions has the shape \[15, 14\]"),
        (actions(np.zeros((16, 8), np.float32)), "at most 15"),
        (actions(np.full((15, 8), np.nan, np.float32)), "NaN"),
        (status(200, b"{}"), "actions are missing"),
        (status(200, b"<html>"), "not JSON"),
        (status(200), "not JSON"),
        (cut_off, "does not answer .RemoteProtocolError.; the step is dropped"),
        (endless, f"more than {LARGEST_ANSWER} bytes"),
        (status(503, b'{"error": "later"}'), "is busy .HTTP 503."),
        (status(400, b'{"error": "state is missing"}'), "refuses .HTTP 400.: state is missing"),
        (status(500, b'{"error": "CUDA out of memory"}'), "HTTP 500.: CUDA out of memory"),
        (status(302, b""), "HTTP 302"),
    ],
)
def test_what_is_not_an_answer_is_dropped(server: ScriptedServer, engine: ActEngine, send: Send, words: str) -> None:
    server.send = send
    with pytest.raises(RefusedStep, match=words) as refusal:
        list(engine.reason(look()))
    assert "\n" not in str(refusal.value) and server.url in str(refusal.value)


def test_a_server_that_failed_is_left_alone_for_a_while_and_then_asked_again(
    server: ScriptedServer, engine: ActEngine
) -> None:
    good, server.send = server.send, status(503)
    for _ in range(3):
        with pytest.raises(RefusedStep, match="busy"):
            list(engine.reason(look()))
    assert len(server.asked) == 1
    server.send = good
    time.sleep(0.3)
    assert list(engine.reason(look()))


def test_a_server_with_another_tag_sees_no_image(server: ScriptedServer, engine: ActEngine) -> None:
    server.about = status(200, b'{"norm_tag": "yam_dual_molmoact2"}')
    with pytest.raises(RefusedStep, match="norm_tag yam_dual_molmoact2, not franka_droid; set unnorm_key"):
        list(engine.reason(look()))
    assert not server.asked


@pytest.mark.parametrize("about", [status(404), status(405), status(501), status(200, b'{"status": "ok"}')])
def test_a_server_that_says_nothing_about_itself_is_asked(
    server: ScriptedServer, engine: ActEngine, about: Send
) -> None:
    server.about = about
    assert list(engine.reason(look()))


def test_no_server_is_one_line() -> None:
    engine = ActEngine("http://127.0.0.1:9/", DROID, 5.0)
    engine.warm_up()  # it may come up later
    with pytest.raises(RefusedStep, match=r"http://127.0.0.1:9 does not answer .ConnectError"):
        list(engine.reason(look()))


def test_the_key_is_sent_and_a_wrong_one_is_one_line(server: ScriptedServer) -> None:
    engine = server.engine(key="a-key-that-nobody-guesses")
    list(engine.reason(look()))
    assert server.keys == ["Bearer a-key-that-nobody-guesses"]
    server.send = status(401)
    with pytest.raises(RefusedStep, match="refuses the key .HTTP 401.; set server_key_file") as refusal:
        list(engine.reason(look()))
    assert "nobody-guesses" not in str(refusal.value)
    with pytest.raises(ValueError, match="HTTP does not carry"):
        server.engine(key="schlüssel")


def drip(handler: BaseHTTPRequestHandler) -> None:
    """An answer whose bytes come one after the other, for ever."""
    handler.send_response(200)
    handler.end_headers()
    for _ in range(60):
        handler.wfile.write(b" ")
        time.sleep(0.05)


def test_an_answer_that_is_not_whole_in_time_is_dropped(server: ScriptedServer) -> None:
    engine, began = server.engine(timeout=0.3), time.monotonic()
    server.send = drip
    with pytest.raises(RefusedStep, match=r"no whole answer came within 0\.3 s"):
        list(engine.reason(look()))
    assert time.monotonic() - began < 2


def test_a_late_answer_is_not_the_next_steps(server: ScriptedServer) -> None:
    engine, late = server.engine(timeout=0.3), threading.Event()

    def slow(handler: BaseHTTPRequestHandler) -> None:
        late.wait(5)
        actions(np.full((15, 8), 9.0, np.float32))(handler)

    good, server.send = server.send, slow
    with pytest.raises(RefusedStep, match="no whole answer"):
        list(engine.reason(look()))
    late.set()
    server.send = good
    (said,) = engine.reason(look())
    assert said.actions is not None
    np.testing.assert_allclose(said.actions, ACTIONS, atol=1e-7)


def test_a_step_that_is_not_wanted_ends_though_the_server_is_silent(server: ScriptedServer, engine: ActEngine) -> None:
    server.send = drip
    until = time.monotonic() + 0.2
    with pytest.raises(CancelledStep):
        list(engine.reason(look(), wanted=lambda: time.monotonic() < until))
    assert time.monotonic() < until + 1.5


@pytest.mark.parametrize(
    ("observation", "words"),
    [
        (look(state=None), "needs the robot's state"),
        (look(RobotState(np.zeros(7), 0.0)), "state of 8 finite values"),
        (look(RobotState(np.full(8, np.nan), 0.0)), "state of 8 finite values"),
        (look(images=1), r"needs 2 images .external_cam, wrist_cam., not 1"),
        (look(images=3), "needs 2 images"),
        (look(trace=np.zeros((2, 2), int)), "plans no trace"),
        (replace(look(), images=(np.zeros((4, 6), np.uint8),) * 2), "images must be RGB uint8"),
    ],
)
def test_an_observation_that_does_not_fit_is_not_sent(
    server: ScriptedServer, engine: ActEngine, observation: Observation, words: str
) -> None:
    with pytest.raises(RefusedStep, match=words):
        list(engine.reason(observation))
    with pytest.raises(RefusedStep, match="choose the mode full"):
        list(engine.reason(look(), ReasoningMode.GROUNDED))
    assert not server.asked


def test_images_that_are_too_large_are_not_sent(
    server: ScriptedServer, engine: ActEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("molmoact_ros.engine.act_backend.client.LARGEST_REQUEST", 300)
    with pytest.raises(RefusedStep, match="choose a smaller resolution"):
        list(engine.reason(look()))
    assert not server.asked
