"""A policy whose model runs on a server that dies in the middle of a step.

By default the server is a small one that speaks the same protocol; MOLMOACT_VLLM names an environment with vLLM, whose
real server is then used (`make test-vllm`).
"""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
from std_srvs.srv import Trigger

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import EngineStatus, SafetyStatus
from molmoact_ros.ros.conversions import seconds
from molmoact_ros.utils.paths import default_checkpoint

from .test_policy import INSTRUCTION, Robot

VLLM = os.environ.get("MOLMOACT_VLLM")
PAUSE = 0.05  # s between two of the twelve pieces of an answer
PATIENCE = 180.0  # s for a server to come up


class Server:
    """The server, which can be killed and started again at the same port."""

    def __init__(self, checkpoint: Path, logs: Path) -> None:
        self.checkpoint, self.logs = checkpoint, logs
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{self.port}"
        self.start()

    def start(self) -> None:
        stand_in = [sys.executable, str(Path(__file__).with_name("stand_in.py")), str(self.checkpoint)]
        command = [*stand_in, str(self.port), str(PAUSE)]
        if VLLM:
            serve = [f"{VLLM}/bin/molmoact-ros", "serve", "--checkpoint", str(self.checkpoint)]
            command = [*serve, "--port", str(self.port)]
        with (self.logs / "server.log").open("ab") as log:
            self.process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True, cwd=self.logs)

    def wait(self) -> None:
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            assert self.process.poll() is None, (self.logs / "server.log").read_text()[-2000:]
            try:
                if httpx.get(f"{self.url}/v1/models", timeout=1.0).status_code == 200:
                    return
            except httpx.HTTPError:
                time.sleep(0.2)
        raise AssertionError("the server never came up")

    def kill(self) -> None:
        if self.process.poll() is None:
            children = Path(f"/proc/{self.process.pid}/task/{self.process.pid}/children").read_text().split()
            for group in {os.getpgid(pid) for pid in [*map(int, children), self.process.pid]}:
                os.killpg(group, 9)
            self.process.wait()


@pytest.fixture(scope="module")
def running(domain: int, checkpoint: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Robot, Server]]:
    folder = default_checkpoint() if VLLM else checkpoint
    logs = tmp_path_factory.mktemp("logs")
    server = Server(folder, logs)
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        "controller": {"joints_deadline": 1.0, "camera_deadline": 3.0},
        "policy": {
            "backend": "server", "server": server.url, "checkpoint": str(folder), "max_age": 2.0, "action_dt": 0.4,
            "answer_timeout": 10.0,
        },
    }  # fmt: skip
    server.wait()
    with Bringup(Profile(nodes=parameters), logs) as bringup:
        robot = Robot(bringup)
        yield robot, server
        robot.close()
    server.kill()


def test_a_server_killed_in_mid_step_leaves_an_arm_that_holds(running: tuple[Robot, Server]) -> None:
    robot, server = running
    robot.say(INSTRUCTION)
    assert robot.until(lambda: len(robot.chunks) >= 2)
    robot.call(Trigger, "/controller/start")
    assert robot.until(lambda: robot.state() == SafetyStatus.POLICY), robot.safety[-1]

    # A step begins with the last plan's end: a little later one is under way.
    count = len(robot.chunks)
    assert robot.until(lambda: len(robot.chunks) > count)
    robot.spin(0.1)
    server.kill()
    killed, told = robot.now(), len(robot.chunks)
    # An answer may also seem to have ended early; the next one finds nobody.
    assert robot.until(lambda: robot.engine[-1].state == EngineStatus.FAULT and server.url in robot.engine[-1].message)
    assert "step is dropped" in robot.engine[-1].message
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert len(robot.chunks) == told, "a chunk was told of an answer that broke off"
    held = robot.now()

    server.start()
    server.wait()
    assert robot.until(lambda: len(robot.chunks) > told, 60.0), "the policy did not come back"
    # It reasons again by itself; nothing that it tells is of before, and the arm holds until somebody says go on.
    assert all(seconds(chunk.header.stamp) > killed for chunk in robot.chunks[told:])
    assert robot.state() == SafetyStatus.HOLD
    robot.call(Trigger, "/controller/start")
    assert robot.until(lambda: robot.state() == SafetyStatus.POLICY)
    count = len(robot.chunks)
    assert robot.until(lambda: len(robot.chunks) > count)
    assert seconds(robot.chunks[-1].header.stamp) > held
    print(f"\nkilled, held after {held - killed:.2f} s")
