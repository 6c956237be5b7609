"""How a dataset's gripper values are meant: which is open, which closed."""

from __future__ import annotations

import re
from typing import Final

import numpy as np
from pydantic.dataclasses import dataclass

from molmoact_ros.reasoning.action_convention import GripperPolarity
from molmoact_ros.robots.franka import OPENING_MAX

TOLERANCE: Final = 0.05
"""How far measured values may lie outside 0..1: fingers open a little farther than their nominal stroke."""


@dataclass(frozen=True)
class GripperScale(GripperPolarity):
    """The values that mean open and closed; ours are 1 and 0. For fingers: their opening in m."""

    open: float = 1.0
    closed: float = 0.0

    def __str__(self) -> str:
        return f"{self.open:g}:{self.closed:g}"

    def apply(self, values: np.ndarray, kind: str) -> np.ndarray:
        """Values [n] as 1 (open) .. 0 (closed). kind: `state` or `actions`, for the message.

        Raises ValueError if they lie outside.
        """
        out = self.opening(values)
        if len(out) and (out.min() < -TOLERANCE or out.max() > 1 + TOLERANCE):
            raise ValueError(
                f"the gripper's {_PLURAL[kind]} lie in {values.min():.3g} .. {values.max():.3g}, not in "
                f"{self.closed:g} (closed) .. {self.open:g} (open); say how they are meant: {HOW_GRIPPER}"
            )
        return np.asarray(np.clip(out, 0.0, 1.0))


PRESETS: Final = {
    "libero": {"state": GripperScale(OPENING_MAX, 0.0), "actions": GripperScale(-1.0, 1.0)},
    "droid": {"state": GripperScale(0.0, 1.0), "actions": GripperScale(0.0, 1.0)},
    "metres": {"state": GripperScale(OPENING_MAX, 0.0), "actions": GripperScale(OPENING_MAX, 0.0)},
}
"""LIBERO: robosuite's fingers and its gripper action; DROID: `gripper_position`, 1 closed; metres: a Franka Hand's
opening."""
_PLURAL: Final = {"state": "states", "actions": "actions"}
HOW_GRIPPER: Final = f"--gripper {'|'.join(PRESETS)}, or in full --gripper state=OPEN:CLOSED,actions=OPEN:CLOSED"


def parse_gripper(given: str) -> dict[str, GripperScale]:
    """Scales by `state` and `actions`, from a preset's name or `state=OPEN:CLOSED,actions=OPEN:CLOSED`, or one of both.

    Raises ValueError for another form, or where open and closed are the same.
    """
    if not given:
        return {}
    if given in PRESETS:
        return dict(PRESETS[given])
    out = {}
    for part in given.split(","):
        found = re.fullmatch(r"(state|actions)=([^:=]+:[^:=]+)", part.strip())
        if found is None:
            raise ValueError(f"--gripper {given} is not understood; give {HOW_GRIPPER.removeprefix('--gripper ')}")
        out[found[1]] = parse_scale(found[2], f"--gripper {given}")
    return out


def parse_scale(given: str, option: str) -> GripperScale:
    """The scale `OPEN:CLOSED`. option: as it was given, for the message. Raises ValueError for another form."""
    try:
        opened, closed = (float(part) for part in given.split(":"))
    except ValueError:
        opened = closed = np.nan
    if not np.isfinite([opened, closed]).all():
        raise ValueError(f"{option} is not understood; give two numbers, OPEN:CLOSED, such as 1:0")
    if opened == closed:
        raise ValueError(f"{option}: open and closed are the same")
    return GripperScale(opened, closed)
