"""Our server beside the reference's protocol: what clients get, who has to wait, and who is turned away."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import numpy as np
import pytest

from molmoact_ros.engine.act_backend import server as act_server
from molmoact_ros.engine.act_backend.client import ActEngine
from molmoact_ros.engine.act_backend.json_numpy import encode_array
from molmoact_ros.engine.act_backend.protocol import FIELDS, ActRequest, parse_answer, parse_request, request_body
from molmoact_ros.engine.act_backend.robots import served_robot
from molmoact_ros.engine.act_backend.server import ActServer
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.reasoning.answer import Reasoning, RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState

KEY = "a-key-that-nobody-guesses"
HTTP = httpx.Client(timeout=10, verify=False)


class StandInEngine:
    """Answers with the state it was given, row by row a little further; `during` is called in a step."""

    def __init__(self) -> None:
        self.unnorm_key, self.state_dimensions, self.flow_steps = "franka_droid", 8, 10
        self.steps: list[int] = []
        self.seen: list[Observation] = []
        self.during: Callable[[Callable[[], bool]], None] = lambda wanted: None

    def reason(self, observation: Observation, wanted: Callable[[], bool]) -> Iterator[Reasoning]:
        self.seen.append(observation)
        self.steps.append(self.flow_steps)
        self.during(wanted)
        assert observation.state is not None
        yield Reasoning(None, None, observation.state.values + np.arange(15)[:, None] / 100, complete=True)


@pytest.fixture
def engine() -> StandInEngine:
    return StandInEngine()


@pytest.fixture
def served(engine: StandInEngine) -> Iterator[ActServer]:
    yield from serving(engine)


def serving(engine: Any, key: str = "") -> Iterator[ActServer]:
    server = ActServer(engine, FIELDS[2], {"repo_id": "MolmoAct2-DROID", "device": "cpu"}, "127.0.0.1", 0, key)
    server.start()
    yield server
    server.close()


STATE = np.linspace(-0.5, 0.5, 8)


def body(**changed: Any) -> bytes:
    rng = np.random.default_rng(0)
    images = tuple(rng.integers(0, 256, (4, 6, 3), dtype=np.uint8) for _ in range(2))
    fields = json.loads(request_body(ActRequest(images, "pick up the cup", STATE, 10), FIELDS[2]))
    return json.dumps(fields | changed).encode()


def post(server: ActServer, content: bytes, **headers: str) -> httpx.Response:
    return HTTP.post(f"{server.url}/act", content=content, headers=headers)


def test_a_client_gets_the_engines_actions_for_what_it_sent(served: ActServer, engine: StandInEngine) -> None:
    answer = post(served, body(timestamp=3.5, enable_cuda_graph=True))
    assert answer.status_code == 200 and answer.headers["Content-Type"] == "application/json"
    np.testing.assert_allclose(parse_answer(answer.content, (15, 8)), STATE + np.arange(15)[:, None] / 100, atol=1e-6)
    assert set(answer.json()) == {"actions", "dt_ms"} and answer.json()["dt_ms"] > 0
    assert answer.json()["actions"]["dtype"] == "<f4"
    (seen,) = engine.seen
    assert seen.instruction == "pick up the cup" and [image.shape for image in seen.images] == [(4, 6, 3)] * 2
    assert seen.state is not None and seen.state.values.dtype == np.float64


def test_flow_steps_are_those_of_each_request(served: ActServer, engine: StandInEngine) -> None:
    for steps in (4, None, 7):
        assert post(served, body(num_steps=steps)).status_code == 200
    assert engine.steps == [4, 10, 7]


def test_our_own_client_gets_them_too(served: ActServer) -> None:
    client = ActEngine(served.url, served_robot("franka_droid"), timeout=5.0)
    client.warm_up()
    images = (np.zeros((4, 6, 3), np.uint8),) * 2
    (said,) = client.reason(Observation(images, "pick up the cup", 0.0, state=RobotState(STATE, 0.0)))
    assert said.actions is not None
    np.testing.assert_allclose(said.actions, STATE + np.arange(15)[:, None] / 100, atol=1e-6)


def test_it_says_what_it_is(served: ActServer) -> None:
    assert HTTP.get(f"{served.url}/healthz").json() == {"status": "ok"}
    assert HTTP.get(f"{served.url}/act").json() == {
        "status": "ok", "norm_tag": "franka_droid", "repo_id": "MolmoAct2-DROID", "device": "cpu",
    }  # fmt: skip
    assert HTTP.get(f"{served.url}/docs").status_code == 404
    assert HTTP.post(f"{served.url}/act_dual", content=body()).status_code == 404


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"nonsense", "not JSON"),
        (body(state=encode_array(np.zeros(14, np.float32))), "state has the shape [14]; give [8]"),
        (body(state=encode_array(np.full(8, np.nan, np.float32))), "state holds NaN"),
        (body(wrist_cam=None), "wrist_cam has to be an array"),
        (body(num_steps=0), "num_steps is 0"),
    ],
)
def test_a_request_that_does_not_fit_is_one_line(
    served: ActServer, engine: StandInEngine, content: bytes, words: str
) -> None:
    answer = post(served, content)
    assert answer.status_code == 400 and words in answer.json()["error"] and "\n" not in answer.json()["error"]
    assert not engine.seen


def refuse(wanted: object) -> None:
    raise RefusedStep("words that no prompt may hold")


def fail(wanted: object) -> None:
    raise RuntimeError("out of memory\nat layer 3")


def test_what_the_engine_refuses_and_how_it_fails_is_told_and_it_goes_on(
    served: ActServer, engine: StandInEngine
) -> None:
    engine.during = refuse
    assert post(served, body()).json() == {"error": "words that no prompt may hold"}
    engine.during = fail
    answer = post(served, body())
    assert (answer.status_code, answer.json()) == (
        500, {"error": "the engine failed (RuntimeError: out of memory at layer 3)"},
    )  # fmt: skip
    engine.during = lambda wanted: None
    assert post(served, body()).status_code == 200


def test_one_step_at_a_time_and_who_waits_too_long_is_told(
    served: ActServer, engine: StandInEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(act_server, "PATIENCE", 0.2)
    running, read, free = threading.Event(), threading.Semaphore(0), threading.Event()

    def parse_and_tell(*given: Any) -> ActRequest:
        read.release()
        return parse_request(*given)

    monkeypatch.setattr(act_server, "parse_request", parse_and_tell)

    def wait(wanted: object) -> None:
        running.set()
        free.wait(5)

    engine.during = wait
    answers: list[httpx.Response] = []
    threads = [threading.Thread(target=lambda: answers.append(post(served, body()))) for _ in range(2)]
    threads[0].start()
    assert running.wait(5) and read.acquire(timeout=5)
    threads[1].start()
    assert read.acquire(timeout=5)
    time.sleep(0.4)
    assert len(engine.seen) == 1
    free.set()
    for thread in threads:
        thread.join(5)
    assert sorted(answer.status_code for answer in answers) == [200, 503]
    assert len(engine.seen) == 1, "an old request was answered"


def test_a_client_that_has_gone_keeps_nobody_waiting(served: ActServer, engine: StandInEngine) -> None:
    running, ended = threading.Event(), threading.Event()

    def step(wanted: Callable[[], bool]) -> None:
        running.set()
        deadline = time.monotonic() + 5
        while wanted():
            assert time.monotonic() < deadline, "the step goes on for nobody"
            time.sleep(0.01)
        ended.set()
        raise CancelledStep

    engine.during = step
    content = body()
    with socket.create_connection(("127.0.0.1", served.port)) as client:
        client.sendall(f"POST /act HTTP/1.1\r\nContent-Length: {len(content)}\r\n\r\n".encode() + content)
        assert running.wait(5)
    assert ended.wait(5)
    engine.during = lambda wanted: None
    assert post(served, body()).status_code == 200


def test_sizes_are_limited_before_anything_is_read(served: ActServer, engine: StandInEngine) -> None:
    def status_of(head: str) -> bytes:
        with socket.create_connection(("127.0.0.1", served.port), timeout=5) as client:
            client.sendall(f"POST /act HTTP/1.1\r\n{head}\r\n\r\n".encode())
            return client.recv(1000).split()[1]

    assert status_of(f"Content-Length: {(64 << 20) + 1}") == b"413"
    assert status_of("Content-Length: " + "9" * 5000) == b"413"
    assert status_of("Content-Length: -1") == b"411"
    assert status_of("Transfer-Encoding: chunked") == b"411"
    assert not engine.seen


def test_a_request_that_does_not_come_whole_is_given_up(engine: StandInEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(act_server, "RECEIVE", 0.3)
    for server in serving(engine):
        for head in (b"POST /act HTTP/1.1\r\nContent-Length: 99\r\n\r\n{", b"POST /act HT", b""):
            with socket.create_connection(("127.0.0.1", server.port), timeout=5) as client:
                client.sendall(head)
                while client.recv(1000):  # until the server ends it
                    pass
        assert post(server, body()).status_code == 200
    assert len(engine.seen) == 1


def test_there_are_few_connections(served: ActServer, monkeypatch: pytest.MonkeyPatch) -> None:
    open_ones = [socket.create_connection(("127.0.0.1", served.port)) for _ in range(act_server.MOST_CONNECTIONS)]
    time.sleep(0.2)
    with pytest.raises(httpx.HTTPError):
        post(served, body())
    for connection in open_ones:
        connection.close()
    deadline = time.monotonic() + 5
    while True:
        try:
            assert post(served, body()).status_code == 200
            return
        except httpx.HTTPError:
            assert time.monotonic() < deadline
            time.sleep(0.05)


def test_a_key_is_asked_for_and_web_pages_are_turned_away(engine: StandInEngine) -> None:
    for server in serving(engine, KEY):
        for headers in ({}, {"Authorization": "Bearer wrong"}, {"Authorization": KEY}):
            answer = post(server, body(), **headers)
            assert answer.status_code == 401 and "Bearer" in answer.json()["error"]
            assert HTTP.get(f"{server.url}/act", headers=headers).status_code == 401
        assert HTTP.get(f"{server.url}/healthz").status_code == 200
        assert post(server, body(), Authorization=f"Bearer {KEY}", Origin="http://localhost").status_code == 403
        assert not engine.seen
        assert post(server, body(), Authorization=f"Bearer {KEY}").status_code == 200


def test_a_port_in_use_is_one_line(served: ActServer, engine: Any) -> None:
    with pytest.raises(OSError, match=f"cannot serve at 127.0.0.1, port {served.port}: .*; choose another"):
        ActServer(engine, FIELDS[2], {}, "127.0.0.1", served.port)
