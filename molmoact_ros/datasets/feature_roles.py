"""What the values of a dataset's feature mean, by their names: the part of the pose, joint or gripper that each is.

A role is one of `x y z` (m), `roll pitch yaw` (rad, fixed axes), `rx ry rz` (rotation vector, rad), `qx qy qz qw`
(quaternion), `joint1` .. `joint7` (rad), `gripper`, `finger` (a finger's way, m) and `-` (left out). Displacements have
a `d` before: `dx`, `droll`, `drx`.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any, Final

from molmoact_ros.datasets.episode import ONE_ARM, TWO_ARMS

POSITION: Final = ("x", "y", "z")
EULER: Final = ("roll", "pitch", "yaw")
ROTATION_VECTOR: Final = ("rx", "ry", "rz")
QUATERNION: Final = ("qx", "qy", "qz", "qw")
JOINT_ROLES: Final = tuple(f"joint{k}" for k in range(1, 8))
UNUSED: Final = "-"
STATE_ROLES: Final = (*POSITION, *EULER, "gripper")
"""Roles of our own states, and of seven values without names."""
ACTION_ROLES: Final = (*(f"d{role}" for role in (*POSITION, *EULER)), "gripper")
"""Roles of our own actions, and of seven values without names."""
ROLES: Final = frozenset(
    [*POSITION, *EULER, *ROTATION_VECTOR, *QUATERNION, *JOINT_ROLES, "gripper", "finger", UNUSED]
    + [f"d{role}" for role in (*POSITION, *EULER, *ROTATION_VECTOR)]
)

_RATES = re.compile(r"vel|torque|effort|force|accel|current")
_GRIPPER = re.compile(r"gripper|finger|jaw")
_JOINT = re.compile(r"joint_?(?:pos(?:ition)?_?)?(\d+)(?:_pos(?:ition)?)?$|(?:^|_)q_?(\d+)$")
_QUATERNION = re.compile(r"(?:^|_)(?:quat(?:ernion)?_?|q)([xyzw])$")
_VECTOR = re.compile(r"(?:axis_?angle|angle_?axis|rot_?vec(?:tor)?|aa)_?([xyz0-9])$")
_SHORT_VECTOR = re.compile(r"(?:^|_|d)r([xyzw])$")
_EULER = re.compile(r"(?:^|_|d|delta)(roll|pitch|yaw)(?:_ee)?$")
_EULER_AXIS = re.compile(r"euler_?(?:angle)?s?_?([xyz])$")
_POSITION = re.compile(r"(?:^|_)(?:d|delta)?_?([xyz])(?:_ee)?$")
_OTHER_ROTATION = re.compile(r"rot|ori|ang|quat")


def names_of(feature: dict[str, Any]) -> list[str]:
    """The names of a feature's values, from its entry in info.json; empty if there is not one for each value.

    They are a list, lists by group (`{"motors": [...]}`) or numbers by name (`{"delta_x": 0, ...}`).
    """
    names = feature.get("names")
    if isinstance(names, dict) and names and all(isinstance(place, int) for place in names.values()):
        names = sorted(names, key=lambda name: int(feature["names"][name]))
    flat = [str(name) for name in _flattened(names)]
    return flat if len(flat) == size_of(feature) and len(flat) > 1 else []


def size_of(feature: dict[str, Any]) -> int:
    """The number of values of a feature that is a vector; 0 for one of another shape."""
    shape = feature.get("shape") or [0]
    return int(shape[0]) if len(shape) == 1 else 0


def roles_of(names: Sequence[str]) -> tuple[str, ...]:
    """The role of each value, by its name; `-` for one that means none of them.

    Two or more gripper values are fingers.
    """
    roles = [_role(re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")) for name in names]
    roles = _numbered(roles, "joint:", JOINT_ROLES)
    roles = _numbered(roles, "vector:", ROTATION_VECTOR)
    if "rw" in roles:  # a rotation with a fourth value is no vector
        roles = [role.replace("r", "q") if role in (*ROTATION_VECTOR, "rw") else role for role in roles]
    if roles.count("gripper") > 1:
        roles = ["finger" if role == "gripper" else role for role in roles]
    return tuple(roles)


def arms_of(names: Sequence[str]) -> tuple[str, ...]:
    """The prefixes of the arms that have these values, by `left` and `right` as words in the names; `("",)` for one."""
    sides = {_side(name) for name in names} - {""}
    return TWO_ARMS if sides == set(TWO_ARMS) else ONE_ARM


def names_of_arm(names: Sequence[str], arm: str) -> list[str]:
    """The names with those of other arms emptied and the side taken away. arm: prefix; empty: the only one."""
    if not arm:
        return list(names)
    side = re.compile(rf"(?<![a-z]){arm[:-1]}[^a-z0-9]*")
    return [side.sub("", name.lower()) if _side(name) == arm else "" for name in names]


def _side(name: str) -> str:
    """`left_` or `right_`, where that is a word of a name; else empty."""
    found = re.findall(r"(?<![a-z])(left|right)(?![a-z])", name.lower())
    return f"{found[0]}_" if len(set(found)) == 1 else ""


def as_displacements(roles: Sequence[str]) -> tuple[str, ...]:
    """The roles of an action whose pose means a displacement."""
    return tuple(f"d{role}" if role in (*POSITION, *EULER, *ROTATION_VECTOR) else role for role in roles)


def _role(name: str) -> str:
    if _RATES.search(name):
        return UNUSED
    if _GRIPPER.search(name):
        return "finger" if "finger" in name else "gripper"
    if found := _JOINT.search(name):
        return f"joint:{found[1] or found[2]}"
    if found := _QUATERNION.search(name):
        return f"q{found[1]}"
    if found := _VECTOR.search(name):
        return f"vector:{'xyz'.find(found[1]) if found[1] in 'xyz' else found[1]}"
    if found := _SHORT_VECTOR.search(name):
        return f"r{found[1]}"
    if found := _EULER.search(name):
        return found[1]
    if found := _EULER_AXIS.search(name):
        return EULER["xyz".index(found[1])]
    if _OTHER_ROTATION.search(name):
        return UNUSED
    found = _POSITION.search(name)
    return found[1] if found else UNUSED


def _numbered(roles: list[str], prefix: str, wanted: Sequence[str]) -> list[str]:
    """Replace numbered roles, counted from 0 or from 1, by those `wanted`, or by `-` where the numbers do not fit."""
    numbers = [int(role.removeprefix(prefix)) for role in roles if role.startswith(prefix)]
    first = min(numbers, default=0)
    fits = sorted(numbers) == list(range(first, first + len(wanted)))
    return [
        (wanted[int(role.removeprefix(prefix)) - first] if fits else UNUSED) if role.startswith(prefix) else role
        for role in roles
    ]


def _flattened(names: Any) -> list[Any]:
    if isinstance(names, dict):
        names = list(names.values())
    if not isinstance(names, list):
        return [] if names is None else [names]
    return [name for part in names for name in _flattened(part)] if any(map(_nested, names)) else names


def _nested(part: Any) -> bool:
    return isinstance(part, list | dict)
