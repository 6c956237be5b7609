"""What cannot work is said in one line, before anything moves."""

from __future__ import annotations

import re
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from molmoact_ros.bringup.processes import Bringup, command, write_parameters
from molmoact_ros.bringup.profiles import Profile, environment

from .conftest import Peer


def ending(name: str, parameters: dict, folder: Path) -> str:
    """What a node writes that must end by itself, with status 1."""
    file = write_parameters(folder, name, parameters)
    done = subprocess.run(
        command(name, file), env=environment(), cwd=folder, capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 1, done.stderr
    (line,) = done.stderr.strip().splitlines()
    return line


def test_a_missing_checkpoint(domain: int, tmp_path: Path) -> None:
    line = ending("policy", {"checkpoint": str(tmp_path / "nowhere")}, tmp_path)
    assert "nowhere" in line and "give the folder" in line


def test_corrupt_weights(domain: int, checkpoint: Path, tmp_path: Path) -> None:
    broken = tmp_path / "broken"
    broken.mkdir()
    for file in checkpoint.iterdir():
        data = file.read_bytes()
        (broken / file.name).write_bytes(data[: len(data) // 2] if file.name == "model.safetensors" else data)
    assert "corrupt" in ending("policy", {"checkpoint": str(broken)}, tmp_path)


@pytest.mark.parametrize(
    ("name", "parameters"),
    [("sim", {"camera_rate": -1.0}), ("controller", {"rate": "fast"}), ("policy", {"cameras": []})],
)
def test_parameters_that_do_not_fit(domain: int, tmp_path: Path, name: str, parameters: dict) -> None:
    assert f"parameter {next(iter(parameters))} of {name}" in ending(name, parameters, tmp_path)


PARAMETERS = {
    "recorder bag:=5": "parameter bag of recorder: Input should be a valid string, not 5",
    "recorder exclude:=[(]": r"parameter exclude.0 of recorder: '\(' is not a regular expression",
    "recorder qualty:=50": "recorder has no parameter 'qualty'; write 'quality'",
    "recorder quality": "Couldn't parse parameter override rule",
    "sim front_size:=[0,0]": "parameter front_size.0 of sim",
    "controller bases:=[0,0.5,0]": "bases has 3 values",
    "controller sped:=0.1": "controller has no parameter 'sped'; write 'speed'",
}


@pytest.mark.parametrize("row", PARAMETERS)
def test_parameters_as_they_are_mistyped(domain: int, tmp_path: Path, row: str) -> None:
    name, parameter = row.split()
    command = [sys.executable, "-P", "-m", f"molmoact_ros.nodes.{name}", "--ros-args", "-p", parameter]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    line = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 1 and line.startswith("error: ") and re.search(PARAMETERS[row], line), line


def test_each_arm_needs_its_base(domain: int, tmp_path: Path) -> None:
    assert "bases has 4 values" in ending("controller", {"arms": ["left_", "right_"]}, tmp_path)


def test_a_task_that_the_simulator_does_not_know(domain: int, tmp_path: Path) -> None:
    assert "juggle" in ending("sim", {"instruction": "juggle"}, tmp_path)


def test_a_node_that_ends_is_reported_with_its_reason(domain: int, tmp_path: Path) -> None:
    with Bringup(Profile(nodes={"sim": {"camera_rate": -1.0}}), tmp_path) as bringup:
        bringup._processes["sim"].wait(60)
        with pytest.raises(RuntimeError, match="sim has ended: .*camera_rate.*sim.log"):
            bringup.check()


def test_profiles_are_checked() -> None:
    assert list(Profile.read("sim").nodes) == ["sim", "controller", "policy", "view"]
    assert list(Profile.read("bimanual_sim").nodes) == ["sim", "controller", "expert", "view"]
    assert list(Profile.read("realsense").nodes) == ["realsense", "controller", "policy", "view"]
    with pytest.raises(FileNotFoundError, match="choose one of: .*sim"):
        Profile.read("kitchen")
    merged = Profile.read("sim").with_parameters({"sim": {"seed": 3}, "recorder": {"bag": "x"}})
    assert merged.nodes["sim"]["seed"] == 3 and merged.nodes["sim"]["camera_rate"] > 0
    assert merged.nodes["recorder"] == {"bag": "x"}


def test_a_profile_of_your_own_is_read_by_its_path(tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    with pytest.raises(FileNotFoundError, match="mine.yaml.*or a .yaml file of your own"):
        Profile.read(str(mine))
    mine.write_text("nodes: {realsense: {cameras: [front]}}")
    assert Profile.read(str(mine)).nodes == {"realsense": {"cameras": ["front"]}}


def test_children_end_with_the_bringup(peer: Peer, tmp_path: Path) -> None:
    with Bringup(Profile(nodes={"controller": {}}), tmp_path) as bringup:
        process = bringup._processes["controller"]
        assert peer.until(lambda: "controller" in peer.node.get_node_names())
    assert process.returncode == 0, "it ended in order"


def test_a_panel_whose_port_is_taken_or_whose_token_others_may_read(domain: int, tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert "address already in use" in ending("panel", {"port": port}, tmp_path)
    token = tmp_path / "token"
    token.write_text("everybody may read this")
    token.chmod(0o644)
    assert f"chmod 600 {token}" in ending("panel", {"port": 0, "token_file": str(token)}, tmp_path)
