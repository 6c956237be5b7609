"""How a dataset's features become our states, actions and cameras: chosen by names and ranges, or given by options."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.kinematics import Kinematics
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
from molmoact_ros.datasets.poses import displacements, hand_poses
from molmoact_ros.robots.franka import OPENING_MAX

HAND_SPEED_MAX: Final = 3.0
"""m/s: the FR3's Cartesian limit (FCI documentation); faster displacements are in another unit, or are poses."""
MAX_REACH: Final = 2.0
"""m from the arm's base: more than twice its reach of 0.855 m (FCI documentation), for bases beside it."""
MAX_ANGLE: Final = 2 * np.pi + 0.1
"""rad: a whole turn, and rounding."""
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


@dataclass(frozen=True)
class FeatureRoles:
    """The features that make a vector, and the role of each of their values."""

    parts: tuple[tuple[str, tuple[str, ...]], ...]

    @property
    def roles(self) -> tuple[str, ...]:
        """The roles of all values, in their order."""
        return tuple(role for _, roles in self.parts for role in roles)

    def values(self, table: Mapping[str, np.ndarray]) -> np.ndarray:
        """The values of all features side by side, float32 [n, D]."""
        return np.column_stack([table[key].reshape(len(table[key]), -1) for key, _ in self.parts])

    def find(self, roles: Sequence[str]) -> list[int] | None:
        """The columns with these roles, or None unless each is there."""
        there = self.roles
        return [there.index(role) for role in roles] if all(role in there for role in roles) else None

    def __str__(self) -> str:
        return ";".join(f"{key}={','.join(roles)}" for key, roles in self.parts)


@dataclass(frozen=True)
class DatasetMapping:
    """A complete mapping; `str()` is the options that give it in full.

    action_scale: m and rad of a displacement of 1; None: they are in m and rad, and are checked for being possible.
    """

    cameras: dict[str, str]
    state: FeatureRoles
    actions: FeatureRoles
    joints: FeatureRoles | None
    state_gripper: GripperScale = field(default_factory=GripperScale)
    action_gripper: GripperScale = field(default_factory=GripperScale)
    action_scale: tuple[float, float] | None = None

    def __str__(self) -> str:
        cameras = ",".join(f"{name}={key}" for name, key in self.cameras.items())
        gripper = f"state={self.state_gripper},actions={self.action_gripper}"
        position, angle = self.action_scale or (1.0, 1.0)
        return (
            f"--cameras '{cameras}' --state '{self.state}' --actions '{self.actions}' --gripper {gripper} "
            f"--action-scale {position:g},{angle:g}"
        )

    @property
    def keys(self) -> list[str]:
        """The features that are vectors."""
        used = [self.state, self.actions, *([self.joints] if self.joints else [])]
        return list(dict.fromkeys(key for part in used for key, _ in part.parts))

    def states(self, table: Mapping[str, np.ndarray], kinematics: Callable[[], Kinematics]) -> np.ndarray:
        """Our states float32 [n, 7] of a table of features. Raises ValueError for values that cannot be meant so."""
        values = self.state.values(table)
        poses = _poses(self.state, values, kinematics)
        return np.column_stack([poses, _gripper(self.state, values, self.state_gripper, "state")]).astype(np.float32)

    def arm_joints(self, table: Mapping[str, np.ndarray], states: np.ndarray) -> np.ndarray | None:
        """Arm joints and fingers float32 [n, 9], rad and m; None if the dataset has none.

        states: [n, 7], whose gripper is the fingers' where they are not in the dataset.
        """
        if self.joints is None:
            return None
        values = self.joints.values(table)
        arm = values[:, self.joints.find(JOINT_ROLES)]
        fingers = [k for k, role in enumerate(self.joints.roles) if role == "finger"]
        width = values[:, fingers] if len(fingers) == 2 else np.repeat(states[:, 6:] * OPENING_MAX / 2, 2, axis=1)
        return np.column_stack([arm, width]).astype(np.float32)

    def deltas(
        self, table: Mapping[str, np.ndarray], states: np.ndarray, fps: float, kinematics: Callable[[], Kinematics]
    ) -> np.ndarray:
        """Our actions float32 [n, 7] of a table of features with these states. Raises ValueError like `states`."""
        values, roles = self.actions.values(table), self.actions
        gripper = _gripper(roles, values, self.action_gripper, "actions")
        where = roles.find([f"d{role}" for role in POSITION])
        if where is None:
            targets = _poses(roles, values, kinematics)
            moved = displacements(np.vstack([states[:1, :6], targets]))
        else:
            scale = self.action_scale or (1.0, 1.0)
            moved = np.column_stack([values[:, where] * scale[0], _turns(roles, values, scale[1])])
            if self.action_scale is None:
                _refuse_impossible(moved, fps)
        return np.column_stack([moved, gripper]).astype(np.float32)


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
    return _opening(of, both)


