"""A policy whose model runs on a MolmoAct2 server that gets too slow, and that dies in the middle of a step."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from std_srvs.srv import Trigger

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.msg import ActionChunk, EngineStatus, SafetyStatus
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.ros.conversions import chunk_actions, seconds

from .act_stand_in import STEP
from .test_policy import INSTRUCTION, Robot


class ActStandIn:
    """The server's process, which can be slowed down and killed."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port: int = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}"
        script = str(Path(__file__).with_name("act_stand_in.py"))
        with (folder / "server.log").open("ab") as log:
            self.process = subprocess.Popen(
                [sys.executable, script, str(port), str(folder)], stdout=log, stderr=log, cwd=folder
            )
        deadline = time.monotonic() + 30
        while time.monotonic() < deadline:
            try:
                httpx.get(f"{self.url}/act", timeout=1.0)
                return
            except httpx.HTTPError:
                time.sleep(0.1)
        raise AssertionError("the server never came up")

    def pause(self, seconds: float) -> None:
        """Let each answer take so long from now on, s."""
        (self.folder / "pause").write_text(str(seconds))

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture(scope="module")
def running(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[Robot, ActStandIn]]:
    logs = tmp_path_factory.mktemp("logs")
    server = ActStandIn(tmp_path_factory.mktemp("server"))
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60], "instruction": INSTRUCTION},
        # Only a fault of the engine holds the arm, not a busy machine.
        "controller": {"joints_deadline": 5.0, "camera_deadline": 10.0, "silence_deadline": 10.0},
        "policy": {
            "backend": "act", "server": server.url, "unnorm_key": "franka_droid", "max_age": 3.0, "action_dt": 0.4,
            "answer_timeout": 2.0, "period": 0.5, "state_max_age": 1.0, "joint_slop": 1.0,
        },
    }  # fmt: skip
    with Bringup(Profile(nodes=parameters), logs) as bringup:
        robot = Robot(bringup)
        yield robot, server
        robot.close()
    server.kill()


def shoulder(chunk: ActionChunk) -> float:
    """The angle of joint 2 that was measured with a chunk's image, rad."""
    return float(dict(zip(chunk.joint_names, chunk.joint_positions, strict=True))[SINGLE.joints[1]])


def goes_on(robot: Robot) -> None:
    """The policy moves the arm, and has a new chunk."""
    assert robot.until(lambda: robot.engine[-1].state == EngineStatus.RUNNING)
    robot.call(Trigger, "/controller/start")
    assert robot.until(lambda: robot.state() == SafetyStatus.POLICY), robot.safety[-1]
    count = len(robot.chunks)
    assert robot.until(lambda: len(robot.chunks) > count)


def test_units_polarity_a_slow_server_and_a_dead_one(running: tuple[Robot, ActStandIn]) -> None:
    robot, server = running
    robot.say(INSTRUCTION)
    assert robot.until(lambda: robot.chunks), robot.engine[-1]
    first = robot.chunks[0]
    assert (first.action_space, first.unnorm_key, first.stated) == (ActionChunk.JOINT_POSITION, "franka_droid", True)
    actions, measured = chunk_actions(first), dict(zip(first.joint_names, first.joint_positions, strict=True))
    arm = np.array([measured[name] for name in SINGLE.joints])
    arm = arm + STEP * np.arange(15)[:, None] * (np.arange(7) == 1)
    np.testing.assert_allclose(actions[:, :7], arm, atol=1e-5)
    # The hand is open: DROID's 0 went to the server, and the 0.1 that it answers is nearly open.
    np.testing.assert_allclose(actions[:, 7], 0.9, atol=0.02)

    goes_on(robot)
    assert robot.until(lambda: shoulder(robot.chunks[-1]) > shoulder(first) + 0.02), "the arm does not follow"

    server.pause(5.0)  # longer than answer_timeout
    robot.spin(0.5)
    slow = robot.now()
    assert robot.until(lambda: "no whole answer came within 2 s" in robot.engine[-1].message)
    assert robot.engine[-1].state == EngineStatus.FAULT
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert "engine reports a fault" in robot.safety[-1].reason
    told = len(robot.chunks)
    server.pause(0.0)
    assert robot.until(lambda: len(robot.chunks) > told), "the policy did not come back"
    assert seconds(robot.chunks[told].header.stamp) > slow, "a late answer was published"
    assert robot.state() == SafetyStatus.HOLD

    goes_on(robot)
    server.pause(0.5)
    robot.spin(0.7)
    server.kill()
    told = len(robot.chunks)
    assert robot.until(lambda: robot.engine[-1].state == EngineStatus.FAULT and server.url in robot.engine[-1].message)
    assert "step is dropped" in robot.engine[-1].message
    assert robot.until(lambda: robot.state() == SafetyStatus.HOLD)
    assert "engine reports a fault" in robot.safety[-1].reason
    assert len(robot.chunks) == told, "a chunk was made of an answer that broke off"
