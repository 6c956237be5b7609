"""Launch files that bring a robot up by another package, if it is installed. PyPI has no `launch`: stand-ins."""

from __future__ import annotations

import os
import runpy
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import yaml

from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.robots.franka import SINGLE

ROOT = Path(__file__).parents[2]
NAMES = {
    "launch": ["LaunchDescription"],
    "launch.actions": ["DeclareLaunchArgument", "IncludeLaunchDescription", "LogInfo", "SetEnvironmentVariable"],
    "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
    "launch.substitutions": ["LaunchConfiguration"],
    "launch_ros": [],
    "launch_ros.actions": ["Node"],
    "launch_ros.parameter_descriptions": ["ParameterValue"],
}


class Noted:
    def __init__(self, *args: Any, **options: Any) -> None:
        self.args, self.options = args, options


@pytest.fixture(autouse=True)
def launch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "molmoact_ros.bringup.launch_description", raising=False)
    for name, kinds in NAMES.items():
        module = ModuleType(name)
        for kind in kinds:
            setattr(module, kind, type(kind, (Noted,), {}))
        monkeypatch.setitem(sys.modules, name, module)


def actions(file: str) -> dict[str, list[Any]]:
    """The actions of a launch file, by kind."""
    found: dict[str, list[Any]] = {}
    for action in runpy.run_path(str(ROOT / "launch" / file))["generate_launch_description"]().args[0]:
        found.setdefault(type(action).__name__, []).append(action)
    return found


def install(prefix: Path, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    index = prefix / "share" / "ament_index" / "resource_index" / "packages"
    index.mkdir(parents=True)
    (index / package).touch()
    (prefix / "share" / package).mkdir()
    monkeypatch.setenv("AMENT_PREFIX_PATH", f"{prefix}:{os.environ.get('AMENT_PREFIX_PATH', '')}")


@pytest.mark.parametrize(
    ("file", "package", "spawned"),
    [
        ("franka_ros2.launch.py", "franka_bringup", ["fr3_arm_controller"]),
        ("crisp.launch.py", "crisp_controllers_robot_demos", []),
    ],
)
def test_a_robots_bringup_is_included_where_it_is_installed(
    file: str, package: str, spawned: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AMENT_PREFIX_PATH", str(tmp_path / "none"))
    without = actions(file)
    assert f"{package} is not installed here" in without["LogInfo"][0].options["msg"]
    assert "IncludeLaunchDescription" not in without
    ours = [node.options["executable"] for node in without["Node"]]
    assert ours == list(Profile.read(file.split(".")[0]).nodes), "our nodes start all the same"

    install(tmp_path, package, monkeypatch)
    with_it = actions(file)
    (include,) = with_it["IncludeLaunchDescription"]
    assert include.args[0].args[0] == str(tmp_path / "share" / package / "launch" / "franka.launch.py")
    passed = dict(include.options["launch_arguments"])
    declared = {argument.args[0]: argument.options for argument in with_it["DeclareLaunchArgument"]}
    assert passed["robot_ip"].args == ("robot_ip",) and declared["robot_ip"]["default_value"]
    spawners = [node.options for node in with_it["Node"] if node.options["package"] == "controller_manager"]
    assert [options["arguments"] for options in spawners] == [[name] for name in spawned]
    assert "LogInfo" not in with_it


def test_franka_ros2s_controllers_are_those_that_the_profile_commands() -> None:
    controllers = yaml.safe_load((ROOT / "config" / "franka_ros2" / "controllers.yaml").read_text())["/**"]
    arm = controllers["fr3_arm_controller"]["ros__parameters"]
    assert arm["joints"] == list(SINGLE.joints) == list(arm["gains"])
    assert arm["command_interfaces"] == ["effort"], "on the position interface the robot stops in a reflex"
    assert arm["interpolate_from_desired_state"] is True
    manager = controllers["controller_manager"]["ros__parameters"]
    assert manager["update_rate"] == 1000 and manager["overruns"]["manage"] is False
    kinds = {name for name, of in manager.items() if isinstance(of, dict) and "type" in of}
    assert set(controllers) - {"controller_manager"} == kinds
    rate = controllers["joint_state_broadcaster"]["ros__parameters"]["update_rate"]
    assert rate == 100, "slower ones would be older than joints_deadline"
    profile = Profile.read("franka_ros2").nodes["controller"]
    assert profile["sink"] == "joint_trajectory", "whose usual topic is fr3_arm_controller's"
