"""Two-finger hands: how the positions of a hand's joints give the distance between its finger tips.

Sources: Franka Hand datasheet (80 mm); Robotiq 2F-85 instruction manual (85 mm), with the knuckle joint of
ros2_robotiq_gripper: 0 rad open, about 0.8 rad closed; crisp_py's GripperConfig, whose values run from 0 to 1.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

FIRST: Final = ""
"""In place of a joint's name: the first joint of each message on the hand's own topic, however it is called."""


@dataclass(frozen=True)
class TwoFingerHand:
    """A hand of two fingers. The distance between their tips is offset + scale * (sum of its joints' positions), m.

    joints: names, in which {prefix} and {robot} stand for the arm's. stroke: greatest distance between the tips, m.
    scale: m per unit of a position (rad, m, or what the driver has). offset: m. topic: of the joint states that hold
    them; empty: the arm's. controller: usual name of its controller in ros2_control.

        ROBOTIQ_2F85.opening([0.4])  # 0.0425 m
        ROBOTIQ_2F85.position(0.085)  # 0.0 rad
    """

    joints: tuple[str, ...] = ("{prefix}{robot}_finger_joint1", "{prefix}{robot}_finger_joint2")
    stroke: float = 0.08
    scale: float = 1.0
    offset: float = 0.0
    topic: str = ""
    controller: str = "fr3_gripper_controller"

    def opening(self, positions: Sequence[float]) -> float:
        """Distance between the finger tips, m, at the positions of `joints`, clipped to 0..stroke."""
        return min(max(self.offset + self.scale * float(sum(positions)), 0.0), self.stroke)

    def position(self, opening: float) -> float:
        """The position of each joint at `opening` m, in the driver's unit."""
        return (opening - self.offset) / (self.scale * len(self.joints))


FRANKA_HAND: Final = TwoFingerHand()
ROBOTIQ_2F85: Final = TwoFingerHand(
    ("{prefix}robotiq_85_left_knuckle_joint",), 0.085, -0.085 / 0.8, 0.085, controller="robotiq_gripper_controller"
)
CRISP_GRIPPER: Final = TwoFingerHand(
    (FIRST,), scale=0.08, topic="gripper/gripper_state_broadcaster/joint_states",
    controller="gripper/gripper_position_controller",
)  # fmt: skip
HANDS: Final = {"franka_hand": FRANKA_HAND, "robotiq_2f85": ROBOTIQ_2F85, "crisp": CRISP_GRIPPER}
"""Presets, by the value of the controller's parameter `hand`."""
