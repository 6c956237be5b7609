"""An operator takes over in a running graph, with the real devices' nodes, and it is recorded as theirs."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from sensor_msgs.msg import Joy

from molmoact_ros.bags.bag import BagReader
from molmoact_ros.benchmarks.fault_graph import Graph, graph
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.ros import qos

PATIENCE = 20.0


@pytest.fixture(scope="module")
def bag(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("bag") / "bag"


@pytest.fixture(scope="module")
def running(domain: int, bag: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Graph]:
    more: dict[str, dict[str, Any]] = {
        "controller": {"teleop_hand_back": True, "joints_deadline": 0.5},
        "joystick": {}, "recorder": {"bag": str(bag), "exclude": [".*image.*"]},
    }  # fmt: skip
    with graph(policy=False, clock=False, logs=tmp_path_factory.mktemp("logs"), more=more) as running:
        yield running


def in_hand(running: Graph) -> bool:
    return bool(running.rig.safety.state == SafetyStatus.TELEOP)


def pause_if_asked(running: Graph) -> None:
    """Let go for a second where the controller asks for it, as an operator does who reads it: it follows no stream that
    does not pause of a publisher whose discovery, which may take seconds, it has just finished.
    """
    if any("until they let go" in warning for warning in running.rig.safety.warnings):
        time.sleep(1.0)


def test_a_joystick_takes_over_in_mid_motion_and_hands_back(running: Graph) -> None:
    rig = running.rig
    joy = rig.create_publisher(Joy, "/joy", qos.RELIABLE)
    assert rig.until(lambda: joy.get_subscription_count() > 0, PATIENCE)
    axes, buttons = [0.0] * 8, [0] * 11
    axes[4] = 1.0  # up, as far as it goes

    def push() -> bool:
        pause_if_asked(running)
        joy.publish(Joy(axes=axes, buttons=buttons))
        time.sleep(0.03)
        return in_hand(running)

    running.begin()
    assert not rig.until(push, 0.5), "nothing without the dead-man's button"
    buttons[4] = 1
    assert rig.until(push, PATIENCE)
    assert rig.safety.reason == "an operator moves the arm: twist"
    before = rig.q.copy()
    assert rig.until(lambda: push() and bool(abs(rig.q - before).max() > 0.03), PATIENCE), "it moves as told"
    assert rig.until(lambda: rig.safety.state == SafetyStatus.POLICY, PATIENCE), "nobody speaks: the policy goes on"
    assert rig.until(rig.moving, PATIENCE)


def test_a_keyboard_moves_stops_and_resumes(running: Graph, tmp_path: Path) -> None:
    rig = running.rig
    ours, theirs = pty.openpty()
    teleop = subprocess.Popen(
        [sys.executable, "-m", "molmoact_ros.cli.main", "teleop", "keyboard"],
        stdin=theirs, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path,
    )  # fmt: skip

    def press(key: bytes, pause: float = 0.05) -> None:
        os.write(ours, key)
        time.sleep(pause)

    def until(key: bytes, state: int, pause: float = 0.05) -> bool:
        def pressed() -> bool:
            pause_if_asked(running)
            press(key, pause)
            return bool(rig.safety.state == state)

        return rig.until(pressed, PATIENCE)

    twist = "/controller/teleop/twist"
    before = rig.count_publishers(twist)
    try:
        rig.go()
        assert rig.until(lambda: rig.count_publishers(twist) > before, PATIENCE)
        rig.until(lambda: False, 3.0)  # what streams when it is discovered has to pause once
        rig.go()
        assert until(b"r", SafetyStatus.TELEOP)
        assert until(b"x", SafetyStatus.STOPPED)
        press(b"r")
        assert not rig.until(lambda: in_hand(running), 0.5), "a stop stays"
        assert until(b"c", SafetyStatus.POLICY, pause=1.2), "reset, then resume: presses with a pause between"
        press(b"q")
        output, _ = teleop.communicate(timeout=PATIENCE)
        assert teleop.returncode == 0 and b"quit" in output and b"stopped" in output
    finally:
        teleop.kill()
        teleop.wait()
        os.close(ours)
        os.close(theirs)


def test_a_keyboard_without_a_terminal_is_said(domain: int, tmp_path: Path) -> None:
    command = [sys.executable, "-m", "molmoact_ros.cli.main", "teleop", "keyboard"]
    done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, cwd=tmp_path, timeout=60)
    assert done.returncode == 1 and "needs a terminal" in done.stderr


def test_what_the_person_did_is_recorded_as_theirs(running: Graph, bag: Path) -> None:
    running.bringup.stop()
    with BagReader(bag) as recorded:
        said = [recorded.decode(m) for m in recorded.messages(["/controller/teleop/twist"])]
        told = [recorded.decode(m) for m in recorded.messages(["/controller/safety_status"])]
    assert any(message.twist.linear.z > 0.05 for message in said)
    assert {message.header.frame_id for message in said} == {"fr3_link0"}
    assert "an operator moves the arm: twist" in {
        status.reason for status in told if status.state == SafetyStatus.TELEOP
    }
