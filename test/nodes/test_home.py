"""`molmoact-ros home` with the controller's own process and the simulated arm."""

from __future__ import annotations

import signal
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
from sensor_msgs.msg import JointState
from std_srvs.srv import Trigger

from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.control.supervisor import Event
from molmoact_ros.msg import SafetyStatus
from molmoact_ros.robots.franka import HOME_Q, SINGLE
from molmoact_ros.ros import conversions, qos

from .conftest import Peer

ELSEWHERE = HOME_Q + [0.25, 0.1, 0.0, 0.1, 0.0, 0.0, 0.3]


class Lab(Peer):
    """A simulated arm that starts at the simulator's own pose, and a controller with another start pose."""

    def __init__(self, bringup: Bringup) -> None:
        super().__init__()
        self.bringup = bringup
        self.said: list[SafetyStatus] = self.listen(SafetyStatus, "/controller/safety_status", qos.STATE)
        self.joints: list[JointState] = self.listen(JointState, "/joint_states", qos.SENSOR)
        assert self.until(lambda: self.said and self.joints and self.said[-1].joints_age > 0, 90.0)

    @property
    def q(self) -> np.ndarray:
        """The arm's joints now, [7] rad."""
        positions = conversions.joint_positions(self.joints[-1])
        return np.array([positions[joint] for joint in SINGLE.joints])

    def send_home(self, *more: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-P", "-m", "molmoact_ros.cli.main", "home", *more]
        return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)

    def stands(self) -> bool:
        self.joints.clear()
        self.until(lambda: len(self.joints) > 20)
        return max(float(np.abs(joints.velocity[:7]).max()) for joints in self.joints) < 0.02


@pytest.fixture
def lab(domain: int, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Lab]:
    small: dict[str, Any] = {"front_size": [64, 48], "wrist_size": [64, 48]}
    controller = {"home_position": ELSEWHERE.tolist(), "keep_stop": False, "joints_deadline": 1.0, "priority": 0}
    profile = Profile.read("sim")
    nodes = {"sim": profile.nodes["sim"] | small, "controller": profile.nodes["controller"] | controller}
    with Bringup(Profile(nodes=nodes, environment=profile.environment), tmp_path_factory.mktemp("logs")) as bringup:
        made = Lab(bringup)
        yield made
        made.close()


def test_the_arm_gets_home_by_request_and_stops_with_it(lab: Lab) -> None:
    began = lab.q
    assert np.abs(began - ELSEWHERE).max() > 0.1
    first = lab.send_home()
    assert lab.until(lambda: np.abs(lab.q - began).max() > 0.03, 60.0), lab.said[-1]
    first.send_signal(signal.SIGINT)
    assert lab.until(lambda: lab.said[-1].state == SafetyStatus.HOLD and lab.stands())
    assert first.wait(30.0) == 130 and np.abs(lab.q - ELSEWHERE).max() > 0.05, "Ctrl-C stopped it on its way"
    again = lab.send_home()
    assert lab.until(lambda: again.poll() is not None, 120.0)
    assert again.returncode == 0, again.communicate()
    assert lab.said[-1].state == SafetyStatus.HOLD and lab.said[-1].reason == Event.HOMED.value
    assert lab.stands() and np.abs(lab.q - ELSEWHERE).max() < 0.02


def test_a_stop_refuses_it_in_one_line_that_says_what_to_do(lab: Lab) -> None:
    assert lab.call(Trigger, "/controller/stop").success
    asked = lab.send_home()
    assert lab.until(lambda: asked.poll() is not None, 60.0)
    assert asked.returncode == 1
    assert "reset it" in (line := asked.communicate()[1].strip()) and len(line.splitlines()) == 1, line
    assert lab.call(Trigger, "/controller/resume").success
