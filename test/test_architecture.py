"""The shape of the code: which folder may import which, and that arrays are described."""

from __future__ import annotations

import ast
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "molmoact_ros"
MAY_IMPORT = {
    "reasoning": set(),
    "robots": set(),
    "cameras": set(),
    "engine": {"reasoning", "secret"},
    "control": {"robots"},
    "sim": {"robots", "cameras", "children"},
    "record": {"reasoning"},
    "panel": {"reasoning", "secret"},
    "learn": {"reasoning", "engine", "control", "sim", "machine", "children"},
    "replay": {"reasoning", "robots", "engine", "control", "record", "machine"},
    "nodes": {"reasoning", "robots", "cameras", "engine", "control", "sim", "record", "replay", "learn", "panel",
              "children", "machine", "secret", "paths", "msg", "srv", "action"},
}  # fmt: skip
ROS = {"rclpy", "launch", "launch_ros", "std_msgs", "std_srvs", "sensor_msgs", "geometry_msgs", "trajectory_msgs",
       "control_msgs", "franka_msgs", "realsense2_camera_msgs", "rosgraph_msgs", "builtin_interfaces",
       "rcl_interfaces", "diagnostic_msgs", "visualization_msgs", "tf2_msgs"}  # fmt: skip
LIGHT = {
    "reasoning": {"numpy", "cv2", "pydantic"},
    "robots": {"numpy", "mujoco", "ruckig", "pylibfranka"},
    "cameras": {"numpy", "pyrealsense2"},
    "control": {"numpy", "scipy", "mujoco", "mink", "ruckig", "pydantic"},
    "record": {"numpy", "cv2", "yaml", "mcap", "zstandard", "lz4", "rosbags", "imageio_ffmpeg"},
    "panel": {"numpy", "aiohttp", "pydantic", "selenium"},
}


def imports(file: Path) -> set[str]:
    """Every module that a file imports, anywhere in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: imports are absolute"
            found.add(node.module or "")
    return found


def test_the_list_of_folders_is_whole() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(MAY_IMPORT)


@pytest.mark.parametrize("folder", MAY_IMPORT)
def test_imports_point_one_way(folder: str) -> None:
    for file in (PACKAGE / folder).rglob("*.py"):
        ours = {name.split(".")[1] for name in imports(file) if name.startswith("molmoact_ros.")}
        assert ours <= MAY_IMPORT[folder] | {folder}, file
        others = {name.split(".")[0] for name in imports(file)} - {"molmoact_ros"} - sys.stdlib_module_names
        assert folder == "nodes" or not others & ROS, f"{file}: ROS is for nodes/"
        assert others <= LIGHT.get(folder, others), file


def test_the_directions_have_no_cycle() -> None:
    reached: set[str] = set()
    for _ in MAY_IMPORT:
        reached |= {folder for folder, needs in MAY_IMPORT.items() if needs & set(MAY_IMPORT) <= reached}
    assert reached == set(MAY_IMPORT)


def array_functions() -> Iterator[tuple[str, str]]:
    """Name and docstring of every public function that takes or gives arrays."""
    for file in PACKAGE.rglob("*.py"):
        tree = ast.parse(file.read_text())
        classes = [n for n in tree.body if isinstance(n, ast.ClassDef) and not n.name.startswith("_")]
        scopes: list[ast.Module | ast.ClassDef] = [tree, *classes]
        for scope in scopes:
            about = ast.get_docstring(scope) or "" if isinstance(scope, ast.ClassDef) else ""
            for node in scope.body:
                if isinstance(node, ast.FunctionDef) and not node.name.startswith("_"):
                    notes = [a.annotation for a in node.args.args] + [node.returns]
                    written = " ".join(ast.unparse(note) for note in notes if note is not None)
                    if "ndarray" in written or "Tensor" in written:
                        where = f"{file.relative_to(PACKAGE)}:{node.name}"
                        yield where, about + (ast.get_docstring(node) or "")


def test_every_public_function_with_arrays_says_their_shapes() -> None:
    silent = [name for name, text in array_functions() if "[" not in text]
    assert not silent
