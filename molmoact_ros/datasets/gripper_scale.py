"""How a dataset's gripper values are meant: which is open, which closed."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Final

import numpy as np

from molmoact_ros.robots.franka import OPENING_MAX

TOLERANCE: Final = 0.05
"""How far measured values may lie outside 0..1: fingers open a little farther than their nominal stroke."""


@dataclass(frozen=True)
class GripperScale:
    """The values that mean open and closed; ours are 1 and 0. For fingers: their opening in m."""

    open: float = 1.0
    closed: float = 0.0

    def __str__(self) -> str:
        return f"{self.open:g}:{self.closed:g}"

    def apply(self, values: np.ndarray, kind: str) -> np.ndarray:
        """Values [n] as 1 (open) .. 0 (closed). kind: `state` or `actions`, for the message.

        Raises ValueError if they lie outside.
        """
        out = (np.asarray(values, np.float64) - self.closed) / (self.open - self.closed)
        if len(out) and (out.min() < -TOLERANCE or out.max() > 1 + TOLERANCE):
            raise ValueError(
                f"the gripper's {_PLURAL[kind]} lie in {values.min():.3g} .. {values.max():.3g}, not in "
                f"{self.closed:g} (closed) .. {self.open:g} (open); say how they are meant: {_HOW}"
            )
        return np.clip(out, 0.0, 1.0)

    def refuse_if_metres(self, span: np.ndarray, kind: str) -> None:
        """Raises ValueError for values that move as a finger does in m. span: least and greatest value [2]."""
        low, high = float(span.min()), float(span.max())
        self.apply(np.array([low, high]), kind)
        if self.open == 1.0 and high - low > 0.005 and high <= 1.1 * OPENING_MAX:
            raise ValueError(
                f"the gripper's {_PLURAL[kind]} lie in {low:.3g} .. {high:.3g}: metres, or a hand that is nearly "
                f"closed? say how they are meant: {_HOW}"
            )


PRESETS: Final = {
    "libero": {"state": GripperScale(OPENING_MAX, 0.0), "actions": GripperScale(-1.0, 1.0)},
    "droid": {"state": GripperScale(0.0, 1.0), "actions": GripperScale(0.0, 1.0)},
    "metres": {"state": GripperScale(OPENING_MAX, 0.0), "actions": GripperScale(OPENING_MAX, 0.0)},
}
"""LIBERO: robosuite's fingers and its gripper action; DROID: `gripper_position`, 1 closed; metres: a Franka Hand's
opening."""
_PLURAL: Final = {"state": "states", "actions": "actions"}
_HOW: Final = f"--gripper {'|'.join(PRESETS)}, or in full --gripper state=OPEN:CLOSED,actions=OPEN:CLOSED"


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
        found = re.fullmatch(r"(state|actions)=([^:=]+):([^:=]+)", part.strip())
        try:
            scale = GripperScale(float(found[2]), float(found[3])) if found else None
        except ValueError:
            scale = None
        if found is None or scale is None or not np.isfinite([scale.open, scale.closed]).all():
            raise ValueError(f"--gripper {given} is not understood; give {_HOW.removeprefix('--gripper ')}")
        if scale.open == scale.closed:
            raise ValueError(f"--gripper {given}: open and closed are the same")
        out[found[1]] = scale
    return out
