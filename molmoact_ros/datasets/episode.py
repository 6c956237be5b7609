"""A demonstration: an episode of states, actions and images at a constant rate."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal

import numpy as np

from molmoact_ros.cameras.camera_view import CameraView
from molmoact_ros.robots.franka import Arm

HAND: Final = "/ee_state"
"""Topic of the states of an imported dataset: a JointState with `state_names` as names."""

STATE_NAMES: Final = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
ONE_ARM: Final = ("",)
TWO_ARMS: Final = ("left_", "right_")
"""Prefixes of the arms' names."""


class DamagedEpisode(ValueError):
    """An episode of a dataset that cannot be read, though others can."""


@dataclass
class Demonstration:
    """An episode of a arms at `fps` frames per second.

    Args:
        tasks: language instruction of each of the n frames.
        fps: frames per second, not necessarily whole (29.97).
        pictures: for each camera, a function that iterates over its n frames, uint8 [H, W, 3] RGB.
        states: float32 [n, 7 a], the hand's x, y, z (m), roll, pitch, yaw (rad, fixed axes) in its arm's base frame and
            its gripper (1 open .. 0 closed). Two arms' values are in the order of ActionChunk.msg.
        actions: float32 [n, 7 a], as DELTA_EE_POSE of ActionChunk.msg.
        joints: float32 [n, 9 a], of each arm seven joints in rad and two fingers in m, or None.
        notes: caveats of the conversion, one line each.
        arms: prefix of each arm's names, left first.
        interventions: bool [n], whether a person had taken over from a policy; None: not recorded.
        outcome: how the episode ended; empty: not recorded.
        action_source: whether actions are what was commanded, or what was measured since nobody commanded.
        name: where it comes from, for messages.
        depth: a function that iterates over the first camera's depth at each frame, float32 [H, W] m aligned with its
            image, 0 where unknown; an item is None where none was recorded near that time. None: not recorded.
        view: calibration of the first camera, or why there is none, in one line.
    """

    tasks: list[str]
    fps: float
    pictures: dict[str, Callable[[], Iterator[np.ndarray]]]
    states: np.ndarray
    actions: np.ndarray
    joints: np.ndarray | None
    notes: list[str] = field(default_factory=list)
    arms: tuple[str, ...] = ONE_ARM
    interventions: np.ndarray | None = None
    outcome: Literal["", "success", "failure"] = ""
    action_source: Literal["commanded", "measured"] = "commanded"
    name: str = "the episode"
    depth: Callable[[], Iterator[np.ndarray | None]] | None = None
    view: CameraView | str = "a dataset has no calibration"


def state_names(arms: Sequence[str], change: str = "") -> list[str]:
    """The names of a state's values; change: before those of the pose, as `delta_` in actions.

    >>> state_names(("left_", "right_"))[:6]
    ['left_x', 'left_y', 'left_z', 'right_x', 'right_y', 'right_z']
    """
    kinds = (STATE_NAMES[:3], STATE_NAMES[3:6], STATE_NAMES[6:])
    return [f"{arm}{'' if of == 'gripper' else change}{of}" for kind in kinds for arm in arms for of in kind]


def joint_names(arms: Sequence[str]) -> list[str]:
    """The names of the joints of a Demonstration: of each arm, its joints and its fingers."""
    return [name for arm in map(Arm, arms) for name in (*arm.joints, *arm.fingers)]
