"""A demonstration: an episode of states, actions and images at a steady rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

HAND: Final = "/ee_state"
"""Topic of an imported dataset's states: a JointState whose names are STATE_NAMES."""

STATE_NAMES: Final = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


@dataclass
class Demonstration:
    """An episode at `fps` frames a second.

    pictures: of each camera, uint8 [H, W, 3] RGB by frame, asked for one at a time. states: float32 [n, 7], the hand's
    x, y, z (m), roll, pitch, yaw (rad, fixed axes) in the base frame and its gripper (1 open .. 0 closed). actions:
    float32 [n, 7], as DELTA_EE_POSE of ActionChunk.msg. joints: float32 [n, 9] rad and m, or None.
    """

    task: str
    fps: int
    pictures: dict[str, Callable[[], Iterator[np.ndarray]]]
    states: np.ndarray
    actions: np.ndarray
    joints: np.ndarray | None
    notes: list[str] = field(default_factory=list)
