"""A server that speaks MolmoAct2's own protocol over an engine here: POST and GET /act, GET /healthz."""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socketserver import TCPServer
from threading import BoundedSemaphore, Thread, Timer
from typing import Any, Final

import numpy as np

from molmoact_ros.engine.act_backend.json_numpy import WireError
from molmoact_ros.engine.act_backend.protocol import (
    LARGEST_REQUEST,
    ActRequest,
    ImageFields,
    answer_body,
    error_body,
    parse_request,
)
from molmoact_ros.engine.decoding.constrained import CancelledStep
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation, RobotState
from molmoact_ros.utils.errors import one_line
from molmoact_ros.utils.secret import same_secret

MOST_CONNECTIONS: Final = 16
"""Connections at a time; another one is closed at once."""
RECEIVE: Final = 10.0
"""s in which a request has to have come, whole."""
PATIENCE: Final = 2.0
"""s that a request waits for those before it; then it is refused, for its images are old by now."""


class BusyServer(RuntimeError):
    """The engine did not come to a request in time."""


class ActServer:
    """Serves an engine to clients of MolmoAct2's own server. Steps are run one at a time, in one thread.

        server = ActServer(engine, fields_of(2), {"repo_id": "MolmoAct2-DROID"}, "127.0.0.1", 8000)
        server.start()
        ...
        server.close()

    Public state: `port`, and `url`.
    """

    def __init__(
        self, engine: Engine, fields: ImageFields, about: dict[str, Any], host: str, port: int, key: str = ""
    ) -> None:
        """about: what GET /act says besides status and norm_tag. port: 0: a free one. key: that clients have to give;
        empty: none.

        Raises OSError for an address in use.
        """
        self._engine, self._fields, self._flow_steps = engine, fields, engine.flow_steps
        self.about, self.key = {"status": "ok", "norm_tag": engine.unnorm_key, **about}, key
        self._steps = ThreadPoolExecutor(1, "engine")
        try:
            self._http = _HttpServer(self, host, port)
        except OSError as error:
            raise OSError(f"cannot serve at {host}, port {port}: {error.strerror}; choose another") from None
        self.port: int = self._http.server_address[1]
        self.url = f"http://{f'[{host}]' if ':' in host else host}:{self.port}"
        self._thread = Thread(target=self._http.serve_forever, name="act", daemon=True)

    def start(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Answer no more; waits for the step in progress."""
        self._http.shutdown()
        self._http.server_close()
        self._steps.shutdown(cancel_futures=True)

    def answer(self, body: bytes, connection: socket.socket) -> bytes:
        """The answer to a request's body.

        Raises WireError and RefusedStep for what does not fit, BusyServer when others took too long, CancelledStep when
        the client has closed its connection, and what the engine raises.
        """
        request = parse_request(body, self._fields, self._engine.state_dimensions)
        return self._steps.submit(self._step, request, time.monotonic(), connection).result()

    def _step(self, request: ActRequest, received: float, connection: socket.socket) -> bytes:
        if not _connected(connection):
            raise CancelledStep
        if time.monotonic() - received > PATIENCE:
            raise BusyServer("other requests took too long; ask again with new images")
        began = time.perf_counter()
        observation = Observation(request.images, request.instruction, 0.0, state=RobotState(request.state, 0.0))
        self._engine.flow_steps = request.flow_steps or self._flow_steps
        actions: np.ndarray | None = None
        for reasoning in self._engine.reason(observation, wanted=lambda: _connected(connection)):
            actions = reasoning.actions
        if actions is None:
            raise RefusedStep("the model gave no actions; check the checkpoint with `molmoact-ros doctor`")
        return answer_body(actions, time.perf_counter() - began)


class _HttpServer(ThreadingHTTPServer):
    """A thread for each connection, and few connections."""

    daemon_threads = True
    request_queue_size = MOST_CONNECTIONS

    def __init__(self, server: ActServer, host: str, port: int) -> None:
        self.act, self._free = server, BoundedSemaphore(MOST_CONNECTIONS)
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        super().__init__((host, port), _Handler)

    def server_bind(self) -> None:
        TCPServer.server_bind(self)  # HTTPServer's own asks DNS for this computer's name, which nothing here needs

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return self._free.acquire(blocking=False)

    def process_request_thread(self, request: Any, client_address: Any) -> None:
        try:
            super().process_request_thread(request, client_address)
        finally:
            self._free.release()

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Connections that break are no news."""
        error = sys.exception() if sys.version_info >= (3, 12) else sys.exc_info()[1]
        if error is not None and not isinstance(error, OSError):
            print(f"/act: {type(error).__name__}: {one_line(error)}", file=sys.stderr, flush=True)


class _Handler(BaseHTTPRequestHandler):
    """One request, after which the connection is closed."""

    server: _HttpServer

    def setup(self) -> None:
        super().setup()
        self._deadline = Timer(RECEIVE, self._end_reading)
        self._deadline.daemon = True
        self._deadline.start()
        self._whole = False  # whether all of the request has come

    def finish(self) -> None:
        """Close, but not before a client that still sends its body could read why it was refused."""
        super().finish()
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_WR)
            while not self._whole and self.connection.recv(1 << 16):
                pass
        self._deadline.cancel()

    def _end_reading(self) -> None:
        """Whoever reads from this connection finds its end."""
        with suppress(OSError):
            self.connection.shutdown(socket.SHUT_RD)

    def _received(self) -> None:
        self._deadline.cancel()
        self._whole = True

    def do_GET(self) -> None:
        self._received()
        if self.path == "/healthz":
            self._send(200, b'{"status": "ok"}')
        elif self._is_allowed():
            self._send(200, json.dumps(self.server.act.about).encode())

    def do_POST(self) -> None:
        body = self._body() if self._is_allowed() else None
        if body is not None:
            self._received()
            self._answer(body)

    def _answer(self, body: bytes) -> None:
        try:
            self._send(200, self.server.act.answer(body, self.connection))
        except CancelledStep:
            return
        except (WireError, RefusedStep) as refusal:
            self._refuse(400, one_line(refusal))
        except BusyServer as busy:
            self._refuse(503, str(busy))
        except Exception as error:  # the server goes on for other clients, whatever the engine raises
            self._refuse(500, f"the engine failed ({type(error).__name__}: {one_line(error)})")

    def _is_allowed(self) -> bool:
        """Whether the path is /act and the client may use it; if not, it has been refused."""
        key = self.server.act.key
        if self.path != "/act":
            self._refuse(404, "there are /act and /healthz")
        elif "Origin" in self.headers:  # a browser: any page that is open on this machine could keep the robot waiting
            self._refuse(403, "web pages may not use this server")
        elif key and not same_secret(self.headers.get("Authorization", ""), f"Bearer {key}"):
            self._refuse(401, "give the server's key as `Authorization: Bearer`")
        else:
            return True
        return False

    def _body(self) -> bytes | None:
        """The request's body; None when it did not come whole, or has been refused."""
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdigit()):
            self._refuse(411, "send the body's Content-Length")
        elif len(length) > 12 or int(length) > LARGEST_REQUEST:
            self._refuse(413, f"a request has at most {LARGEST_REQUEST} bytes; send smaller images")
        elif len(body := self.rfile.read(int(length))) == int(length):
            return body
        return None

    def _refuse(self, status: int, text: str) -> None:
        self._send(status, error_body(text))

    def _send(self, status: int, content: bytes) -> None:
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def send_error(self, code: int, message: str | None = None, explain: str | None = None) -> None:
        """What http.server refuses by itself, in the protocol's form."""
        self._refuse(code, message or "")

    def log_message(self, *_: object) -> None:
        """Requests are not logged."""


def _connected(connection: socket.socket) -> bool:
    """Whether the other side still waits for an answer."""
    try:
        readable, _, _ = select.select([connection], [], [], 0)
        return not readable or bool(connection.recv(1, socket.MSG_PEEK))
    except (OSError, ValueError):
        return False
