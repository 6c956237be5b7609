"""What each value of a dataset is: chosen by the names and ranges of its features, or given by options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from molmoact_ros.datasets.camera_names import match_cameras
from molmoact_ros.datasets.feature_roles import (  # fmt: skip
    ACTION_ROLES,
    EULER,
    JOINT_ROLES,
    POSITION,
    QUATERNION,
    ROLES,
    ROTATION_VECTOR,
    STATE_ROLES,
    as_displacements,
    names_of,
    roles_of,
    size_of,
)
from molmoact_ros.datasets.gripper_scale import GripperScale, parse_gripper
from molmoact_ros.datasets.mapping import DatasetMapping, FeatureRoles, opening
from molmoact_ros.robots.franka import OPENING_MAX

FEATURES: Final = {
    "state": ("state", "states", "observation.state", "observation.states"),
    "actions": ("actions", "action"),
}  # fmt: skip


@dataclass(frozen=True)
class MappingOptions:
    """What is given of a mapping; the rest is chosen by names and ranges.

    cameras: our names, front first, each alone or as `front=FEATURE`. state, actions: `[FEATURE=]ROLE,ROLE,...`, one
    role for each value, more features separated by `;`. gripper: see `parse_gripper`. action_scale: m and rad of a
    displacement of 1, as `0.05,0.5`.
    """

    cameras: Sequence[str] = ("front", "wrist")
    state: str = ""
    actions: str = ""
    gripper: str = ""
    action_scale: str = ""


def choose_mapping(
    features: Mapping[str, Any], cameras: Sequence[str], options: MappingOptions, ranges: Callable[[str], np.ndarray]
) -> DatasetMapping:
    """The mapping of a dataset.

    features: entries of info.json. cameras: its image features. ranges: least and greatest value of each of a feature's
    values [2, D]. Raises ValueError, in one line that says which option tells, where names and ranges do not.
    """
    state = _feature("state", features, options.state)
    actions = _feature("actions", features, options.actions)
    grippers = parse_gripper(options.gripper)
    scales = {}
    for kind, of in (("state", state), ("actions", actions)):
        scales[kind] = grippers.get(kind) or _default_scale(of)
        if kind not in grippers and not _ours(of, features):
            scales[kind].refuse_if_metres(_gripper_range(of, ranges), kind)
    joints = state if state.find(JOINT_ROLES) else _joints(features, {key for key, _ in actions.parts})
    return DatasetMapping(
        match_cameras(cameras, options.cameras), state, actions, joints, scales["state"], scales["actions"],
        _parse_scale(options.action_scale),
    )  # fmt: skip


def _feature(kind: str, features: Mapping[str, Any], given: str) -> FeatureRoles:
    if given:
        return _check_roles(kind, _parse_roles(kind, features, given))
    key = _find_feature(kind, features)
    names, size = names_of(features[key]), size_of(features[key])
    if names:
        roles = roles_of(names)
        return _check_roles(
            kind, FeatureRoles(((key, as_displacements(roles) if kind == "actions" else roles),)), names
        )
    if size != len(STATE_ROLES):
        raise ValueError(
            f"{key} has {size} values without names; say what each is, such as --{kind} "
            f"{'dx,dy,dz,droll,dpitch,dyaw,gripper' if kind == 'actions' else 'x,y,z,rx,ry,rz,finger,finger'}"
        )
    return FeatureRoles(((key, ACTION_ROLES if kind == "actions" else STATE_ROLES),))


def _find_feature(kind: str, features: Mapping[str, Any]) -> str:
    for key in FEATURES[kind]:
        if key in features:
            return key
    vectors = ", ".join(key for key, feature in features.items() if size_of(feature) > 1)
    raise ValueError(f"the dataset has no {kind} under a known name; say which with --{kind} FEATURE=...: {vectors}")


def _parse_roles(kind: str, features: Mapping[str, Any], given: str) -> FeatureRoles:
    parts = []
    for part in given.split(";"):
        key, _, listed = part.rpartition("=")
        key, roles = key.strip() or _find_feature(kind, features), tuple(role.strip() for role in listed.split(","))
        if key not in features:
            raise ValueError(f"the dataset has no feature {key}; it has {', '.join(features)}")
        if unknown := [role for role in roles if role not in ROLES]:
            raise ValueError(f"--{kind}: {unknown[0]!r} is none of {', '.join(sorted(ROLES))}")
        if len(roles) != size_of(features[key]):
            raise ValueError(f"--{kind}: {key} has {size_of(features[key])} values, not {len(roles)}")
        parts.append((key, roles))
    return FeatureRoles(tuple(parts))


def _check_roles(kind: str, of: FeatureRoles, names: Sequence[str] = ()) -> FeatureRoles:
    """Raises ValueError unless there is one pose, or seven joints, and one gripper."""
    roles = of.roles
    prefixes = ("d", "") if kind == "actions" else ("",)
    rotations = (EULER, ROTATION_VECTOR, QUATERNION)
    poses = [
        (*(f"{p}{role}" for role in POSITION), *(f"{p}{role}" for role in rotation))
        for p in prefixes for rotation in rotations if not (p and rotation is QUATERNION)
    ]  # fmt: skip
    wanted = [*poses, JOINT_ROLES]
    grips = [role for role in roles if role in ("gripper", "finger")]
    whole = any(of.find(pose) is not None for pose in wanted)
    once = all(roles.count(role) == 1 for role in roles if role not in ("-", "finger"))
    if whole and once and (grips == ["gripper"] or 1 <= grips.count("finger") == len(grips) <= 2):
        return of
    described = ", ".join(names) if names else ", ".join(roles)
    raise ValueError(
        f"{' and '.join(key for key, _ in of.parts)} ({described}) is not the pose or the joints of one arm and its "
        f"gripper; say what each value is with --{kind}"
    )


def _joints(features: Mapping[str, Any], taken: set[str]) -> FeatureRoles | None:
    """The feature that holds the arm's measured joints, if there is one."""
    for key, feature in features.items():
        roles = FeatureRoles(((key, roles_of(names_of(feature))),))
        measured = not any(word in key for word in ("vel", "torque", "action", "target", "command"))
        if key not in taken and measured and roles.find(JOINT_ROLES):
            return roles
    return None


def _ours(of: FeatureRoles, features: Mapping[str, Any]) -> bool:
    """Whether this is a feature as we write it, with names."""
    (key, _), *more = of.parts
    ours = of.parts in ((("state", STATE_ROLES),), (("actions", ACTION_ROLES),))
    return ours and not more and bool(names_of(features[key]))


def _default_scale(of: FeatureRoles) -> GripperScale:
    return GripperScale(OPENING_MAX, 0.0) if "finger" in of.roles else GripperScale()


def _gripper_range(of: FeatureRoles, ranges: Callable[[str], np.ndarray]) -> np.ndarray:
    """Least and greatest gripper value [2]; of fingers, of their opening in m."""
    both = np.column_stack([ranges(key) for key, _ in of.parts])
    return opening(of, both)


def _parse_scale(given: str) -> tuple[float, float] | None:
    if not given:
        return None
    try:
        position, angle = (float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f"--action-scale {given}: give m and rad of a displacement of 1, such as 0.05,0.5") from None
    return position, angle
