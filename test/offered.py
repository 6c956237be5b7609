"""What the nodes, the launch files and the recorder offer, found by starting each node once; a program of its own.

    python -P offered.py FOLDER > offered.json

Every node's `main` runs, in one process and one after the other, up to the first turn of its executor, in the
namespace /here: so a name that is relative shows. Of the package nothing is named but `molmoact_ros.nodes.<node>`.
"""

from __future__ import annotations

import faulthandler
import json
import os
import pty
import runpy
import sys
import threading
import time
import traceback
from collections.abc import Iterator, Mapping, Sequence
from contextlib import redirect_stdout, suppress
from dataclasses import dataclass, field
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any
from unittest.mock import patch

import yaml
from mcap.reader import make_reader
from rclpy._rclpy_pybind11 import InvalidHandle
from rclpy.action import ActionClient, ActionServer
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.node import Node
from rclpy.qos import QoSProfile

ROOT = Path(__file__).parents[1]
HERE = "/here"
SETTLED = {"recorder": 1.0, "sim": 2.5}
"""s of turns without a new topic before a node is looked at: the simulator's cameras come by a thread of their own. The
others have all at once."""
PLAIN = {"priority": 0}
"""No real-time threads: they would be this one process' for all nodes that follow."""
TWO_ARMS = {"arms": ["left_", "right_"], "bases": [0.0, 0.3, 0.0, 0.0, 0.0, -0.3, 0.0, 0.0]}
SINKS = ("target_pose", "target_joint", "forward_position", "forward_velocity", "null")
GRIPPERS = ("franka", "gripper_command", "forward_position", "none", "null")
VARIANTS: dict[str, list[dict[str, Any]]] = {
    "controller": [
        *({"sink": sink} for sink in SINKS),
        *({"gripper": gripper} for gripper in GRIPPERS),
        TWO_ARMS,
    ],
    "policy": [{"mode": "grounded"}],
    "sim": [{"workcell": "tray"}],
    "view": [TWO_ARMS],
    "panel": [{"arms": TWO_ARMS["arms"]}],
    "player": [{"allow_controller": True}],
}
"""Parameters that change what a node has; what each adds and takes away is written down."""
COMMON = {
    f"~/{name}" for name in (
        "describe_parameters", "get_parameter_types", "get_parameters", "list_parameters", "set_parameters",
        "set_parameters_atomically", "get_type_description",
    )
} | {"/rosout", "/parameter_events"}  # fmt: skip
"""What every node of ROS has."""


@dataclass
class Seen:
    """A node that was made, and what it declared."""

    node: Node
    full_name: str
    parameters: dict[str, str]
    actions: dict[int, tuple[str, Any]]
    topics: dict[str, list[str]] = field(default_factory=dict)

    def look(self) -> None:
        """Note what it has now, where it is still there."""
        node = self.node
        with suppress(InvalidHandle):
            node.get_name()
            self.topics = {
                "publishes": [self._line(p.topic_name, p.msg_type, p.qos_profile) for p in node.publishers],
                "subscribes": [self._line(s.topic_name, s.msg_type, s.qos_profile) for s in node.subscriptions],
                "serves": [self._line(s.service_name, s.srv_type) for s in node.services],
                "calls": [self._line(c.service_name, c.srv_type) for c in node.clients],
                "serves actions": self._actions(ActionServer),
                "calls actions": self._actions(ActionClient),
            }

    def found(self) -> dict[str, Any]:
        """As it is written down."""
        lines = {kind: sorted({line for line in lines if line}) for kind, lines in self.topics.items()}
        return {"parameters": self.parameters} | {kind: some for kind, some in lines.items() if some}

    def _actions(self, kind: type) -> list[str]:
        found = [self.actions[id(w)] for w in self.node.waitables if isinstance(w, kind) and id(w) in self.actions]
        return [self._line(self.node.resolve_topic_name(name), action_type) for name, action_type in found]

    def _line(self, name: str, kind: Any, quality: QoSProfile | None = None) -> str:
        name = as_written(name, self.full_name)
        if name in COMMON:
            return ""
        parts = [name, f"{kind.__module__.split('.')[0]}/{kind.__name__}"]
        if quality is not None:
            parts += [quality.reliability.name.lower(), quality.durability.name.lower(), str(quality.depth)]
        return " ".join(parts)


def as_written(name: str, node: str) -> str:
    """A whole name as ~/private, relative, or /absolute."""
    for space, mark in ((f"{node}/", "~/"), (f"{HERE}/", "")):
        if name.startswith(space):
            return mark + name.removeprefix(space)
    return name


