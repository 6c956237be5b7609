"""What a user gets wrong is answered in one line that says what to do, before any work is done."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from molmoact_ros.bringup.profiles import Profile
from molmoact_ros.cli.main import main
from molmoact_ros.ros.arguments import readable_arguments, with_uniform_lists
from molmoact_ros.utils.ros_environment import check_environment, environment_faults, installed_middlewares

ROOT = Path(__file__).parents[2]
BAG = str(ROOT / "test" / "golden" / "bags" / "pick")
SCRIPTS = Path(sys.executable).parent


def last_line(text: str) -> str:
    assert "Traceback" not in text
    return text.strip().splitlines()[-1]


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The working folder of the commands: `file` is a text file, `folder` is empty."""
    (tmp_path / "file").write_text("not what you take it for")
    (tmp_path / "folder").mkdir()
    monkeypatch.chdir(tmp_path)
    return tmp_path


COMMANDS = {
    f"replay {BAG} --graph --rate 0": "a number above 0",
    f"replay {BAG} --graph --rate -1": "a number above 0",
    f"replay {BAG} --graph --rate nan": "a number above 0",
    f"replay {BAG} --graph --rate inf": "a number above 0",
    f"replay {BAG} --graph --rate fast": "invalid float value: 'fast'",
    f"replay {BAG} --graph --loop 0": "a number above 0",
    f"replay {BAG} --graph --loop 1.5": "invalid int value: '1.5'",
    f"replay {BAG} --engine --period -1": "a number above 0",
    f"replay {BAG} --engine --report nowhere/report.html": "no folder .*nowhere to write report.html into",
    f"replay {BAG} --engine --json folder": "folder is a folder; name a file in it",
    f"replay {BAG} --engine --save file/answers.json": "no folder .*file to write answers.json into",
    f"replay {BAG} --engine --against file": "file does not hold answers",
    f"replay {BAG} --engine --thresholds file": "file",
    f"replay {BAG} --engine --checkpoint file": "no checkpoint at .*file",
    f"replay {BAG} --engine --frame-size 0x0": "is not WIDTHxHEIGHT",
    f"replay {BAG} --graph --profile kitchen": "choose one of: .*sim",
    "replay file --engine": "file is not a readable bag",
    "record --quality 0": "a whole number from 1 to 100",
    "record --out file": "file exists already",
    "record --exclude (": "is not a regular expression",
    "record --repair folder": "is not a readable bag",
    "infer --instruction x --image file": "file is not an image",
    "infer --instruction x --image folder": "folder is not an image",
    "demo --seed -1": "0 or a number above it",
    "demo --profile kitchen": "choose one of: .*sim",
    "eval --episodes 0": "a number above 0",
    "up kitchen": "choose one of: .*sim",
    "up folder": "choose one of: .*sim",
    "panel --port 70000": "a whole number from 0 to 65535",
    "panel --port 0 --host 300.1.1.1": "cannot serve at 300.1.1.1, port 0",
    "panel --port 0 --token-file folder": "no file .*folder with a token",
    "foxglove --port -1": "a whole number from 0 to 65535",
    "serve --port 0": "a whole number from 1 to 65535",
    "serve --tensor-parallel 0": "a number above 0",
    "train --config file": "Invalid JSON",
    "train --start folder": "config.json",
    "bench seams --seconds 0": "a number above 0",
    "bench roofline --shape nowhere": "no checkpoint at nowhere",
    "teleop mouse": "choose from 'keyboard', 'joystick'",
}


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_commands(command: str, folder: Path, capfd: pytest.CaptureFixture[str]) -> None:
    try:
        status = main(command.split())
    except SystemExit as ended:  # argparse prints the usage before its line
        status = int(ended.code or 0)
    line = last_line(capfd.readouterr().err)
    assert status and "error:" in line
    assert re.search(COMMANDS[command], line), line


