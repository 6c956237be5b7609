"""The engine that asks a server: what is believed, what is dropped, and who is left alone."""

from __future__ import annotations

import asyncio
import json
import threading
import time
from collections.abc import Callable, Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib import import_module
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from molmoact_ros.cli.main import main
from molmoact_ros.engine.base import ReasoningMode
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.engine.factory import EngineOptions, open_engine
from molmoact_ros.engine.model.weight_files import CheckpointError
from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vllm_backend.client import ServerStream
from molmoact_ros.engine.vllm_backend.engine import VllmEngine, known_beginning, served_name
from molmoact_ros.engine.vllm_backend.local import engine_arguments, server_command, server_environment
from molmoact_ros.engine.vllm_backend.plugin.doors import OnlyOpenDoors
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.utils.paths import default_checkpoint

NAME = served_name(default_checkpoint())
Send = Callable[[BaseHTTPRequestHandler], None]


class Answering:
    """A server whose next answers are given beforehand."""

    def __init__(self) -> None:
        self.name, self.send, self.asked = NAME, lambda handler: None, list[dict]()
        self.key = ""
        outer = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                if outer.key and self.headers["Authorization"] != f"Bearer {outer.key}":
                    self._tell(401, b'{"error": "Unauthorized"}')
                    return
                self._tell(200, json.dumps({"data": [{"id": outer.name}]}).encode())

            def do_POST(self) -> None:
                assert not outer.key or self.headers["Authorization"] == f"Bearer {outer.key}"
                outer.asked.append(json.loads(self.rfile.read(int(self.headers["Content-Length"]))))
                outer.send(self)

            def _tell(self, code: int, content: bytes) -> None:
                self.send_response(code)
                self.send_header("Content-Length", str(len(content)))
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, *_: object) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"


def events(*pieces: list[int], end: bytes = b"data: [DONE]\n\n") -> Send:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.end_headers()
        for piece in pieces:
            handler.wfile.write(f"data: {json.dumps({'choices': [{'token_ids': piece}]})}\n\n".encode())
        handler.wfile.write(end)

    return send


