"""What the numbers of a checkpoint's actions mean, and a table of that for the released un-normalisation keys."""

from __future__ import annotations

import math
from typing import Final, Literal

import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic.dataclasses import dataclass


@dataclass(frozen=True, config=ConfigDict(extra="forbid", allow_inf_nan=False))
class GripperPolarity:
    """The values that mean an open and a closed gripper.

    threshold: opening, 0 (closed) to 1 (open), from which on the gripper opens whole, while it closes whole below it;
    None: the opening itself. Raises ValueError where open and closed are the same.
    """

    open: float
    closed: float
    threshold: float | None = None

    def __post_init__(self) -> None:
        if self.open == self.closed:
            raise ValueError(f"the gripper's open and closed are both {self.open:g}")

    def opening(self, values: np.ndarray) -> np.ndarray:
        """Values [...] as 1 (open) .. 0 (closed), float64 [...]. Nothing is clipped: a strange value stays strange."""
        out = (np.asarray(values, np.float64) - self.closed) / (self.open - self.closed)
        return out if self.threshold is None else np.where(out >= self.threshold, 1.0, 0.0)

    def values(self, opening: np.ndarray) -> np.ndarray:
        """Openings [...], 1 (open) .. 0 (closed), as the values that mean them, float64 [...]."""
        return self.closed + np.asarray(opening, np.float64) * (self.open - self.closed)


Space = Literal["delta_ee_pose", "ee_pose", "joint_position"]
"""The action spaces of msg/ActionChunk.msg."""


class ActionConvention(BaseModel):
    """What un-normalised actions mean; in run.json under `conventions`, by un-normalisation key.

    robot: what the checkpoint was trained to move; the policy moves a `franka`. space: see msg/ActionChunk.msg. frame:
    of displacements, the arm's base or the hand itself (the tool centre point). rotation: roll, pitch, yaw about fixed
    axes, or a rotation vector (axis times angle). position_scale, rotation_scale: m and rad of a value of 1; joints are
    rotations. gripper: its last values. clip_gripper: values beyond open and closed mean these; else they are refused.
    order: of two arms' values, those of one kind together, as in msg/ActionChunk.msg, or one arm after the other.
    state: what the model reads of the robot, in the same units, order and polarity: its joints and grippers, or the
    pose of the hand and its two fingers; empty: nothing. dt: seconds of one action; None: not stated. cameras: names of
    the cameras in the order of their images, front first; empty: not stated. assumed: which of these fields nobody has
    documented.

    >>> ours = ActionConvention(robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw",
    ...                         gripper=GripperPolarity(open=1, closed=0), dt=0.1)
    >>> ours.stated
    True
    """

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    robot: str = Field(min_length=1)
    space: Space
    frame: Literal["base", "hand"]
    rotation: Literal["roll_pitch_yaw", "rotation_vector"]
    position_scale: float = Field(default=1.0, gt=0)
    rotation_scale: float = Field(default=1.0, gt=0)
    gripper: GripperPolarity
    clip_gripper: bool = False
    order: Literal["kinds", "arms"] = "kinds"
    state: Literal["", "joint_position", "ee_pose"] = ""
    dt: float | None = Field(default=None, ge=0.01, le=1)
    cameras: tuple[str, ...] = ()
    assumed: tuple[str, ...] = ()

    @model_validator(mode="after")
    def _check(self) -> ActionConvention:
        if self.frame == "hand" and self.space != "delta_ee_pose":
            raise ValueError("only displacements (delta_ee_pose) can be in the frame of the hand")
        if unknown := [name for name in self.assumed if name not in type(self).model_fields]:
            raise ValueError(f"assumed names {unknown[0]!r}, which is no field of a convention")
        return self

    @property
    def stated(self) -> bool:
        """Whether somebody has said all of it, so that an arm may move by it."""
        return not self.assumed

    def __str__(self) -> str:
        """In one line, for people."""
        scale = "" if self.position_scale == self.rotation_scale == 1 else (
            f", 1 is {self.position_scale:g} m and {self.rotation_scale:g} rad"
        )  # fmt: skip
        threshold = "" if self.gripper.threshold is None else f", threshold {self.gripper.threshold:g}"
        return (
            f"{self.space} of {self.robot} in the frame of its {self.frame}, {self.rotation}{scale}, gripper "
            f"{self.gripper.open:g} open and {self.gripper.closed:g} closed{threshold}"
            f"{'' if self.dt is None else f', {self.dt:g} s a step'}"
        )


