"""Downloading, from a server on this machine that speaks the Hub's protocol."""

from __future__ import annotations

import hashlib
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

COMMIT = "0123456789abcdef0123456789abcdef01234567"
WEIGHTS, BREAKS_AT = "model-00001-of-00001.safetensors", 12_000_000
FILES = {
    "config.json": b'{"model_type": "molmoact"}',
    WEIGHTS: bytes(range(256)) * 100_000,  # more than the client writes at once
    "vae-final.pt": b"tensors",
    "modeling_molmoact.py": b"raise SystemExit('remote code')",
    "depth_anything_v2_vitb.pth": b"another pickle",
}


class Hub(ThreadingHTTPServer):
    """breaks: how many more downloads of the weights end at BREAKS_AT bytes; newest: the commit of the branch; asked:
    (method, path, range)."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.breaks, self.newest = 0, COMMIT
        self.asked: list[tuple[str, str, str]] = []


class Handler(BaseHTTPRequestHandler):
    server: Hub

    def log_message(self, format: str, *args: object) -> None:
        pass

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def _answer(self, body: bool) -> None:
        self.server.asked.append((self.command, self.path, self.headers.get("Range", "")))
        if self.path == "/api/models/lab/small/revision/nowhere":
            self.send_response(404)
            self.send_header("X-Error-Code", "RevisionNotFound")
            self.end_headers()
        elif self.path.startswith("/api/models/lab/small"):
            files = [{"rfilename": name, "size": len(content)} for name, content in FILES.items()]
            tree = [{"type": "file", "path": f["rfilename"], "size": f["size"], "oid": "0" * 40} for f in files]
            answer = tree if "/tree/" in self.path else {"id": "lab/small", "sha": self._commit(), "siblings": files}
            self._send(json.dumps(answer).encode(), body, {"Content-Type": "application/json"})
        elif re.match(r"/lab/small/resolve/[0-9a-f]{40}/", self.path):
            content = FILES[self.path.rsplit("/", 1)[1]]
            etag = hashlib.sha256(content).hexdigest()
            self._send(
                content, body, {"ETag": f'"{etag}"', "X-Repo-Commit": self.path.split("/")[4], "Accept-Ranges": "bytes"}
            )
        else:
            self.send_response(404)
            self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()

    def _commit(self) -> str:
        asked = re.search(r"/revision/([0-9a-f]{40})", self.path)
        return asked[1] if asked else self.server.newest

    def _send(self, content: bytes, body: bool, headers: dict[str, str]) -> None:
        start = int(self.headers["Range"].removeprefix("bytes=").split("-")[0]) if "Range" in self.headers else 0
        self.send_response(206 if start else 200)
        for name, value in (headers | {"Content-Length": str(len(content) - start)}).items():
            self.send_header(name, value)
        self.end_headers()
        if body and self.server.breaks and self.path.endswith(WEIGHTS):
            self.server.breaks -= 1
            self.wfile.write(content[start:BREAKS_AT])
            self.wfile.flush()
            self.connection.close()
        elif body:
            self.wfile.write(content[start:])


@pytest.fixture
def hub() -> Iterator[Hub]:
    server = Hub()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def fetch(hub: Hub, repository: str, folder: Path, *more: str) -> subprocess.CompletedProcess[str]:
    """The command, told where the Hub is."""
    host, port = hub.server_address[:2]
    environment = os.environ | {
        "HF_ENDPOINT": f"http://{host!s}:{port}", "HF_HOME": str(folder / "cache"), "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1", "NO_PROXY": "127.0.0.1", "HF_HUB_DOWNLOAD_TIMEOUT": "2",
    }  # fmt: skip
    command = [
        sys.executable,
        "-m",
        "molmoact_ros.cli.main",
        "fetch",
        repository,
        "--out",
        str(folder / "checkpoint"),
        *more,
    ]
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=folder, timeout=120)


def test_data_is_fetched_and_code_is_not(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, "lab/small", tmp_path)
    assert done.returncode == 0, done.stderr
    assert "doctor --checkpoint" in done.stdout and "%" in done.stderr  # progress
    got = {p.name: p.read_bytes() for p in (tmp_path / "checkpoint").iterdir() if p.is_file()}
    wanted = ("config.json", WEIGHTS, "vae-final.pt")
    assert json.loads(got.pop("fetched.json")) == {"repository": "lab/small", "commit": COMMIT}
    assert got == {name: FILES[name] for name in wanted} and COMMIT in done.stdout


def weights_asked_for(hub: Hub) -> list[str]:
    """The ranges of the weights that were asked for; "" is the whole file."""
    return [r for method, path, r in hub.asked if method == "GET" and path.endswith(WEIGHTS)]


def test_a_connection_that_breaks_is_taken_up_where_it_broke(hub: Hub, tmp_path: Path) -> None:
    hub.breaks = 1
    assert fetch(hub, "lab/small", tmp_path).returncode == 0
    assert (tmp_path / "checkpoint" / WEIGHTS).read_bytes() == FILES[WEIGHTS]
    first, again = weights_asked_for(hub)
    assert not first and int(again.removeprefix("bytes=").split("-")[0]) > 0


def test_a_second_call_fetches_what_is_missing(hub: Hub, tmp_path: Path) -> None:
    hub.breaks = 100
    stopped = fetch(hub, "lab/small", tmp_path)
    weights, small = (tmp_path / "checkpoint" / name for name in (WEIGHTS, "config.json"))
    assert stopped.returncode == 1 and "fetches what is missing" in stopped.stderr
    assert not weights.exists() and small.exists()
    hub.breaks, hub.asked = 0, []
    assert fetch(hub, "lab/small", tmp_path).returncode == 0
    assert weights.read_bytes() == FILES[WEIGHTS]
    assert not [path for method, path, _ in hub.asked if method == "GET" and path.endswith("config.json")]


def test_a_repository_that_is_not_there_is_said_in_one_line(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, "lab/none", tmp_path)
    assert done.returncode == 1
    assert done.stderr.strip() == "error: there is no lab/none on the Hub; one is allenai/MolmoAct-7B-D-0812"
    assert fetch(hub, "not a name", tmp_path).returncode == 1


def test_a_folder_is_of_one_commit_whatever_is_published_meanwhile(hub: Hub, tmp_path: Path) -> None:
    hub.breaks = 100
    assert fetch(hub, "lab/small", tmp_path).returncode == 1
    hub.breaks, hub.newest, hub.asked = 0, "f" * 40, []
    done = fetch(hub, "lab/small", tmp_path)
    assert done.returncode == 0 and COMMIT in done.stdout
    assert {path.split("/")[4] for _, path, _ in hub.asked if "/resolve/" in path} == {COMMIT}
    newer = fetch(hub, "lab/small", tmp_path, "--revision", "main")
    assert newer.returncode == 1 and "fetch " + "f" * 40 + " into another folder" in newer.stderr
    other = fetch(hub, "lab/other", tmp_path)
    assert other.returncode == 1 and "is of lab/small; fetch lab/other into another folder" in other.stderr


def test_a_revision_that_is_not_there_is_said_in_one_line(hub: Hub, tmp_path: Path) -> None:
    done = fetch(hub, "lab/small", tmp_path, "--revision", "nowhere")
    (line,) = done.stderr.strip().splitlines()
    assert done.returncode == 1 and line.startswith("error: lab/small has no revision nowhere")
    assert not (tmp_path / "checkpoint" / "fetched.json").exists()
