"""How a dataset's features become our states and actions, once it is known what each value is."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, join, split
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.feature_roles import (
    EULER,
    JOINT_ROLES,
    POSITION,
    QUATERNION,
    ROTATION_VECTOR,
    STATE_ROLES,
    UNUSED,
)
from molmoact_ros.datasets.gripper_scale import GripperScale
from molmoact_ros.datasets.poses import displacements, hand_poses
from molmoact_ros.robots.franka import OPENING_MAX

HAND_SPEED_MAX: Final = 6.0
"""m/s: twice the FR3's Cartesian limit (FCI documentation); faster displacements are in another unit, or are poses."""
FAR: Final = 0.3
"""m between actions and states from which on they are no targets."""
NEAR: Final = 0.1
"""m between actions and states within which they are targets, unless the hand is that near to the base."""
MAX_REACH: Final = 2.0
"""m from the arm's base: more than twice its reach of 0.855 m (FCI documentation), for bases beside it."""
MAX_ANGLE: Final = 2 * np.pi + 0.1
"""rad: a whole turn, and rounding."""


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
class ArmMapping:
    """How features become the states and actions of one arm.

    action_scale: m and rad of a displacement of 1; None: they are in m and rad, and are checked for being possible.
    state_gripper, action_gripper: None: nobody said which value is open, so the gripper is unknown, NaN.
    """

    state: FeatureRoles
    actions: FeatureRoles
    joints: FeatureRoles | None
    state_gripper: GripperScale | None = field(default_factory=GripperScale)
    action_gripper: GripperScale | None = field(default_factory=GripperScale)
    action_scale: tuple[float, float] | None = None

    @property
    def keys(self) -> list[str]:
        """The features that are vectors."""
        used = [self.state, self.actions, *([self.joints] if self.joints else [])]
        return list(dict.fromkeys(key for part in used for key, _ in part.parts))

    def states(self, table: Mapping[str, np.ndarray], kinematics: Callable[[], Kinematics]) -> np.ndarray:
        """Our states float32 [n, 7] of a table of features. Raises ValueError for values that cannot be meant so."""
        values = self.state.values(table)
        gripper = _gripper(self.state_gripper, self.state, values, "state")
        return np.column_stack([_poses(self.state, values, kinematics), gripper]).astype(np.float32)

    def arm_joints(self, table: Mapping[str, np.ndarray], states: np.ndarray) -> np.ndarray | None:
        """Arm joints and fingers float32 [n, 9], rad and m; None if the dataset has none.

        states: [n, 7], whose gripper is the fingers' where they are not in the dataset.
        """
        if self.joints is None:
            return None
        values = self.joints.values(table)
        arm = values[:, self.joints.find(JOINT_ROLES)]
        fingers = [k for k, role in enumerate(self.joints.roles) if role == "finger"]
        gripper = np.repeat(states[:, 6:] * OPENING_MAX / 2, 2, axis=1)
        return np.column_stack([arm, np.abs(values[:, fingers]) if len(fingers) == 2 else gripper]).astype(np.float32)

    def deltas(
        self, table: Mapping[str, np.ndarray], states: np.ndarray, fps: float, kinematics: Callable[[], Kinematics]
    ) -> np.ndarray:
        """Our actions float32 [n, 7] of a table of features with these states. Raises ValueError like `states`."""
        values, roles = self.actions.values(table), self.actions
        gripper = _gripper(self.action_gripper, roles, values, "actions")
        where = roles.find([f"d{role}" for role in POSITION])
        if where is None:
            targets = _poses(roles, values, kinematics)
            _refuse_far(targets, states)
            moved = displacements(np.vstack([states[:1, :6], targets]))
        else:
            scale = self.action_scale or (1.0, 1.0)
            moved = np.column_stack([values[:, where] * scale[0], _turns(roles, values, scale[1])])
            if self.action_scale is None:
                _refuse_impossible(moved, states, fps)
        return np.column_stack([moved, gripper]).astype(np.float32)


