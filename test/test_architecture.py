"""The shape of the code: which folder may import which, and that arrays are described."""

from __future__ import annotations

import ast
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parents[1] / "molmoact_ros"
ROOMS = (
    "utils", "reasoning", "cameras", "robots", "visualization", "engine", "control", "sim", "bags", "datasets",
    "training", "evaluation", "replay", "doctor", "panel", "ros", "nodes", "bringup", "benchmarks", "cli",
)  # fmt: skip
"""The package's folders as the data flows: each may import those before it."""
WITH_ROS = {"ros", "nodes", "bringup", "benchmarks", "cli"}
PROBES = {"doctor/environment.py"}  # asks whether rclpy can be imported
ROS = {"rclpy", "launch", "launch_ros", "std_msgs", "std_srvs", "sensor_msgs", "geometry_msgs", "trajectory_msgs",
       "control_msgs", "franka_msgs", "realsense2_camera_msgs", "rosgraph_msgs", "builtin_interfaces",
       "rcl_interfaces", "diagnostic_msgs", "visualization_msgs", "tf2_msgs"}  # fmt: skip
LIGHT = {
    "reasoning": {"numpy", "cv2", "pydantic"},
    "robots": {"numpy", "mujoco", "ruckig", "pylibfranka"},
    "cameras": {"numpy", "pyrealsense2", "cv2", "scipy", "PIL"},
    "visualization": {"numpy", "cv2", "imageio_ffmpeg"},
    "control": {"numpy", "scipy", "mujoco", "mink", "ruckig", "pydantic"},
    "bags": {"numpy", "cv2", "yaml", "mcap", "zstandard", "lz4", "rosbags"},
    "panel": {"numpy", "aiohttp", "pydantic"},
}
MOST_OF_A_FILE, MOST_OF_A_CLASS, MOST_OF_A_ROOM = 400, 300, 0.2


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


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(file: Path) -> str:
    """The folder of a file; "" for those of the package itself."""
    parts = file.relative_to(PACKAGE).parts
    return parts[0] if len(parts) > 1 else ""


def classes(file: Path) -> list[ast.ClassDef]:
    return [node for node in ast.parse(file.read_text()).body if isinstance(node, ast.ClassDef)]


def test_the_list_of_rooms_is_whole() -> None:
    assert {path.parent.name for path in PACKAGE.glob("*/__init__.py")} == set(ROOMS)
    assert {path.name for path in PACKAGE.glob("*.py")} == {"__init__.py"}


@pytest.mark.parametrize("name", ROOMS)
def test_imports_point_one_way(name: str) -> None:
    before = set(ROOMS[: ROOMS.index(name) + 1])
    for file in (PACKAGE / name).rglob("*.py"):
        ours = {name.split(".")[1] for name in imports(file) if name.startswith("molmoact_ros.")}
        others = {name.split(".")[0] for name in imports(file)} - {"molmoact_ros"} - sys.stdlib_module_names
        if name not in WITH_ROS and str(file.relative_to(PACKAGE)) not in PROBES:
            assert not others & ROS and not ours & {"msg", "srv", "action"}, f"{file}: no ROS here"
        assert ours - {"msg", "srv", "action"} <= before, file
        assert others <= LIGHT.get(name, others), file


def test_no_modules_import_each_other_in_a_circle() -> None:
    """Of what is imported when a module is."""
    needs = {
        module(file): {name for name in imports_at_the_top(file) if name.startswith("molmoact_ros.")}
        for file in files()
    }
    done: set[str] = set()
    while ready := {name for name, of in needs.items() if name not in done and of & set(needs) <= done}:
        done |= ready
    assert not set(needs) - done


def module(file: Path) -> str:
    parts = file.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports_at_the_top(file: Path) -> set[str]:
    """Modules that are imported with this one, those too that are named after `from package import`."""
    found: set[str] = set()
    for node in ast.parse(file.read_text()).body:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {node.module or ""} | {f"{node.module}.{alias.name}" for alias in node.names}
    return found - {"molmoact_ros", module(file).rpartition(".")[0]}


def test_the_nodes_are_the_executables() -> None:
    listed = re.search(r"foreach\(node ([^)]*)\)", (PACKAGE.parent / "CMakeLists.txt").read_text())
    assert listed is not None
    assert {file.stem for file in (PACKAGE / "nodes").glob("*.py")} - {"__init__"} == set(listed[1].split())


def test_nothing_is_too_large_to_see() -> None:
    lines = {file: len(file.read_text().splitlines()) for file in files()}
    assert not {str(file): count for file, count in lines.items() if count > MOST_OF_A_FILE}
    long = {
        f"{file}: {c.name}"
        for file in files()
        for c in classes(file)
        if (c.end_lineno or 0) - c.lineno >= MOST_OF_A_CLASS
    }
    assert not long
    for name in ROOMS:
        share = sum(count for file, count in lines.items() if room(file) == name) / sum(lines.values())
        assert share <= MOST_OF_A_ROOM, f"{name} holds {share:.0%} of the lines"


def test_a_public_class_has_a_name_of_its_own() -> None:
    places: dict[str, list[str]] = {}
    for file in files():
        for node in classes(file):
            if not node.name.startswith("_"):
                places.setdefault(node.name, []).append(str(file.relative_to(PACKAGE)))
    assert not {name: where for name, where in places.items() if len(where) > 1}


VAGUE = {"add", "take", "tell", "use", "look"}


def test_methods_say_what_they_act_on() -> None:
    vague = [
        f"{file.relative_to(PACKAGE)}: {node.name}.{method.name}"
        for file in files()
        for node in classes(file)
        if not node.name.startswith("_")
        for method in node.body
        if isinstance(method, ast.FunctionDef) and method.name in VAGUE
    ]
    assert not vague


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


def test_an_error_of_ours_ends_a_command_in_one_line() -> None:
    """`cli/main.py` catches these three kinds; others would show a traceback. Names with _ stay within their module."""
    kinds = ("ValueError", "RuntimeError", "OSError", "KeyboardInterrupt")
    within = {"CancelledStep"}  # caught by whoever cancels
    other = {
        cls.name
        for file in files()
        for cls in classes(file)
        if not cls.name.startswith("_")
        for base in map(ast.unparse, cls.bases)
        if (base == "Exception" or base.endswith("Error")) and base not in kinds
    }
    assert other == within
