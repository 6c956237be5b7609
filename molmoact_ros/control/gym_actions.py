"""What the actions of SimplerEnv's and ManiSkill's arms mean, and the released evaluation's way to make them.

An action of theirs is float64 [7]: a displacement, a rotation, gripper; of the hand in the arm's base frame.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, Literal

import numpy as np
from scipy.spatial.transform import Rotation

STICKY_STEPS: Final = 15
"""Steps for which a Google robot's gripper goes on once it was told to."""
STICKY_CHANGE: Final = 0.5
"""Change of the opening, of 1, from one action to the next that sets the gripper in motion."""


@dataclass(frozen=True)
class GymArm:
    """An arm in a Gymnasium environment.

    names: how the environment's names of it begin. robot: `ActionConvention.robot` of checkpoints for it. control: the
    control mode that it needs. camera: the front camera. image_size: pixels of an image's side, by area; None: as the
    camera has it. unit_m, unit_rad: m and rad of an action of 1. rotation: a rotation vector, or angles about the axes
    x, y', z'' that turn along. gripper: `sign` is 1 for open and -1 for closed; `change` is how much it closes.
    to_the_end: whether an episode counts by its last step, and not by its first success.
    """

    names: str
    robot: str
    control: str
    camera: str
    image_size: int | None = None
    unit_m: float = 1.0
    unit_rad: float = 1.0
    rotation: Literal["rotation_vector", "turning_xyz"] = "rotation_vector"
    gripper: Literal["sign", "change"] = "sign"
    to_the_end: bool = False


ARMS: Final = (
    GymArm("google_robot", "google_robot", "arm_pd_ee_delta_pose", "overhead_camera", 256, gripper="change",
           to_the_end=True),
    GymArm("widowx", "widowx", "arm_pd_ee", "3rd_view_camera", 256, to_the_end=True),
    GymArm("panda", "franka", "pd_ee_delta_pose", "base_camera", None, 0.1, -0.1, "turning_xyz"),
)  # fmt: skip
"""SimplerEnv's Google robot and WidowX, as the released evaluation on SimplerEnv treats them (action scale 1), and
ManiSkill 3's Panda, whose controller turns the hand against the sign of an action (pd_ee_pose.py of 3.0.1 multiplies by
the lower limit, -0.1 rad; measured, too)."""


def gym_arm(name: str, control: str) -> GymArm:
    """The arm that an environment calls `name`, with its control mode. Raises ValueError, in one line, for others."""
    for arm in ARMS:
        if name.startswith(arm.names):
            if not control.startswith(arm.control):
                raise ValueError(
                    f"the environment controls its {name} by {control}, and actions are displacements of the hand: "
                    f"choose a control mode that begins with {arm.control}"
                )
            return arm
    raise ValueError(f"the meaning of actions is known for {', '.join(arm.names for arm in ARMS)}, not for {name!r}")


class GymActions:
    """Makes an environment's actions, one after the other, in one episode."""

    def __init__(self, arm: GymArm) -> None:
        self._arm = arm
        self._opening: float | None = None  # of the last action
        self._change, self._left = 0.0, 0  # of a gripper in motion, and for how many steps

    def convert(self, action: np.ndarray) -> np.ndarray:
        """An action float [7] in the meaning of msg/ActionChunk.msg (delta_ee_pose: m, roll, pitch, yaw in rad, 1 for
        open), as the environment's, float64 [7]."""
        turn = Rotation.from_euler("xyz", action[3:6])
        angles = turn.as_rotvec() if self._arm.rotation == "rotation_vector" else turn.as_euler("XYZ")
        opening = float(action[6])
        gripper = self._closing(opening) if self._arm.gripper == "change" else 2.0 * (opening > 0.5) - 1.0
        return np.array([*np.asarray(action[:3]) / self._arm.unit_m, *angles / self._arm.unit_rad, gripper])

    def _closing(self, opening: float) -> float:
        change = 0.0 if self._opening is None else self._opening - opening
        self._opening = opening
        if abs(change) > STICKY_CHANGE and not self._left:
            self._change, self._left = change, STICKY_STEPS
        if not self._left:
            return change
        self._left -= 1
        return self._change