def text(value: Any) -> str:
    """A parameter's default with its type."""
    kind = f"list[{type(value[0]).__name__}]" if isinstance(value, list) and value else type(value).__name__
    return f"{kind} {json.dumps(value)}".replace(str(Path.home()), "~").replace(str(ROOT), ".")


def started(name: str, parameters: Mapping[str, Any]) -> list[Seen]:
    """The nodes that an executable makes. Raises RuntimeError where it ends before it has begun."""
    nodes: list[Seen] = []
    began: list[float] = []
    counts: list[int] = []
    failures: list[Exception] = []
    make, declare, turn = Node.__init__, Node.declare_parameters, SingleThreadedExecutor.spin_once
    declared: dict[int, dict[str, str]] = {}
    actions: dict[int, tuple[str, Any]] = {}  # names and types, by the waitable

    def init(self: Node, *args: Any, **options: Any) -> None:
        make(self, *args, **options)
        nodes.append(Seen(self, self.get_fully_qualified_name(), declared.setdefault(id(self), {}), actions))

    def declares(self: Node, namespace: str, parameters: Sequence[Any], *args: Any, **options: Any) -> Any:
        for parameter in parameters:
            whole = f"{namespace}.{parameter[0]}" if namespace else parameter[0]
            if whole not in ("use_sim_time", "start_type_description_service"):
                live = len(parameter) < 3 or not parameter[2].read_only
                declared.setdefault(id(self), {})[whole] = text(parameter[1]) + (" live" if live else "")
        return declare(self, namespace, parameters, *args, **options)

    def noting(make: Any) -> Any:
        def init(self: Any, node: Node, action_type: Any, action_name: str, *args: Any, **options: Any) -> None:
            actions[id(self)] = action_name, action_type
            make(self, node, action_type, action_name, *args, **options)

        return init

    def spin_once(self: SingleThreadedExecutor, *args: Any, **options: Any) -> None:
        if threading.current_thread() is not threading.main_thread():
            return turn(self, *args, **options)
        count = sum(len([*seen.node.publishers]) for seen in nodes if name in SETTLED)
        if not counts or count != counts[-1]:
            counts.append(count)
            began.append(time.monotonic())
        if time.monotonic() - began[-1] < SETTLED.get(name, 0.0):
            return turn(self, *args, **options)
        try:
            for seen in nodes:
                seen.look()
        except Exception as error:  # a node goes on after what fails in its turn
            failures.append(error)
        raise ExternalShutdownException

    file = Path(f"{name}.yaml")
    file.write_text(yaml.safe_dump({"/**": {"ros__parameters": dict(parameters)}}) if parameters else "")
    arguments = [name, "--ros-args", "-r", f"__ns:={HERE}", *(["--params-file", str(file)] if parameters else [])]
    main = import_module(f"molmoact_ros.nodes.{name}").main
    with (
        patch.object(Node, "__init__", init), patch.object(Node, "declare_parameters", declares),
        patch.object(ActionServer, "__init__", noting(ActionServer.__init__)),
        patch.object(ActionClient, "__init__", noting(ActionClient.__init__)),
        patch.object(SingleThreadedExecutor, "spin_once", spin_once), patch.object(sys, "argv", arguments),
        suppress(ExternalShutdownException, SystemExit),
    ):  # fmt: skip
        main()
    if not began or failures:
        raise RuntimeError(f"the node {name} did not start with {dict(parameters)}") from next(iter(failures), None)
    return nodes


def offered(name: str, needed: Mapping[str, Any]) -> dict[str, Any]:
    """What an executable's nodes have, and what VARIANTS of its parameters change. needed: parameters to start it."""
    first = as_json(name, started(name, needed))
    found: dict[str, Any] = {"nodes": first}
    for variant in VARIANTS.get(name, []):
        other = set(lines(as_json(name, started(name, {**needed, **variant}))))
        known = set(lines(first))
        changed = [f"+ {line}" for line in sorted(other - known)] + [f"- {line}" for line in sorted(known - other)]
        found.setdefault("with", {})[json.dumps(variant)] = changed
    return found


def as_json(name: str, nodes: Sequence[Seen]) -> dict[str, Any]:
    """The nodes by their names, but for those that have nothing."""
    found = {as_written(seen.full_name, "-"): seen.found() for seen in nodes}
    if name == "recorder":
        found["recorder"]["subscribes"] = ["whatever is published"]
    return {node: what for node, what in found.items() if what != {"parameters": {}}}


def lines(value: Any, path: str = "") -> Iterator[str]:
    """Every leaf with the way to it, in a line."""
    if isinstance(value, Mapping):
        for key, item in value.items():
            yield from lines(item, f"{path} > {key}" if path else str(key))
        if not value:
            yield f"{path}: nothing"
    elif isinstance(value, list):
        for item in value:
            yield f"{path}: {item}" if path else str(item)
    else:
        yield f"{path}: {value}"


