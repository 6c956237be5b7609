"""The Franka FR3 with Franka Hand: names, limits, home.

Positions, velocities and torques: frankarobotics/franka_description, robots/fr3/joint_limits.yaml. Accelerations, jerks and
how velocity limits shrink towards the ends of the joints: Franka Control Interface documentation, "Robot and interface
specifications", FR3.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

ARM_JOINTS = tuple(f"fr3_joint{i}" for i in range(1, 8))
FINGER_JOINTS = ("fr3_finger_joint1", "fr3_finger_joint2")
BASE_FRAME, TCP_FRAME = "fr3_link0", "fr3_hand_tcp"

POSITION_MIN = np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159])  # rad
POSITION_MAX = np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159])  # rad
VELOCITY_MAX = np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26])  # rad/s
ACCELERATION_MAX = np.full(7, 10.0)  # rad/s^2
JERK_MAX = np.full(7, 5000.0)  # rad/s^3
VELOCITY_OFFSET = np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35])  # rad/s
DECELERATION = np.array([6.0, 2.585, 3.5, 4.0, 17.0, 5.5, 17.0])  # rad/s^2, of the velocity limits near a joint's end
TORQUE_MAX = np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0])  # N m
HOME_Q = np.array(
    [0.0, -0.2752, 0.0, -2.5898, 0.0, 2.3145, 0.7854]
)  # rad: the hand points down, 0.25 m over the table's middle
OPENING_MAX = 0.08  # m between the finger tips (Franka Hand datasheet)


@dataclass(frozen=True)
class Arm:
    """One arm by its prefix: "" alone, "left_" or "right_" in a pair. Joint 1 of the fingers leads, 2 mirrors it."""

    prefix: str = ""

    @property
    def joints(self) -> tuple[str, ...]:
        """The seven joints, from the base on."""
        return tuple(self.prefix + joint for joint in ARM_JOINTS)

    @property
    def finger_joints(self) -> tuple[str, ...]:
        """Both fingers' joints."""
        return tuple(self.prefix + joint for joint in FINGER_JOINTS)

    @property
    def base_frame(self) -> str:
        """The frame in which poses are given."""
        return self.prefix + BASE_FRAME

    @property
    def tcp_frame(self) -> str:
        """The tool centre point, between the finger tips."""
        return self.prefix + TCP_FRAME


def velocity_limits(position: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Lowest and highest velocity that the FR3 takes at `position`: float64 [7] rad -> two of [7] rad/s.

    They shrink to zero towards the ends of the joints; FCI documentation, "Joint velocity limits", with the
    (slightly tighter) positions of above.
    """
    up = np.sqrt(2 * DECELERATION * np.maximum(POSITION_MAX - position, 0.0)) - VELOCITY_OFFSET
    down = np.sqrt(2 * DECELERATION * np.maximum(position - POSITION_MIN, 0.0)) - VELOCITY_OFFSET
    return -np.clip(down, 0.0, VELOCITY_MAX), np.clip(up, 0.0, VELOCITY_MAX)
