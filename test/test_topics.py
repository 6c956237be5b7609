"""docs/topics.md has every topic, service and action that interface.json has of each node, and no other."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from fnmatch import fnmatch
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
COLUMNS = ("publishes", "subscribes", "serves", "calls")
LIFECYCLE = {f"~/{name}" for name in (
    "change_state", "get_state", "get_available_states", "get_available_transitions", "get_transition_graph"
)}  # fmt: skip
NODES = json.loads((Path(__file__).parent / "interface.json").read_text())["nodes"]
UNSEEN = {"controller": {"~/recover"}, "expert": {"~/execute"}, "view": {"/robot_description", "/tf"}}
"""What a node offers only beside a robot, or once others run."""


def names(about: dict[str, Any]) -> Iterator[tuple[str, str]]:
    """Column and name of all that a node offers, by its default parameters and by others, without an arm's prefix."""
    lines = [(kind, line) for of in about["nodes"].values() for kind, found in of.items() for line in found]
    for variant in about.get("with", {}).values():
        lines += [(m[1], m[2]) for line in variant if (m := re.match(r"\+ \S+ > ([a-z ]+): (.+)", line))]
    for kind, line in lines:
        column, name = kind.removesuffix(" actions"), line.split(" ")[0]
        if column in COLUMNS and name not in LIFECYCLE and name != "whatever":
            yield column, re.sub(r"^/(left|right)/|(?<![^/])(left|right)[_/]", "", name)


def documented() -> dict[str, dict[str, set[str]]]:
    """The names in each column of the table, by node."""
    text = (ROOT / "docs" / "topics.md").read_text()
    found = dict[str, dict[str, set[str]]]()
    for line in text[text.index("## By node") :].splitlines():
        nodes, *cells = (cell.strip() for cell in line.strip("|").split("|"))
        quoted = [set(re.findall(r"`([^`]+)`", cell)) for cell in cells]
        found |= {node: dict(zip(COLUMNS, quoted, strict=False)) for node in re.findall(r"`(\w+)`", nodes) if cells}
    return found


TABLE = documented()


@pytest.mark.parametrize("node", sorted(NODES))
def test_every_name_of_a_node_is_in_its_row(node: str) -> None:
    row = TABLE["policy" if node == "policies" else node]
    lacking = {
        f"{column} {name}" for column, name in names(NODES[node]) if not any(fnmatch(name, of) for of in row[column])
    }
    assert not lacking, "add them to docs/topics.md"


@pytest.mark.parametrize("node", sorted(NODES.keys() - {"policies"}))
def test_a_row_has_no_name_that_its_node_has_not(node: str) -> None:
    offered = set(names(NODES[node]))
    stale = {
        f"{column} {name}" for column, of in TABLE[node].items() for name in of - UNSEEN.get(node, set())
        if "/" in name and not any(c == column and fnmatch(known, name) for c, known in offered)
    }  # fmt: skip
    assert not stale, "take them out of docs/topics.md"


def test_with_two_arms_the_prefixes_are_said() -> None:
    text = (ROOT / "docs" / "topics.md").read_text()
    two = [line for of in NODES.values() for lines in of.get("with", {}).values() for line in lines]
    for name in ("~/teleop/left_home", "left_fr3_arm_controller/joint_trajectory", "left_wrist/color/image_raw"):
        assert f"`{name}`" in text and any(f": {name} " in line for line in two)
