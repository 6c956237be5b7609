"""What users depend on is in interface.json, and the code offers that and nothing else.

Topics, parameters, commands, messages, files and their keys: where something is changed on purpose,
`WRITE_INTERFACE=1 pytest test/test_interface.py` writes it down anew, and the difference is for the change log.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import re
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields
from importlib import import_module
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import yaml

from molmoact_ros.bringup.profiles import environment
from molmoact_ros.evaluation.metrics import Row, report

from .offered import key_paths, lines

ROOT = Path(__file__).parents[1]
PACKAGE = ROOT / "molmoact_ros"
WRITTEN = Path(__file__).parent / "interface.json"
PATIENCE = 150.0
"""s in which every node has been started, which takes a tenth of that."""
VARIABLES = (
    r"(ROS|AMENT|LP|FR3|RMW|FASTRTPS|MOLMOACT|MUJOCO|OMP|XDG|VLLM|TORCH|TORCHINDUCTOR|CUDA|HF)_[A-Z0-9_]*[A-Z0-9]"
)
"""Names of environment variables, however the code comes to them."""
HOW = "where that is meant, write it down: WRITE_INTERFACE=1 pytest test/test_interface.py"


def executables() -> list[str]:
    """`ros2 run molmoact_ros <name>`."""
    found = re.search(r"foreach\(node ([^)]*)\)", (ROOT / "CMakeLists.txt").read_text())
    assert found is not None
    return sorted(found[1].split())


def running(folder: Path) -> dict[str, Any]:
    """What the nodes, the recorder's bag and the launch files are (offered.py), each node started in a process."""
    work = folder / "work"
    work.mkdir()
    extra = {
        "EXECUTABLES": json.dumps(executables()), "ROS_DOMAIN_ID": str(1 + os.getpid() % 100),
        "ROS_HOME": str(folder / "ros"), "HOME": str(folder),
    }  # fmt: skip
    done = subprocess.run(
        [sys.executable, "-P", str(Path(__file__).parent / "offered.py"), str(work)],
        env=environment(extra), stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=PATIENCE, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr[-3000:]
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def parser(main: str) -> argparse.ArgumentParser:
    """That of a command, with the arguments of every command below it."""
    module, _, _ = main.partition(":")
    made: argparse.ArgumentParser = import_module(module).make_parser()
    return made


def arguments(of: argparse.ArgumentParser) -> dict[str, Any]:
    """The flags of a command with what they take, and those of the commands below it."""
    found: dict[str, Any] = {}
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            found |= {name: arguments(below) for name, below in action.choices.items()}
        elif not isinstance(action, argparse._HelpAction):
            about = {
                "takes": type(action).__name__.strip("_").removesuffix("Action").lower(),
                "type": getattr(action.type, "__name__", None), "count": action.nargs, "default": plain(action.default),
                "choices": list(action.choices) if action.choices else None, "required": action.required or None,
                "kept as": action.dest, "const": action.const if action.nargs == 0 else None,
            }  # fmt: skip
            name = " ".join(action.option_strings) or action.dest
            found[name] = {key: value for key, value in about.items() if value is not None}
    for group in of._mutually_exclusive_groups:
        names = " | ".join(action.option_strings[0] for action in group._group_actions)
        found[names] = "one of these" if group.required else "at most one of these"
    return found


def plain(value: Any) -> Any:
    return str(value) if isinstance(value, Path) else value


def definition(file: Path) -> list[str]:
    """A message's fields and constants, without the comments."""
    stripped = (re.sub(r"\s+", " ", line.split("#")[0]).strip() for line in file.read_text().splitlines())
    return [line for line in stripped if line]


def interfaces() -> dict[str, list[str]]:
    files = sorted(file for kind in ("msg", "srv", "action") for file in (ROOT / kind).glob(f"*.{kind}"))
    return {f"{file.parent.name}/{file.stem}": definition(file) for file in files}


def generated() -> dict[str, Any]:
    """Fields of the messages that are installed, by rosidl: what is compiled is what is written."""
    found = {}
    for file in (ROOT / "msg").glob("*.msg"):
        kind = getattr(import_module("molmoact_ros.msg"), file.stem)
        found[file.stem] = [f"{type_name} {name}" for name, type_name in kind.get_fields_and_field_types().items()]
    return found


def policies() -> dict[str, dict[str, list[str]]]:
    """What each node may do by the committed SROS2 policies: also what it does only now and then."""
    folder = ROOT / "config" / "security" / "policies"
    found: dict[str, dict[str, list[str]]] = {}
    for file in sorted(folder.rglob("*.xml")):
        rules: dict[str, list[str]] = {}
        for element in ElementTree.parse(file).iter():
            if element.tag in ("topics", "services", "actions"):
                for verb in element.attrib:
                    rules.setdefault(f"{verb} {element.tag}", []).extend((i.text or "").strip() for i in element)
        found[str(file.relative_to(folder))] = {verb: sorted(names) for verb, names in rules.items()}
    return found


def profiles() -> dict[str, Any]:
    files = sorted((ROOT / "config" / "profiles").glob("*.yaml"))
    read = {file.stem: yaml.safe_load(file.read_text()) for file in files}
    return {name: {node: sorted(given) for node, given in profile["nodes"].items()} for name, profile in read.items()}


def checkpoint() -> dict[str, Any]:
    """Files of a checkpoint folder, keys of its JSON files, and tensors with the numbers of layers collapsed."""
    folder, found = ROOT / "models" / "nano", {}
    for file in sorted(folder.iterdir()):
        if file.suffix == ".json":
            keys = json.loads(file.read_text())
            found[file.name] = sorted(keys) if file.name == "tokenizer.json" else sorted(collapsed(key_paths(keys)))
        elif file.suffix == ".safetensors":
            with file.open("rb") as stream:
                head = json.loads(stream.read(int.from_bytes(stream.read(8), "little")))
            found[file.name] = sorted(collapsed(set(head) - {"__metadata__"}))
    return found


def collapsed(names: set[str]) -> set[str]:
    """The same with numbers as N."""
    return {re.sub(r"(?<![A-Za-z0-9])\d+(?![A-Za-z0-9])", "N", name) for name in names}


def figures() -> dict[str, Any]:
    """Keys of what commands write: of the committed figures, of `eval --json`, and of the demo's summary.json."""
    found: dict[str, Any] = {
        file.name: sorted(collapsed(key_paths(json.loads(file.read_text()))))
        for file in sorted((ROOT / "docs" / "figures").glob("*.json"))
    }
    examples: dict[str, Any] = {"int": 1, "str": "put the red cube in the bowl", "bool": True, "float": 1.0}
    row = Row(**{field.name: examples[str(field.type)] for field in fields(Row)})
    found["eval --json"] = sorted(key_paths(report([row], "", 1)))
    found["demo summary.json, beside what eval has of an episode"] = sorted(summary_keys())
    return found


def summary_keys() -> set[str]:
    """Texts of the statements that lead to summary.json which are keys: those of literal dictionaries and tuples."""
    keys: set[str] = set()
    for function in (node for tree in sources() for node in ast.walk(tree) if isinstance(node, ast.FunctionDef)):
        texts = [n.value for n in ast.walk(function) if isinstance(n, ast.Constant) and n.value == "summary.json"]
        for node in ast.walk(function) if texts else ():
            parts = node.keys if isinstance(node, ast.Dict) else [] if not isinstance(node, ast.DictComp) else (
                [e for g in node.generators if isinstance(g.iter, ast.Tuple) for e in g.iter.elts]
            )  # fmt: skip
            keys |= {part.value for part in parts if isinstance(part, ast.Constant) and isinstance(part.value, str)}
    return keys - {"bag", "images", "checkpoint", "recorder", "policy"}


def sources() -> Iterator[ast.Module]:
    for file in sorted(PACKAGE.rglob("*.py")):
        yield ast.parse(file.read_text())


def variables() -> list[str]:
    """Environment variables that the code reads or sets."""
    found = set()
    for tree in sources():
        for node in ast.walk(tree):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and re.fullmatch(VARIABLES, node.value):
                found.add(node.value)
    return sorted(found)


def interface(folder: Path) -> dict[str, Any]:
    """All that users depend on, by what the code is now."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    seen = running(folder)
    return {
        "executables": executables(),
        "nodes": seen["nodes"],
        "commands": {name: arguments(parser(main)) for name, main in project["scripts"].items()},
        "extras": sorted(project["optional-dependencies"]),
        "entry points": {group: sorted(entries) for group, entries in project["entry-points"].items()},
        "interfaces": interfaces(),
        "generated messages": generated(),
        "launch files": seen["launch files"],
        "profiles": profiles(),
        "security policies": policies(),
        "bag": seen["bag"],
        "checkpoint": checkpoint(),
        "keys of figures": figures(),
        "environment variables": variables(),
    }


@pytest.fixture(scope="module")
def found(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(json.dumps(interface(tmp_path_factory.mktemp("interface"))))
    if os.environ.get("WRITE_INTERFACE"):
        WRITTEN.write_text(json.dumps(found, indent=1, sort_keys=True) + "\n")
    return found


SECTIONS = sorted(json.loads(WRITTEN.read_text())) if WRITTEN.exists() else ["nodes"]


@pytest.mark.parametrize("section", SECTIONS)
def test_the_code_offers_what_is_written_down_and_nothing_else(found: dict[str, Any], section: str) -> None:
    then, now = (set(lines(all_of[section])) for all_of in (json.loads(WRITTEN.read_text()), found))
    gone = [f"- {line}" for line in sorted(then - now)]
    new = [f"+ {line}" for line in sorted(now - then)]
    assert not gone + new, "\n".join([f"{section}: gone (-) or new (+); {HOW}", *gone, *new])


def test_every_section_is_written_down(found: dict[str, Any]) -> None:
    assert sorted(found) == sorted(json.loads(WRITTEN.read_text())), HOW


def test_no_default_is_of_this_machine() -> None:
    text = WRITTEN.read_text()
    assert str(ROOT) not in text and str(Path.home()) not in text and sys.prefix not in text
