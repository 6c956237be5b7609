"""Images and the workstation's page may not drift from the package."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[1]
NEEDED = ("docker", "docs/workstation.md", "launch", "scripts", "package.xml", "pyproject.toml", "CMakeLists.txt",
          "molmoact_ros/cli/main.py", "molmoact_ros/bringup/launch_description.py")  # fmt: skip
WORKSTATION, PAGE = "docker/workstation.Dockerfile", "docs/workstation.md"


def check(root: Path) -> list[str]:
    done = subprocess.run(
        [sys.executable, str(ROOT / "scripts/check-docker"), str(root)], capture_output=True, text=True, timeout=60
    )
    assert not done.stderr and done.returncode == bool(done.stdout), done.stderr
    return done.stdout.splitlines()


def test_nothing_has_drifted() -> None:
    assert check(ROOT) == []


@pytest.mark.parametrize(
    ("file", "old", "new", "found"),
    [
        (WORKSTATION, "ros-jazzy-joy ", "ros-jazzy-joy ros-jazzy-moveit ", "ros-jazzy-moveit is in neither"),
        (WORKSTATION, "libegl1 ", "libegl2 ", "libegl2 is in neither"),
        (WORKSTATION, "libfranka onnx", "libfranka tensorrt", "no extra tensorrt"),
        ("docker/server.Dockerfile", '"safetensors>=0.4"', '"safetensors==0.3"', "is not so in pyproject.toml"),
        ("docker/server.Dockerfile", '"serve"', '"server"', "no command server"),
        ("docker/compose.yaml", "fr3.launch.py", "fr4.launch.py", "no launch/fr4.launch.py"),
        ("docker/compose.yaml", "robot_address:=", "robot_ip:=", "no argument robot_ip"),
        ("docker/plugin.pyproject.toml", "plugin:register", "plugin:enrol", "entry points or version"),
        (PAGE, "molmoact-ros teleop keyboard", "ros2 run molmoact_ros keyboards", "no executable keyboards"),
        (
            "package.xml",
            "  <exec_depend>realsense2_camera</exec_depend>\n",
            "",
            "realsense2_camera is not in package.xml",
        ),
        ("package.xml", "sensor_msgs", "sensor_messages", ""),
    ],
)
def test_what_has_drifted_is_named(tmp_path: Path, file: str, old: str, new: str, found: str) -> None:
    for name in NEEDED:
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        copy(ROOT / name, tmp_path / name)
    text = (tmp_path / file).read_text()
    assert old in text
    (tmp_path / file).write_text(text.replace(old, new))
    assert found in "\n".join(check(tmp_path))


def test_every_service_of_compose_has_an_image() -> None:
    services = yaml.safe_load((ROOT / "docker/compose.yaml").read_text())["services"]
    built = {service["image"] for service in services.values() if "build" in service}
    assert {service["image"] for service in services.values()} == built
    for service in services.values():
        if "build" in service:
            assert (ROOT / "docker" / service["build"]["context"] / service["build"]["dockerfile"]).is_file()


def test_requirements_leave_to_apt_what_ros_brings() -> None:
    done = subprocess.run(
        [str(ROOT / "docker/requirements"), str(ROOT / "pyproject.toml"), "libfranka"],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    lines = done.stdout.splitlines()
    assert any(line.startswith("torch") for line in lines) and any(line.startswith("pylibfranka") for line in lines)
    assert not any("ros-jazzy" in line for line in lines)