PROFILES = {
    "": "it has no fields; write `nodes:`",
    "- sim": "it has no fields",
    "nodes: [sim]": "nodes: Input should be a valid dictionary",
    "nodes: {kitchen: {}}": "names the node 'kitchen'; there are sim",
    "nodes: {sim: 3}": "nodes.sim: Input should be a valid dictionary",
    "nodes: {sim: {seed: }}": "seed has no value",
    "nodes: {realsense: {front: {rate: }}}": "rate has no value",
    "nodes: {recorder: {exclude: [1, a]}}": "exclude is a list of several types",
    "nodes: {}\nenvironments: {A: b}": "environments: Extra inputs",
    "nodes: {}\nenvironment: {ROS_LOCALHOST_ONLY: true}": "ROS_LOCALHOST_ONLY: Input should be a valid string",
    "nodes:\n\tsim: {}": "cannot start any token",
}


@pytest.mark.parametrize("text", PROFILES)
def test_wrong_profiles(text: str, folder: Path) -> None:
    (folder / "mine.yaml").write_text(text)
    with pytest.raises(ValueError, match="mine.yaml (is not a profile|names)") as error:
        Profile.read("mine.yaml")
    assert PROFILES[text] in str(error.value) and "\n" not in str(error.value)


def test_profiles_are_taken_as_users_write_them(folder: Path) -> None:
    (folder / "mine.yml").write_text("nodes: {view: }\nenvironment: {ROS_DOMAIN_ID: 7, OMP_NUM_THREADS: 2}")
    profile = Profile.read("mine.yml")
    assert profile.nodes == {"view": {}}
    assert profile.environment == {"ROS_DOMAIN_ID": "7", "OMP_NUM_THREADS": "2"}


VARIABLES = {
    ("RMW_IMPLEMENTATION", "rmw_cyclonedds_cpp"): "not installed here; .*rmw_fastrtps_cpp",
    ("ROS_DOMAIN_ID", "robot"): "a whole number from 0 to 232",
    ("ROS_DOMAIN_ID", "-1"): "a whole number from 0 to 232",
    ("ROS_DOMAIN_ID", "5.0"): "a whole number from 0 to 232",
    ("ROS_DOMAIN_ID", "010"): "a whole number from 0 to 232",
    ("ROS_DOMAIN_ID", "233"): "a whole number from 0 to 232",
    ("ROS_HOME", "file"): "cannot be written",
    ("ROS_LOG_DIR", "file/log"): "cannot be written",
    ("ROS_LOG_DIR", "/proc/log"): "cannot be written",
    ("HOME", ""): "set HOME, ROS_HOME or ROS_LOG_DIR",
    ("RCUTILS_COLORIZED_OUTPUT", "yes"): "set it to 0 or 1",
}


@pytest.mark.parametrize("variable", VARIABLES, ids="=".join)
def test_wrong_variables(variable: tuple[str, str], folder: Path) -> None:
    with pytest.raises(ValueError, match=VARIABLES[variable]) as error:
        check_environment({"HOME": str(folder), **dict([variable])})
    assert variable[0] in str(error.value) and "\n" not in str(error.value)


def test_variables_that_fit(folder: Path) -> None:
    (installed,) = installed_middlewares({})
    home = {"HOME": str(folder)}
    fitting = {
        "HOME": str(folder),
        "RMW_IMPLEMENTATION": installed,
        "ROS_DOMAIN_ID": "0",
        "RCUTILS_COLORIZED_OUTPUT": "1",
    }
    for variables in (fitting, home, {name: "" for name in fitting} | {"ROS_LOG_DIR": str(folder)}):
        assert not environment_faults(variables)
    assert (folder / ".ros" / "log").is_dir(), "where ROS writes its logs"


