"""The hand on an arm, from the controller's parameters."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any, Final

from pydantic import BaseModel, ConfigDict, Field, field_validator
from rclpy.node import Node

from molmoact_ros.robots.franka import Arm
from molmoact_ros.robots.hands import HANDS
from molmoact_ros.ros.arm_topics import of_arm
from molmoact_ros.ros.parameters import declare

NO_GRIPPER: Final = ("none", "null")
"""Values of the parameter `gripper` that stand for an arm without one."""


class HandConfig(BaseModel):
    """Parameters of a hand; the preset gives their defaults. Opening in m = offset + scale * (sum of the joints)."""

    model_config = ConfigDict(allow_inf_nan=False)

    finger_joints: list[str] = Field([""], min_length=1, max_length=8, description="its joints; '': whatever is first")
    finger_scale: float = Field(1.0, description="m of opening per unit of the joints' positions; < 0: they close it")
    finger_offset: float = Field(0.0, description="opening where the joints' positions are 0, m")
    finger_stroke: float = Field(0.08, gt=0, le=0.3, description="greatest opening, m")
    hand_states: str = Field("", description="topic of its joint states; empty: the arm's")

    @field_validator("finger_scale")
    @classmethod
    def _not_zero(cls, scale: float) -> float:
        if not scale:
            raise ValueError("a scale of 0 would make every position the same opening")
        return scale


def with_hand(node: Node, arm: Arm, preset: str, gripper: str) -> Arm:
    """The arm with its hand by the node's parameters, declared with the arm's prefix; without one as `gripper` says.

    Raises ValueError for an unknown preset or a parameter that does not fit.
    """
    arm, defaults = _preset(arm, preset)
    return _fitted(arm, declare(node, HandConfig, arm.prefix, **defaults), gripper)


def with_recorded_hand(arm: Arm, preset: str, gripper: str, recorded: Mapping[str, Any]) -> Arm:
    """The same by the recorded parameters of a controller, by name; what was not recorded is the preset's.

    Raises ValueError like `with_hand`.
    """
    arm, defaults = _preset(arm, preset)
    known = {name: recorded[arm.prefix + name] for name in defaults if arm.prefix + name in recorded}
    return _fitted(arm, HandConfig.model_validate(defaults | known), gripper)


def _preset(arm: Arm, preset: str) -> tuple[Arm, dict[str, Any]]:
    """The arm with a preset's hand, and that hand as the values of a HandConfig."""
    if preset not in HANDS:
        raise ValueError(f"there is no hand {preset!r}; choose one of: {', '.join(HANDS)}")
    hand = HANDS[preset]
    arm = dataclasses.replace(arm, hand=hand)
    return arm, {
        "finger_joints": list(arm.hand_joints), "finger_scale": hand.scale, "finger_offset": hand.offset,
        "finger_stroke": hand.stroke, "hand_states": of_arm(arm, hand.topic) if hand.topic else "",
    }  # fmt: skip


def _fitted(arm: Arm, config: HandConfig, gripper: str) -> Arm:
    """The arm with its hand as configured; without one as `gripper` says."""
    if arm.hand is None or gripper in NO_GRIPPER:
        return dataclasses.replace(arm, hand=None)
    hand = dataclasses.replace(
        arm.hand, joints=tuple(config.finger_joints), scale=config.finger_scale, offset=config.finger_offset,
        stroke=config.finger_stroke, topic=config.hand_states,
    )  # fmt: skip
    return dataclasses.replace(arm, hand=hand)