def status(code: int) -> Send:
    def send(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(code)
        handler.end_headers()
        handler.wfile.write(b"not now")

    return send


@pytest.fixture
def server() -> Iterator[Answering]:
    answering = Answering()
    yield answering
    answering.server.shutdown()
    answering.server.server_close()


@pytest.fixture
def served(server: Answering) -> VllmEngine:
    return VllmEngine(default_checkpoint(), ServerStream(server.url, NAME), NAME, timeout=5.0)


@pytest.fixture(scope="module")
def torchs() -> TorchEngine:
    return TorchEngine.load(default_checkpoint(), threads=1)


def look(depth: bool = False) -> Observation:
    rng = np.random.default_rng(0)
    front, wrist = (rng.integers(0, 256, (48, 64, 3), dtype=np.uint8) for _ in range(2))
    return Observation(
        (front, wrist), "put the red cube in the bowl", 0.0, depth=np.full((48, 64), 0.7) if depth else None
    )


def test_the_contract_is_that_of_torch(server: Answering, served: VllmEngine, torchs: TorchEngine) -> None:
    said = list(torchs.reason(look()))
    tokens = torchs.tokens
    cuts = [0, 2, 60, 104, 120, 121, len(tokens)]
    server.send = events(*(tokens[a:b] for a, b in pairwise(cuts)))
    heard = list(served.reason(look()))
    assert served.tokens == tokens
    assert [r.complete for r in heard][-1] and not any(r.complete for r in heard[:-1])
    np.testing.assert_array_equal(heard[-1].actions, said[-1].actions)
    # Depth codes are told of before the trace, and this before the actions.
    order = [(r.depth_codes is not None, r.trace is not None, r.actions is not None) for r in heard]
    assert order == sorted(order) and (True, False, False) in order and (True, True, False) in order
    assert served.timings.mode is ReasoningMode.FULL and served.timings.counts.tokens == len(tokens)
    (asked,) = server.asked
    assert asked["model"] == NAME and asked["temperature"] == 0 and asked["return_token_ids"]
    *pictures, words = asked["messages"][0]["content"]
    assert len(pictures) == 2 and words["text"].startswith("The task is put the red cube in the bowl. What")


def test_given_parts_are_in_the_grammar(server: Answering, served: VllmEngine, torchs: TorchEngine) -> None:
    list(torchs.reason(look(depth=True), ReasoningMode.GROUNDED))
    server.send = events(torchs.tokens)
    (*_, said) = served.reason(look(depth=True), ReasoningMode.GROUNDED)
    assert said.depth_codes is not None and served.tokens == torchs.tokens
    grammar, (_, given) = served.grammars[False], served.given(look(depth=True), ReasoningMode.GROUNDED, guess=False)
    beginning = known_beginning(grammar, given)
    assert beginning == torchs.tokens[: len(beginning)] and len(beginning) > 100
    assert " ".join(f"<[{token}]>" for token in beginning) in server.asked[-1]["structured_outputs"]["grammar"]


@pytest.mark.parametrize(
    ("send", "words"),
    [
        (events([17, 1066]), "before its end"),
        (events([17, 5]), "not allowed"),
        (events(end=b'data: {"error": {"message": "out of memory"}}\n\n'), "gave up: out of memory"),
        (events(end=b"data: nonsense\n\n"), "not understood"),
        (events(end=b'data: {"choices": [{"token_ids": 3}]}\n\n'), "not understood"),
        (status(429), "busy"),
        (status(503), "busy"),
        (status(400), "refuses .HTTP 400.: not now"),
    ],
)
def test_what_is_not_an_answer_is_dropped(server: Answering, served: VllmEngine, send: Send, words: str) -> None:
    server.send = send
    with pytest.raises(RefusedStep, match=words):
        list(served.reason(look()))
    assert served.tokens == []


def test_a_server_that_failed_is_left_alone_for_a_while(
    server: Answering, served: VllmEngine, torchs: TorchEngine
) -> None:
    server.send = status(503)
    for _ in range(3):
        with pytest.raises(RefusedStep, match="busy"):
            list(served.reason(look()))
    assert len(server.asked) == 1
    list(torchs.reason(look()))
    server.send = events(torchs.tokens)
    time.sleep(0.3)
    assert list(served.reason(look()))[-1].complete


def test_another_model_is_refused(server: Answering, served: VllmEngine) -> None:
    server.name = "molmoact-0"
    with pytest.raises(RefusedStep, match="serves molmoact-0, not this checkpoint"):
        list(served.reason(look()))
    assert not server.asked


def test_no_server_is_one_line() -> None:
    engine = open_engine(EngineOptions(backend="server", server="http://127.0.0.1:9"), default_checkpoint())
    engine.warm_up()  # it may come up later
    with pytest.raises(RefusedStep, match="http://127.0.0.1:9 does not answer"):
        list(engine.reason(look()))
    with pytest.raises(CheckpointError, match="choose one of: torch, vllm, server, act"):
        open_engine(EngineOptions(backend="sglang"), default_checkpoint())


# M7: a key for the server

KEY = "a-key-that-nobody-guesses"


@pytest.fixture
def key_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("MOLMOACT_API_KEY", raising=False)
    file = tmp_path / "key"
    file.write_text(KEY + "\n")
    file.chmod(0o600)
    return file


@pytest.mark.parametrize("how", ["file", "environment"])
def test_m7_the_policy_brings_the_key(
    server: Answering, torchs: TorchEngine, key_file: Path, monkeypatch: pytest.MonkeyPatch, how: str
) -> None:
    server.key = KEY
    list(torchs.reason(look()))
    server.send = events(torchs.tokens)
    if how == "environment":
        monkeypatch.setenv("MOLMOACT_API_KEY", KEY)
    options = EngineOptions(backend="server", server=server.url, server_key_file=str(key_file) if how == "file" else "")
    assert list(open_engine(options, default_checkpoint()).reason(look()))[-1].complete
    assert len(server.asked) == 1 and KEY not in repr(options)


def test_m7_a_wrong_key_and_none_are_one_clear_line(server: Answering, key_file: Path) -> None:
    server.key = "another-key-than-the-policys"
    for file in (str(key_file), ""):
        engine = open_engine(
            EngineOptions(backend="server", server=server.url, server_key_file=file), default_checkpoint()
        )
        with pytest.raises(RefusedStep, match=r"refuses the key .HTTP 401.; set server_key_file") as refusal:
            list(engine.reason(look()))
        assert "\n" not in str(refusal.value) and KEY not in str(refusal.value)
    assert not server.asked


def test_m7_a_key_that_others_may_read_or_that_is_no_key_is_refused(key_file: Path) -> None:
    options = EngineOptions(backend="server", server_key_file=str(key_file))
    key_file.chmod(0o644)
    with pytest.raises(ValueError, match="others may read the key .* chmod 600"):
        open_engine(options, default_checkpoint())
    key_file.chmod(0o600)
    for text in ("short", "two words that are long", "schlüssel-mit-umlauten", ""):
        key_file.write_text(text)
        with pytest.raises(ValueError, match="not one word of at least 16 ASCII characters"):
            open_engine(options, default_checkpoint())
    with pytest.raises(OSError, match="nowhere"):
        open_engine(EngineOptions(backend="server", server_key_file="/nowhere"), default_checkpoint())


@pytest.mark.parametrize("host", ["0.0.0.0", "192.168.1.5", "::", "gpu"])
def test_m7_serve_is_refused_to_a_network_without_a_key(
    host: str, key_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["serve", "--host", host]) == 1
    (line,) = capsys.readouterr().err.strip().splitlines()
    assert "anybody in the network" in line and "--api-key-file" in line


def test_m7_the_key_goes_to_vllm_where_ps_does_not_show_it(key_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert "VLLM_API_KEY" not in server_environment("127.0.0.1", "")
    assert server_environment("0.0.0.0", str(key_file))["VLLM_API_KEY"] == KEY
    monkeypatch.setenv("MOLMOACT_API_KEY", KEY)
    assert server_environment("0.0.0.0", "")["VLLM_API_KEY"] == KEY
    command = server_command(engine_arguments(default_checkpoint()), "0.0.0.0", 8000)
    assert KEY not in " ".join(command)


@pytest.mark.parametrize(
    ("scope", "told"),
    [
        ({"type": "http", "path": "/v1/chat/completions"}, "passed"),
        ({"type": "http", "path": "/v1/models"}, "passed"),
        ({"type": "lifespan"}, "passed"),
        ({"type": "http", "path": "/invocations"}, "http.response.start 404"),
        ({"type": "http", "path": "/pause"}, "http.response.start 404"),
        ({"type": "http", "path": "/v1/../pause"}, "http.response.start 404"),
        ({"type": "websocket", "path": "/v1/realtime"}, "websocket.close"),
    ],
)
def test_m7_what_vllm_serves_without_asking_for_the_key_is_shut(scope: dict[str, str], told: str) -> None:
    said: list[str] = []

    async def app(scope: Any, receive: Any, send: Any) -> None:
        said.append("passed")

    async def send(message: dict[str, Any]) -> None:
        said.append(f"{message['type']} {message.get('status', '')}".strip())

    asyncio.run(OnlyOpenDoors(app)(scope, None, send))
    assert said[0] == told
    command = server_command(engine_arguments(default_checkpoint()), "127.0.0.1", 8000)
    module, _, name = command[command.index("--middleware") + 1].rpartition(".")
    assert getattr(import_module(module), name) is OnlyOpenDoors


def hang(handler: BaseHTTPRequestHandler) -> None:
    handler.send_response(200)
    handler.end_headers()
    handler.wfile.write(b'data: {"choices": [{"token_ids": [17]}]}\n\n')
    time.sleep(3)


def test_a_silent_server_is_given_up(server: Answering) -> None:
    served = VllmEngine(default_checkpoint(), ServerStream(server.url, NAME), NAME, timeout=0.3)
    server.send = hang
    began = time.monotonic()
    with pytest.raises(RefusedStep, match=r"no whole answer came within 0\.3 s"):
        list(served.reason(look()))
    assert time.monotonic() - began < 2


def test_a_step_that_is_not_wanted_ends_though_the_server_is_silent(server: Answering, served: VllmEngine) -> None:
    server.send = hang
    until = time.monotonic() + 0.2
    with pytest.raises(CancelledStep):
        list(served.reason(look(), wanted=lambda: time.monotonic() < until))
    assert time.monotonic() < until + 1.5


def test_the_servers_command() -> None:
    arguments = engine_arguments(default_checkpoint(), quantization="fp8", tensor_parallel=2)
    command = server_command(arguments, "0.0.0.0", 8001, ["--data-parallel-size", "4"])
    text = " ".join(command)
    assert (
        "--quantization fp8" in text and "--tensor-parallel-size 2" in text and text.endswith("--data-parallel-size 4")
    )
    assert f"--served-model-name {NAME}" in text and '--structured-outputs-config {"backend": "guidance"}' in text
    assert "drafts.AnswerDrafts" in text and "drafts" not in " ".join(
        server_command(engine_arguments(default_checkpoint(), drafts=False), "::1", 1)
    )
