"""A small server that speaks MolmoAct2's /act for DROID, written from the protocol alone: none of our code is in it.

Usage: act_stand_in.py PORT FOLDER. Its arm moves joint 1 (the shoulder) ahead by STEP rad with each action, from the
state that it was sent; its gripper is to be 0.1 + 0.5 g for a gripper g of the state (0 open, 1 closed). While FOLDER
holds a file `pause`, an answer takes as many seconds as that says.
"""

from __future__ import annotations

import base64
import json
import sys
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np

STEP = 0.004


def decoded(value: dict[str, Any]) -> np.ndarray:
    return np.frombuffer(base64.b64decode(value["__numpy__"]), value["dtype"]).reshape(value["shape"])


class Handler(BaseHTTPRequestHandler):
    folder: Path

    def do_GET(self) -> None:
        self.tell({"status": "ok", "repo_id": "allenai/MolmoAct2-DROID", "norm_tag": "franka_droid"})

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        assert self.path == "/act" and asked["instruction"]
        for name in ("external_cam", "wrist_cam"):
            assert decoded(asked[name]).ndim == 3 and asked[name]["dtype"] == "|u1"
        state = decoded(asked["state"])
        assert state.shape == (8,) and state.dtype == np.float32
        pause = self.folder / "pause"
        time.sleep(float(pause.read_text()) if pause.exists() else 0.0)
        actions = np.tile(state, (15, 1))
        actions[:, 1] += STEP * np.arange(15)
        actions[:, 7] = 0.1 + 0.5 * state[7]
        text = base64.b64encode(actions.astype("<f4").tobytes()).decode()
        self.tell({"actions": {"__numpy__": text, "dtype": "<f4", "shape": [15, 8]}, "dt_ms": 1.0})

    def tell(self, content: dict[str, Any]) -> None:
        body = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Nothing."""


if __name__ == "__main__":
    Handler.folder = Path(sys.argv[2])
    ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Handler).serve_forever()
