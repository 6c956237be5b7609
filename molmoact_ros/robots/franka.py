"""Franka arms: names, limits and home position of the FR3 and of the Panda, both with Franka Hand.

Source of the limits: Franka Control Interface (FCI) documentation, "Robot and interface specifications", sections
"Limits for Franka Research 3" and "Limits for Panda"; positions of the FR3 also frankarobotics/franka_description,
robots/fr3/joint_limits.yaml; the position-dependent velocity limits are those of libfranka's rate_limiting.h, without
its tolerance. The hand's opening: Franka Hand datasheet.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from molmoact_ros.robots.hands import FRANKA_HAND, TwoFingerHand

JOINTS = 7
OPENING_MAX = 0.08  # m between the finger tips
HOME_Q = np.array(
    [0.0, -0.2752, 0.0, -2.5898, 0.0, 2.3145, 0.7854]
)  # rad: the hand points down, 0.25 m over the table's middle


@dataclass(frozen=True, eq=False)
class VelocityLaw:
    """The FR3's position-dependent velocity limits near its joint limits (FCI documentation), each float64 [7].

    upper(q) = min(v_max, max(0, -offset + sqrt(max(0, gain * (q_upper - q))))); lower(q) is its mirror image.
    offset: rad/s; gain: rad/s^2; q_upper, q_lower: rad.
    """

    offset: np.ndarray
    gain: np.ndarray
    q_upper: np.ndarray
    q_lower: np.ndarray


@dataclass(frozen=True, eq=False)
class Limits:
    """Joint limits, each float64 [7]: rad, rad/s, rad/s^2, rad/s^3, N m.

    law: position-dependent velocity limits; None: the velocity limits are the same everywhere.
    """

    position_min: np.ndarray
    position_max: np.ndarray
    velocity_max: np.ndarray
    acceleration_max: np.ndarray
    jerk_max: np.ndarray
    torque_max: np.ndarray
    law: VelocityLaw | None = None

    def velocity_bounds(self, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Lowest and highest velocity [..., 7] rad/s that the robot allows at joints `q` [..., 7] rad."""
        if self.law is None:
            high = np.broadcast_to(self.velocity_max, q.shape)
            return -high, high
        law = self.law
        up = np.sqrt(np.maximum(law.gain * (law.q_upper - q), 0.0)) - law.offset
        down = np.sqrt(np.maximum(law.gain * (q - law.q_lower), 0.0)) - law.offset
        zero = np.zeros(JOINTS)
        return -np.clip(down, zero, self.velocity_max), np.clip(up, zero, self.velocity_max)


FR3 = Limits(
    position_min=np.array([-2.7437, -1.7837, -2.9007, -3.0421, -2.8065, 0.5445, -3.0159]),
    position_max=np.array([2.7437, 1.7837, 2.9007, -0.1518, 2.8065, 4.5169, 3.0159]),
    velocity_max=np.array([2.62, 2.62, 2.62, 2.62, 5.26, 4.18, 5.26]),
    acceleration_max=np.full(JOINTS, 10.0),
    jerk_max=np.full(JOINTS, 5000.0),
    torque_max=np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0]),
    law=VelocityLaw(
        offset=np.array([0.30, 0.20, 0.20, 0.30, 0.35, 0.35, 0.35]),
        gain=np.array([12.0, 5.17, 7.0, 8.0, 34.0, 11.0, 34.0]),
        q_upper=np.array([2.75010, 1.79180, 2.90650, -0.1458, 2.81010, 4.52050, 3.01960]),
        q_lower=np.array([-2.75010, -1.79180, -2.90650, -3.0481, -2.81010, 0.54092, -3.01960]),
    ),
)
PANDA = Limits(
    position_min=np.array([-2.8973, -1.7628, -2.8973, -3.0718, -2.8973, -0.0175, -2.8973]),
    position_max=np.array([2.8973, 1.7628, 2.8973, -0.0698, 2.8973, 3.7525, 2.8973]),
    velocity_max=np.array([2.1750, 2.1750, 2.1750, 2.1750, 2.6100, 2.6100, 2.6100]),
    acceleration_max=np.array([15.0, 7.5, 10.0, 12.5, 15.0, 20.0, 20.0]),
    jerk_max=np.array([7500.0, 3750.0, 5000.0, 6250.0, 7500.0, 10000.0, 10000.0]),
    torque_max=np.array([87.0, 87.0, 87.0, 87.0, 12.0, 12.0, 12.0]),
)


@dataclass(frozen=True)
class Arm:
    """One arm, with the names of franka_ros2.

    prefix: "" for a single arm, else "left_" or "right_". robot: "fr3" or "panda". base: pose of its base in the
    workcell, x, y, z in m and yaw in rad. hand: what it carries; None: no gripper.
    """

    prefix: str = ""
    robot: str = "fr3"
    base: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    hand: TwoFingerHand | None = FRANKA_HAND

    @property
    def limits(self) -> Limits:
        """The robot's limits."""
        return {"fr3": FR3, "panda": PANDA}[self.robot]

    @property
    def joints(self) -> tuple[str, ...]:
        """Names of the seven joints, base first."""
        return tuple(f"{self.prefix}{self.robot}_joint{i}" for i in range(1, JOINTS + 1))

    @property
    def fingers(self) -> tuple[str, str]:
        """Names of the two finger joints of our model, which has a Franka Hand, m each."""
        return f"{self.prefix}{self.robot}_finger_joint1", f"{self.prefix}{self.robot}_finger_joint2"

    @property
    def hand_joints(self) -> tuple[str, ...]:
        """Names of the joints of its hand; none without a hand."""
        names = () if self.hand is None else self.hand.joints
        return tuple(name.replace("{prefix}", self.prefix).replace("{robot}", self.robot) for name in names)

    @property
    def stroke(self) -> float:
        """Greatest distance between the finger tips, m; that of the Franka Hand without a hand."""
        return OPENING_MAX if self.hand is None else self.hand.stroke

    @property
    def base_frame(self) -> str:
        """Frame of the arm's base."""
        return f"{self.prefix}{self.robot}_link0"

    @property
    def tcp_frame(self) -> str:
        """Frame of the tool centre point."""
        return f"{self.prefix}{self.robot}_hand_tcp"


def arms_at(prefixes: Sequence[str], bases: Sequence[float]) -> list[Arm]:
    """FR3s with these prefixes; `bases`: x, y, z (m) and yaw (rad) of each, one after the other.

    Raises ValueError when `bases` does not hold four values per prefix.
    """
    if len(bases) != 4 * len(prefixes):
        raise ValueError(f"bases has {len(bases)} values; give x, y, z and yaw of each of the arms")
    places = np.reshape(bases, (-1, 4)).tolist()
    return [Arm(prefix, base=tuple(place)) for prefix, place in zip(prefixes, places, strict=True)]


SINGLE = Arm()
PAIR = (Arm("left_", base=(0.0, 0.3, 0.0, 0.0)), Arm("right_", base=(0.0, -0.3, 0.0, 0.0)))
"""Two arms fixed side by side to one table, both facing forward; our own arrangement (the paper gives no distances)."""
BASE_FRAME = SINGLE.base_frame