_ONE_OPEN: Final = GripperPolarity(open=1, closed=0)
UNSTATED: Final = ActionConvention(
    robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw", gripper=_ONE_OPEN,
    assumed=("robot", "space", "frame", "rotation", "position_scale", "rotation_scale", "gripper"),
)  # fmt: skip
"""The meaning in msg/ActionChunk.msg, for keys of which nothing is known."""


def _open_x(robot: str, dt: float, cameras: tuple[str, ...], assumed: tuple[str, ...] = ()) -> ActionConvention:
    return ActionConvention(
        robot=robot, space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw", gripper=_ONE_OPEN, dt=dt,
        cameras=cameras, assumed=assumed,
    )  # fmt: skip


_LIBERO: Final = ActionConvention(
    robot="libero", space="delta_ee_pose", frame="base", rotation="rotation_vector", position_scale=0.05,
    rotation_scale=0.5, gripper=GripperPolarity(open=1, closed=0, threshold=0.5), dt=0.05, cameras=("front", "wrist"),
)  # fmt: skip
_JOINTS: Final = ActionConvention(
    robot="franka", space="joint_position", frame="base", rotation="roll_pitch_yaw", order="arms",
    gripper=GripperPolarity(open=0, closed=1), clip_gripper=True, state="joint_position", dt=1 / 15,
    cameras=("front", "wrist"),
)  # fmt: skip
RELEASED: Final = {
    "molmoact": ActionConvention(
        robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw", gripper=_ONE_OPEN, dt=1 / 15,
        cameras=("front", "wrist"), assumed=("frame", "rotation", "dt"),
    ),
    **{f"libero_{suite}_no_noops_modified": _LIBERO for suite in ("spatial", "object", "goal", "10")},
    "fractal20220817_data": _open_x("google_robot", 1 / 3, ("front",)),
    "bc_z": _open_x("google_robot", 0.1, ("front",), ("frame",)),
    "bridge_orig": _open_x("widowx", 0.2, ("front",)),
    "bridge_dataset": _open_x("widowx", 0.2, ("front",)),
    "franka_droid": _JOINTS,
    "yam_dual_molmoact2": _JOINTS.model_copy(
        update={"robot": "yam", "gripper": _ONE_OPEN, "dt": 1 / 30, "cameras": ("top", "left", "right")}
    ),
    "so100_so101_molmoact2": _JOINTS.model_copy(
        update={
            "robot": "so100", "rotation_scale": math.pi / 180, "gripper": GripperPolarity(open=100, closed=0),
            "dt": 1 / 30, "cameras": (), "assumed": ("gripper",),
        }
    ),
    "libero": _LIBERO.model_copy(update={"gripper": GripperPolarity(open=-1, closed=1), "state": "ee_pose"}),
}  # fmt: skip
"""By key of the released checkpoints (allenai/MolmoAct-7B-*, allenai/MolmoAct2-*) and of the OpenX statistics beside
them.

LIBERO: inputs of robosuite's OSC_POSE controller, whose 1 is 0.05 m and 0.5 rad, at 20 Hz; its fingers follow the sign
of 2 g - 1 (experiments/LIBERO). fractal: SimplerEnv's Google robot, at 3 Hz. molmoact: a Franka, displacements of the
hand (allenai/molmoact, issue 19), at 15 Hz in homes and 20 Hz at tables (paper); answers write 1 for open, as the
released converter makes them; angles and frame are documented nowhere. franka_droid, yam_dual_molmoact2: absolute
joint targets; DROID's gripper is 0 open, YAM's 1 open (its episodes begin near 0.99). so100_so101_molmoact2: degrees,
in the calibration that LeRobot had before 0.5.
"""