def test_middlewares_of_a_workstation_come_from_every_sourced_prefix(tmp_path: Path) -> None:
    """A ROS installation loads its middleware at run time, also one of an overlay; the wheels' is linked."""
    python = f"python{sys.version_info.major}.{sys.version_info.minor}"
    ros, overlay = tmp_path / "ros", tmp_path / "overlay"
    (ros / "lib" / python / "site-packages" / "rclpy").mkdir(parents=True)
    (ros / "lib" / python / "site-packages" / "rclpy" / "__init__.py").touch()
    (ros / "lib" / "librmw.so").touch()
    for prefix, name in ((ros, "rmw_fastrtps_cpp"), (ros, "rmw_implementation"), (overlay, "rmw_zenoh_cpp")):
        index = prefix / "share" / "ament_index" / "resource_index" / "rmw_typesupport"
        index.mkdir(parents=True, exist_ok=True)
        (index / name).touch()
        (prefix / "lib").mkdir(exist_ok=True)
        (prefix / "lib" / f"lib{name}.so").touch()
    code = (
        "import os; from molmoact_ros.utils.ros_environment import installed_middlewares;"
        "print(*installed_middlewares(os.environ))"
    )
    # LD_LIBRARY_PATH and the like of this process stay: the wheels' start-up has run.
    variables = os.environ | {
        "PYTHONPATH": str(ros / "lib" / python / "site-packages"), "AMENT_PREFIX_PATH": f"{overlay}:{ros}",
    }  # fmt: skip
    found = subprocess.run([sys.executable, "-P", "-c", code], env=variables, capture_output=True, text=True)
    assert found.stdout.split() == ["rmw_fastrtps_cpp", "rmw_zenoh_cpp"], found.stderr


@pytest.mark.parametrize(
    "command",
    [[str(SCRIPTS / "molmoact-ros"), "doctor"], [str(SCRIPTS / "molmoact-ros"), "up", "sim"],
     [sys.executable, "-P", "-m", "molmoact_ros.nodes.recorder"]],
    ids=["doctor", "up", "node"],
)  # fmt: skip
def test_rcl_is_not_imported_for_a_middleware_that_is_not_here(command: list[str], folder: Path) -> None:
    """rcl would end the process with status 102, from inside the import."""
    variables = os.environ | {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"}
    done = subprocess.run(command, env=variables, capture_output=True, text=True, timeout=120)
    said = done.stdout + done.stderr
    assert done.returncode == 1 and "RMW_IMPLEMENTATION is 'rmw_cyclonedds_cpp', which is not installed" in said
    if command[-1] == "doctor":
        assert "ok   checkpoint" in said, "the other checks are made all the same"
    else:
        assert said.count("\n") == 1 and said.startswith("error: ")


def test_whole_numbers_among_floats_are_taken(folder: Path) -> None:
    """rcl refuses the whole file for one such list; a text that looks like a number stays one."""
    wrote = {
        "/**/c": {"ros__parameters": {"bases": [0, 0.5, 0], "whole": [1, 2], "front": {"serial": "031"}, "x": True}}
    }
    Path("mine.yaml").write_text(yaml.safe_dump(wrote))
    Path("fine.yaml").write_text("# as it is\n/**:\n  ros__parameters: {a: [1, 2]}\n")
    given = ["node", "--ros-args", "--params-file", "mine.yaml", "--params-file", "fine.yaml", "-p", "b:=[0, .5]",
             "-p", "c:=1", "-p", "d:={broken", "--params-file", "nowhere.yaml"]  # fmt: skip
    read = readable_arguments(given, folder / "folder")
    changed = {number: text for number, text in enumerate(read) if text != given[number]}
    assert set(changed) == {3, 7} and changed[7] == "b:=[0.0, 0.5]"
    again = yaml.safe_load(Path(changed[3]).read_text())["/**/c"]["ros__parameters"]
    assert [type(number) for number in again["bases"]] == [float] * 3 and again["bases"] == [0.0, 0.5, 0.0]
    assert again["whole"] == [1, 2] and again["front"] == {"serial": "031"} and again["x"] is True


@pytest.mark.parametrize("value", [[], [1], [1, 2], ["a", 1], [True, 1], [0.5], 3, "x", {"a": [1, 2]}])
def test_other_lists_stay_as_they_are(value: object) -> None:
    assert repr(with_uniform_lists(value)) == repr(value)
