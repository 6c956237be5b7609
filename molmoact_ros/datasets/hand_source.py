"""Where a recording's gripper opening comes from: the fingers, another joint, or nowhere."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from molmoact_ros.datasets.gripper_scale import GripperScale


@dataclass(frozen=True)
class HandSource:
    """The source of the gripper's opening, if that is not the Franka Hand's fingers.

    joint: a joint's name, with its positions when open and closed in `scale`. constant: 1 open .. 0 closed, for an arm
    without a hand.
    """

    joint: str = ""
    scale: GripperScale = field(default_factory=GripperScale)
    constant: float | None = None

    @staticmethod
    def parse(given: str) -> HandSource:
        """Parse `JOINT=OPEN:CLOSED`, or a constant; empty: the fingers. Raises ValueError for another form."""
        joint, _, scale = given.rpartition("=")
        try:
            if not given:
                return HandSource()
            if not joint:
                constant = float(given)
                if 0 <= constant <= 1:
                    return HandSource(constant=constant)
            else:
                opened, closed = (float(part) for part in scale.split(":"))
                if opened != closed and np.isfinite([opened, closed]).all():
                    return HandSource(joint, GripperScale(opened, closed))
        except ValueError:
            pass
        raise ValueError(
            f"--gripper {given} is not understood; give JOINT=OPEN:CLOSED, such as "
            "robotiq_85_left_knuckle_joint=0:0.8, or 1 (open) .. 0 (closed) for an arm without a hand"
        )
