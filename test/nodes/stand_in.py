"""A small HTTP server that speaks as much of vLLM's OpenAI-compatible API as a policy needs; torch answers behind it.

Usage: stand_in.py CHECKPOINT PORT PAUSE. PAUSE: seconds between the pieces of an answer.
"""

from __future__ import annotations

import base64
import json
import re
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Lock
from typing import Any

import cv2
import numpy as np

from molmoact_ros.engine.torch_engine import TorchEngine
from molmoact_ros.engine.vllm_backend.engine import served_name
from molmoact_ros.reasoning.observation import Observation

PIECES = 12


def picture(part: dict[str, Any]) -> np.ndarray:
    """The image uint8 [H, W, 3] in a part of a message."""
    png = base64.b64decode(part["image_url"]["url"].removeprefix("data:image/png;base64,"))
    return cv2.cvtColor(cv2.imdecode(np.frombuffer(png, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


class Handler(BaseHTTPRequestHandler):
    engine: TorchEngine
    name: str
    pause: float
    lock = Lock()

    def do_GET(self) -> None:
        self.tell(json.dumps({"data": [{"id": self.name}]}).encode())

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert asked["structured_outputs"]["grammar"].startswith("start: <[")
        *pictures, words = asked["messages"][0]["content"]
        task = re.match(r"The task is (.*?)\. (?:What|Notice)", words["text"])
        assert task is not None and asked["model"] == self.name
        observation = Observation(tuple(map(picture, pictures)), task[1], 0.0)
        with self.lock:
            for _ in self.engine.reason(observation):
                pass
            tokens = list(self.engine.tokens)
        self.send_response(200)
        self.end_headers()
        size = -(-len(tokens) // PIECES)
        for start in range(0, len(tokens), size):
            event = {"choices": [{"token_ids": tokens[start : start + size]}]}
            self.wfile.write(f"data: {json.dumps(event)}\n\n".encode())
            time.sleep(self.pause)
        self.wfile.write(b"data: [DONE]\n\n")

    def tell(self, content: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    Handler.engine = TorchEngine.load(Path(sys.argv[1]), threads=1)
    Handler.name, Handler.pause = served_name(Path(sys.argv[1])), float(sys.argv[3])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[2])), Handler).serve_forever()