@dataclass(frozen=True)
class DatasetMapping:
    """A complete mapping, by the prefix of each arm; `str()` is the options that give it in full."""

    cameras: dict[str, str]
    arms: dict[str, ArmMapping]

    def __str__(self) -> str:
        cameras = ",".join(f"{name}={key}" for name, key in self.cameras.items())
        state, actions = (_described({arm: getattr(of, kind) for arm, of in self.arms.items()}) for kind in KINDS)
        first = next(iter(self.arms.values()))
        position, angle = first.action_scale or (1.0, 1.0)
        scales = {"state": first.state_gripper, "actions": first.action_gripper}
        known = ",".join(f"{kind}={scale}" for kind, scale in scales.items() if scale is not None)
        return (
            f"--cameras '{cameras}' --state '{state}' --actions '{actions}' "
            f"{f'--gripper {known} ' if known else ''}--action-scale {position:g},{angle:g}"
        )

    @property
    def lacks_gripper(self) -> bool:
        """Whether the gripper of some arm is unknown, in the states or in the actions."""
        return any(None in (arm.state_gripper, arm.action_gripper) for arm in self.arms.values())

    @property
    def keys(self) -> list[str]:
        """The features that are vectors."""
        return list(dict.fromkeys(key for arm in self.arms.values() for key in arm.keys))

    @property
    def joints(self) -> str:
        """The features with the arms' joints, for people; empty if there are none."""
        return "; ".join(str(arm.joints) for arm in self.arms.values() if arm.joints)

    def states(self, table: Mapping[str, np.ndarray], kinematics: Callable[[], Kinematics]) -> np.ndarray:
        """The states float32 [n, 7 a] of Demonstration. Raises ValueError for values that cannot be meant so."""
        return _join([arm.states(table, kinematics) for arm in self.arms.values()])

    def deltas(
        self, table: Mapping[str, np.ndarray], states: np.ndarray, fps: float, kinematics: Callable[[], Kinematics]
    ) -> np.ndarray:
        """The actions float32 [n, 7 a] of a table with these states [n, 7 a]. Raises ValueError like `states`."""
        each = zip(self.arms.values(), self._by_arm(states), strict=True)
        return _join([arm.deltas(table, of, fps, kinematics) for arm, of in each])

    def arm_joints(self, table: Mapping[str, np.ndarray], states: np.ndarray) -> np.ndarray | None:
        """The joints float32 [n, 9 a] of Demonstration; None if the dataset has not those of every arm."""
        each = zip(self.arms.values(), self._by_arm(states), strict=True)
        parts = [of for arm, rows in each if (of := arm.arm_joints(table, rows)) is not None]
        return np.column_stack(parts) if len(parts) == len(self.arms) else None

    def _by_arm(self, states: np.ndarray) -> list[np.ndarray]:
        chunk = ActionChunk(states, dt=1.0, stamp=0.0, space=ActionSpace.DELTA_EE)
        return [part.actions for part in split(chunk, len(self.arms))]


KINDS: Final = ("state", "actions")


def _join(parts: list[np.ndarray]) -> np.ndarray:
    return parts[0] if len(parts) == 1 else join(parts, ActionSpace.DELTA_EE).astype(np.float32)


def _described(arms: Mapping[str, FeatureRoles]) -> str:
    """The roles of all arms as an option; each has the prefix of its arm."""
    out = []
    for number, (key, first) in enumerate(next(iter(arms.values())).parts):
        of = {arm: roles.parts[number][1] for arm, roles in arms.items()}
        named = [
            next((f"{arm}{roles[k]}" for arm, roles in of.items() if roles[k] != UNUSED), UNUSED)
            for k in range(len(first))
        ]
        out.append(f"{key}={','.join(named)}")
    return ";".join(out)


def _gripper(scale: GripperScale | None, of: FeatureRoles, values: np.ndarray, kind: str) -> np.ndarray:
    """The gripper's values [n] as 1 (open) .. 0 (closed); NaN without a scale. Raises ValueError like its `apply`."""
    return np.full(len(values), np.nan) if scale is None else scale.apply(opening(of, values), kind)


def opening(of: FeatureRoles, values: np.ndarray) -> np.ndarray:
    """The gripper's values [n]; of fingers their opening, whatever their signs, m."""
    fingers = [k for k, role in enumerate(of.roles) if role == "finger"]
    if not fingers:
        return np.asarray(values[:, of.roles.index("gripper")])
    return np.asarray(np.abs(values[:, fingers]).mean(axis=1) * 2)


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


def _refuse_far(targets: np.ndarray, states: np.ndarray) -> None:
    """Raises ValueError if absolute targets [n, 6] are far from the states [n, 7], so that they mean something else."""
    if (apart := _apart(targets, states)) > FAR:
        raise ValueError(
            f"the actions, as targets, are {apart:.2g} m away from the states: they are something else, such as "
            "displacements or velocities; say what with --actions"
        )


def _refuse_impossible(moved: np.ndarray, states: np.ndarray, fps: float) -> None:
    """Raises ValueError if displacements [n, 6] are faster than a Franka, or are themselves near the states [n, 7]."""
    lengths = np.linalg.norm(moved[:, :3], axis=1)
    if lengths.max() * fps > HAND_SPEED_MAX or (np.median(lengths) > 2 * NEAR and _apart(moved, states) < NEAR):
        raise ValueError(
            f"the actions would move the hand by {lengths.max():.3g} m in a frame of {1 / fps:.3g} s, which no "
            "displacement does: say what a displacement of 1 is, in m and rad, with --action-scale (LIBERO: 0.05,0.5; "
            f"as they are: 1,1), or that they are poses with --actions {','.join(STATE_ROLES)}"
        )


def _apart(positions: np.ndarray, states: np.ndarray) -> float:
    """The median distance between the positions in two arrays of poses, m."""
    return float(np.median(np.linalg.norm(positions[:, :3] - states[:, :3], axis=1)))
