"""What each value of a dataset is: chosen by the names of its features, or given by options."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

from molmoact_ros.datasets.camera_names import match_cameras
from molmoact_ros.datasets.episode import ONE_ARM, TWO_ARMS, state_names
from molmoact_ros.datasets.feature_roles import (  # fmt: skip
    ACTION_ROLES,
    EULER,
    JOINT_ROLES,
    POSITION,
    QUATERNION,
    ROLES,
    ROTATION_VECTOR,
    STATE_ROLES,
    UNUSED,
    arms_of,
    as_displacements,
    names_of,
    names_of_arm,
    roles_of,
    size_of,
)
from molmoact_ros.datasets.gripper_scale import HOW_GRIPPER, GripperScale, parse_gripper
from molmoact_ros.datasets.mapping import ArmMapping, DatasetMapping, FeatureRoles
from molmoact_ros.robots.franka import OPENING_MAX

FEATURES: Final = {
    "state": ("state", "states", "observation.state", "observation.states"),
    "actions": ("actions", "action"),
}  # fmt: skip


@dataclass(frozen=True)
class MappingOptions:
    """What is given of a mapping; the rest is chosen by names.

    cameras: our names, front first, each alone or as `front=FEATURE`. state, actions: `[FEATURE=]ROLE,ROLE,...`, one
    role for each value, more features separated by `;`. gripper: see `parse_gripper`. action_scale: m and rad of a
    displacement of 1, as `0.05,0.5`. needs_gripper: whether a dataset that does not say which value of its gripper is
    open is refused; else its gripper is unknown.
    """

    cameras: Sequence[str] = ("front", "wrist")
    state: str = ""
    actions: str = ""
    gripper: str = ""
    action_scale: str = ""
    needs_gripper: bool = field(default=True, kw_only=True)


def choose_mapping(features: Mapping[str, Any], cameras: Sequence[str], options: MappingOptions) -> DatasetMapping:
    """The mapping of a dataset.

    features: entries of info.json. cameras: its image features. Raises ValueError, in one line that says which option
    tells, where names do not.
    """
    arms = _arms(features, options)
    grippers, scale = parse_gripper(options.gripper), _parse_scale(options.action_scale)
    return DatasetMapping(
        match_cameras(cameras, options.cameras),
        {arm: _arm_mapping(features, options, grippers, scale, arm) for arm in arms},
    )


def _arms(features: Mapping[str, Any], options: MappingOptions) -> tuple[str, ...]:
    """The prefixes of the arms: by the roles that are given, else by the names of the state's values."""
    if options.state:
        names = re.split(r"[,;=]", options.state)
        return TWO_ARMS if any(name.strip().startswith(TWO_ARMS) for name in names) else ONE_ARM
    return arms_of(names_of(features[_find_feature("state", features)]))


def _arm_mapping(
    features: Mapping[str, Any], options: MappingOptions, grippers: Mapping[str, GripperScale],
    action_scale: tuple[float, float] | None, arm: str,
) -> ArmMapping:  # fmt: skip
    """The mapping of one arm. arm: prefix of its names."""
    state = _feature("state", features, options.state, arm)
    actions = _feature("actions", features, options.actions, arm)
    scales: dict[str, GripperScale | None] = {}
    for kind, of in (("state", state), ("actions", actions)):
        scales[kind] = grippers.get(kind) or _stated_scale(of, features) or _scale_of_fingers(of)
        if scales[kind] is None and options.needs_gripper:
            raise ValueError(
                f"the dataset does not say which value of the gripper's {kind} is open: say it with {HOW_GRIPPER}"
            )
    joints = state if state.find(JOINT_ROLES) else _joints(features, {key for key, _ in actions.parts}, arm)
    return ArmMapping(state, actions, joints, scales["state"], scales["actions"], action_scale)


def _feature(kind: str, features: Mapping[str, Any], given: str, arm: str) -> FeatureRoles:
    if given:
        return _check_roles(kind, _parse_roles(kind, features, given, arm))
    key = _find_feature(kind, features)
    names, size = names_of(features[key]), size_of(features[key])
    if names:
        roles = roles_of(names_of_arm(names, arm))
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


def _parse_roles(kind: str, features: Mapping[str, Any], given: str, arm: str) -> FeatureRoles:
    """The roles that are given, those of other arms left out."""
    parts = []
    for part in given.split(";"):
        key, _, listed = part.rpartition("=")
        key, roles = key.strip() or _find_feature(kind, features), tuple(role.strip() for role in listed.split(","))
        if key not in features:
            raise ValueError(f"the dataset has no feature {key}; it has {', '.join(features)}")
        prefix = f"(?:{'|'.join(TWO_ARMS)})" if arm else ""
        if unknown := [role for role in roles if re.sub(f"^{prefix}", "", role) not in ROLES]:
            raise ValueError(f"--{kind}: {unknown[0]!r} is none of {', '.join(sorted(ROLES))}")
        if len(roles) != size_of(features[key]):
            raise ValueError(f"--{kind}: {key} has {size_of(features[key])} values, not {len(roles)}")
        ours = (role.removeprefix(arm) if role.startswith(arm) else UNUSED for role in roles)
        parts.append((key, tuple(ours)))
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


def _joints(features: Mapping[str, Any], taken: set[str], arm: str) -> FeatureRoles | None:
    """The feature that holds the arm's measured joints, if there is one."""
    for key, feature in features.items():
        roles = FeatureRoles(((key, roles_of(names_of_arm(names_of(feature), arm))),))
        measured = not any(word in key for word in ("vel", "torque", "action", "target", "command"))
        if key not in taken and measured and roles.find(JOINT_ROLES):
            return roles
    return None


def _stated_scale(of: FeatureRoles, features: Mapping[str, Any]) -> GripperScale | None:
    """The scale that the feature with the gripper states in its `info`; ours, for one that we wrote before they did."""
    for key, roles in of.parts:
        stated = (features[key].get("info") or {}).get("gripper")
        if "gripper" in roles and stated is not None:
            try:
                return GripperScale(float(stated["open"]), float(stated["closed"]))
            except (KeyError, TypeError, ValueError):
                raise ValueError(
                    f"{key} has a gripper of {stated!r} in meta/info.json; say it with --gripper"
                ) from None
    return GripperScale() if _ours(of, features) else None


def _ours(of: FeatureRoles, features: Mapping[str, Any]) -> bool:
    """Whether this is a feature as we write it, with names."""
    (key, _), *more = of.parts
    names = names_of(features[key])
    ours = {"state": state_names(arms_of(names)), "actions": state_names(arms_of(names), "delta_")}
    return not more and bool(names) and names == ours.get(key)


def _scale_of_fingers(of: FeatureRoles) -> GripperScale | None:
    """The scale of fingers, which are in m; None for any other gripper, whose signs are never guessed."""
    return GripperScale(OPENING_MAX, 0.0) if "finger" in of.roles else None


def _parse_scale(given: str) -> tuple[float, float] | None:
    if not given:
        return None
    try:
        position, angle = (float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f"--action-scale {given}: give m and rad of a displacement of 1, such as 0.05,0.5") from None
    return position, angle