def key_paths(value: Any, path: str = "") -> set[str]:
    """The keys of a JSON or YAML document: `a.b`, of every item of a list `a[].b`, and what the leaves are."""
    if isinstance(value, dict) and value:
        return set().union(*(key_paths(item, f"{path}.{key}" if path else str(key)) for key, item in value.items()))
    if isinstance(value, list) and value:
        return set().union(*(key_paths(item, f"{path}[]") for item in value))
    return {path}


def bag_format(folder: Path) -> dict[str, Any]:
    """The files and keys of a bag."""
    with next(folder.glob("*.mcap")).open("rb") as stream:
        reader = make_reader(stream)
        summary, header = reader.get_summary(), reader.get_header()
        assert summary is not None
        return {
            "files": sorted({file.suffix if file.suffix == ".mcap" else file.name for file in folder.iterdir()}),
            "metadata.yaml": sorted(key_paths(yaml.safe_load((folder / "metadata.yaml").read_text()))),
            "profile": header.profile,
            "schema encodings": sorted({schema.encoding for schema in summary.schemas.values()}),
            "message encodings": sorted({channel.message_encoding for channel in summary.channels.values()}),
            "channel metadata": sorted({key for c in summary.channels.values() for key in c.metadata}),
            "chunk compression": sorted({chunk.compression for chunk in summary.chunk_indexes}),
            "metadata records": {record.name: sorted(record.metadata) for record in reader.iter_metadata()},
        }


def launch_files() -> dict[str, Any]:
    """Arguments of each launch file, and the nodes that it starts. PyPI has no `launch`: names stand for it."""

    class Noted:
        def __init__(self, *args: Any, **options: Any) -> None:
            self.args, self.options = args, options

    names = {
        "launch": ["LaunchDescription"],
        "launch.actions": [
            "DeclareLaunchArgument", "SetEnvironmentVariable", "IncludeLaunchDescription", "LogInfo",
        ],
        "launch.launch_description_sources": ["PythonLaunchDescriptionSource"],
        "launch.substitutions": ["LaunchConfiguration"], "launch_ros": [], "launch_ros.actions": ["Node"],
        "launch_ros.parameter_descriptions": ["ParameterValue"],
    }  # fmt: skip
    modules = {name: ModuleType(name) for name in names}
    for name, module in modules.items():
        for kind in names[name]:
            setattr(module, kind, type(kind, (Noted,), {}))
    found: dict[str, Any] = {}
    with patch.dict(sys.modules, modules):
        for file in sorted((ROOT / "launch").glob("*.launch.py")):
            actions = runpy.run_path(str(file))["generate_launch_description"]().args[0]
            kinds = {kind: [a for a in actions if type(a).__name__ == kind] for kind in names["launch.actions"]}
            found[file.name] = {
                "arguments": {
                    a.args[0]: {key: v for key, v in a.options.items() if key != "description"}
                    for a in kinds["DeclareLaunchArgument"]
                },
                "nodes": [a.options["executable"] for a in actions if type(a).__name__ == "Node"],
                "respawned": [a.options["executable"] for a in actions if a.options.get("respawn")],
            }
    return found


def main(folder: Path) -> dict[str, Any]:
    """All of it; folder: an empty one to work in."""
    os.chdir(folder)
    first, second = pty.openpty()  # a terminal, for the keyboard
    os.dup2(second, 0)
    needed: dict[str, Mapping[str, Any]] = {
        "recorder": {"bag": "bag"}, "player": {"bag": "bag"}, "panel": {"port": 0}, "foxglove": {"port": 0},
        "controller": PLAIN, "policy": PLAIN, "policies": {"robots": ["left"], **PLAIN},
    }  # fmt: skip
    executables: list[str] = json.loads(os.environ["EXECUTABLES"])
    nodes = {}
    for name in sorted(executables, key=lambda name: name != "recorder"):  # the player plays what it recorded
        began = time.monotonic()
        nodes[name] = offered(name, needed.get(name, {}))
        print(f"{name}: {time.monotonic() - began:.1f} s", file=sys.stderr, flush=True)
    os.close(first)
    return {"nodes": nodes, "bag": bag_format(Path("bag")), "launch files": launch_files()}


if __name__ == "__main__":
    faulthandler.dump_traceback_later(100.0, exit=True)
    status = 1
    try:
        with redirect_stdout(sys.stderr):
            result = main(Path(sys.argv[1]))
        print(json.dumps(result), flush=True)
        status = 0
    except Exception:
        traceback.print_exc()
    os._exit(status)  # whatever threads of the nodes are left