def _opening(of: FeatureRoles, values: np.ndarray) -> np.ndarray:
    """The gripper's values [n]; of fingers their opening, whatever their signs, m."""
    fingers = [k for k, role in enumerate(of.roles) if role == "finger"]
    if not fingers:
        return np.asarray(values[:, of.roles.index("gripper")])
    return np.asarray(np.abs(values[:, fingers]).mean(axis=1) * 2)


def _gripper(of: FeatureRoles, values: np.ndarray, scale: GripperScale, kind: str) -> np.ndarray:
    return scale.apply(_opening(of, values), kind)


def _poses(of: FeatureRoles, values: np.ndarray, kinematics: Callable[[], Kinematics]) -> np.ndarray:
    """Poses [n, 6] as `hand_poses` has them."""
    where = of.find(POSITION)
    if where is None:
        joints = values[:, of.find(JOINT_ROLES)].astype(np.float64)
        _refuse_units(joints, MAX_ANGLE, "joints", "rad")
        return hand_poses(joints, kinematics())
    angles = _angles(of, values)
    _refuse_units(values[:, where], MAX_REACH, "positions", "m")
    _refuse_units(angles, MAX_ANGLE, "angles", "rad")
    return np.column_stack([values[:, where], angles])


def _refuse_units(values: np.ndarray, most: float, what: str, unit: str) -> None:
    """Raises ValueError for values farther from 0 than is possible in this unit."""
    if (farthest := float(np.abs(values).max(initial=0.0))) > most:
        raise ValueError(f"the dataset has {what} of up to {farthest:.4g}: these are not {unit}; convert it first")


def _angles(of: FeatureRoles, values: np.ndarray) -> np.ndarray:
    if (where := of.find(EULER)) is not None:
        return values[:, where]
    if (where := of.find(ROTATION_VECTOR)) is not None:
        return np.asarray(Rotation.from_rotvec(values[:, where]).as_euler("xyz"))
    turns = values[:, of.find(QUATERNION)]
    if np.abs(np.linalg.norm(turns, axis=1) - 1).max() > 0.01:
        raise ValueError("the quaternions of the dataset are not of length 1; say what they are with --state")
    return np.asarray(Rotation.from_quat(turns).as_euler("xyz"))


def _turns(of: FeatureRoles, values: np.ndarray, scale: float) -> np.ndarray:
    if (where := of.find([f"d{role}" for role in EULER])) is not None:
        return np.asarray(values[:, where] * scale)
    where = of.find([f"d{role}" for role in ROTATION_VECTOR])
    return np.asarray(Rotation.from_rotvec(values[:, where] * scale).as_euler("xyz"))


def _refuse_impossible(moved: np.ndarray, fps: float) -> None:
    """Raises ValueError if displacements [n, 6] are faster than a Franka."""
    farthest = float(np.linalg.norm(moved[:, :3], axis=1).max(initial=0.0))
    if farthest * fps > HAND_SPEED_MAX:
        raise ValueError(
            f"the actions would move the hand by {farthest:.3g} m in a frame of {1 / fps:.3g} s, faster than the robot "
            f"can: say what a displacement of 1 is, in m and rad, with --action-scale (LIBERO: 0.05,0.5; as they are: "
            f"1,1), or that they are poses with --actions {','.join(STATE_ROLES)}"
        )


def _parse_scale(given: str) -> tuple[float, float] | None:
    if not given:
        return None
    try:
        position, angle = (float(part) for part in given.split(","))
    except ValueError:
        raise ValueError(f"--action-scale {given}: give m and rad of a displacement of 1, such as 0.05,0.5") from None
    return position, angle
