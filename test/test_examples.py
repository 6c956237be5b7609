"""The examples run as they are written, and stay short. Those that talk to nodes do so beside one simulated graph."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from molmoact_ros.bringup.episode_client import Session
from molmoact_ros.bringup.processes import Bringup
from molmoact_ros.bringup.profiles import Profile, environment

EXAMPLES = Path(__file__).parents[1] / "examples"
MOST_LINES = 40
DOMAIN = 215 + os.getpid() % 15
"""Beyond those of test/nodes, 1 to 100, and of the ports that Linux gives to anybody."""
PATIENCE = 120.0
"""s in which an example has ended; far longer than it takes."""
SECONDS = 6.0
"""s of the instruction: several plans."""


def run(name: str, *arguments: str) -> str:
    """What an example prints."""
    done = subprocess.run(
        [sys.executable, str(EXAMPLES / name), *arguments], capture_output=True, text=True, timeout=PATIENCE
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def graph(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bringup]:
    """The simulated workcell with the nano model. No real-time threads, and deadlines for a busy machine."""
    parameters: dict[str, dict[str, Any]] = {
        "sim": {"front_size": [160, 120], "wrist_size": [106, 60]},
        "controller": {"priority": 0, "joints_deadline": 1.0, "camera_deadline": 3.0, "silence_deadline": 4.0},
        "policy": {"priority": 0, "max_age": 2.0},
    }
    home = str(tmp_path_factory.mktemp("ros_home"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in environment({"ROS_DOMAIN_ID": str(DOMAIN), "ROS_HOME": home}).items():
            patch.setenv(name, value)
        profile = Profile.read("sim").without("view").with_parameters(parameters)
        with Bringup(profile, tmp_path_factory.mktemp("logs")) as bringup:
            with Session() as client:
                client.wait_until_ready(profile.nodes, bringup.check)
            yield bringup


def test_the_examples_are_short_and_each_is_tested() -> None:
    lines = {file.name: len(file.read_text().splitlines()) for file in EXAMPLES.glob("*.py")}
    assert not {name: count for name, count in lines.items() if count > MOST_LINES}
    assert all(name in Path(__file__).read_text() for name in lines) and len(lines) == 5


def test_ask_the_engine() -> None:
    said = run("1_ask_the_engine.py", "pick up the red cube")
    assert "instruction: pick up the red cube" in said and "trace" in said and "passes" in said


def test_watch_a_plan_and_send_an_instruction(graph: Bringup, tmp_path: Path) -> None:
    watched = tmp_path / "watched"
    with watched.open("wb") as out:
        watcher = subprocess.Popen(
            [sys.executable, "-u", str(EXAMPLES / "2_watch_a_plan.py")], stdout=out, stderr=subprocess.STDOUT
        )
    try:
        said = run("3_send_an_instruction.py", "pick up the red cube", str(SECONDS))
        watcher.send_signal(signal.SIGINT)
        assert watcher.wait(PATIENCE) == 0, watched.read_text()
    finally:
        watcher.kill()
    graph.check()
    assert "played" in said and "(code 0)" in said.splitlines()[-1], said
    assert "trace by the model" in watched.read_text() and "actions of" in watched.read_text()


def test_draw_a_trace(graph: Bringup) -> None:
    assert "follows the drawn trace" in run("4_draw_a_trace.py")
    graph.check()


def test_read_a_bag() -> None:
    said = run("5_read_a_bag.py")
    assert "/policy/action_chunk" in said and "plan 7" in said
