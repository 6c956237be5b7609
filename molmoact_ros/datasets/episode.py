"""A demonstration: an episode of states, actions and images at a constant rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Final

import numpy as np

HAND: Final = "/ee_state"
"""Topic of the states of an imported dataset: a JointState with STATE_NAMES as names."""

STATE_NAMES: Final = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")


class DamagedEpisode(ValueError):
    """An episode of a dataset that cannot be read, though others can."""


@dataclass
class Demonstration:
    """An episode at `fps` frames per second.

    Args:
        tasks: language instruction of each of the n frames.
        fps: frames per second, not necessarily whole (29.97).
        images: for each camera, a function that iterates over its n frames, uint8 [H, W, 3] RGB.
        states: float32 [n, 7], the hand's x, y, z (m), roll, pitch, yaw (rad, fixed axes) in the base frame and its
            gripper (1 open .. 0 closed).
        actions: float32 [n, 7], as DELTA_EE_POSE of ActionChunk.msg.
        joints: float32 [n, 9], seven arm joints in rad and two fingers in m, or None.
        notes: caveats of the conversion, one line each.
    """

    tasks: list[str]
    fps: float
    pictures: dict[str, Callable[[], Iterator[np.ndarray]]]
    states: np.ndarray
    actions: np.ndarray
    joints: np.ndarray | None
    notes: list[str] = field(default_factory=list)
