"""The gripper's path in the first camera's images, and the trace of each frame."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.cameras.image_path import ImagePath, path_in_image
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, split
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.reasoning.observation import known_depth

HAND_SIZE: Final = 0.12
"""m by which what is measured may be nearer than the gripper's point: the Franka Hand reaches 0.1034 m from its flange
to that point (its product manual), and what it holds is around it."""
HIDDEN: Final = "the gripper is behind something"


def hand_positions(demonstration: Demonstration) -> np.ndarray:
    """The hands' positions float [a, n, 3] m, each in its arm's base frame."""
    chunk = ActionChunk(demonstration.states, dt=1.0, stamp=0.0, space=ActionSpace.DELTA_EE)
    return np.array([part.actions[:, :3] for part in split(chunk, len(demonstration.arms))])


def projected_path(demonstration: Demonstration) -> tuple[ImagePath, np.ndarray]:
    """The gripper's path by kinematics and calibration, and its distance from the camera, float [n] m.

    A point outside of the image is left out. Of two arms it is the path of the one that moves farther. Raises
    ValueError, in one line, without calibration.
    """
    view, hands = demonstration.view, hand_positions(demonstration)
    if isinstance(view, str):
        raise ValueError(f"{view}; click the gripper (--click-page), or learn the checkpoint's traces (--trace model)")
    return path_in_image(view, list(hands))


def is_hidden(depth: np.ndarray, place: np.ndarray, distance: float) -> bool:
    """Whether depth [H, W] m at a place [2], in fractions of the image, is nearer than a hand at `distance` m is."""
    rows, columns = depth.shape
    column, row = np.minimum(place * (columns, rows), (columns - 1, rows - 1)).astype(int)
    measured = float(known_depth(depth[row : row + 1, column : column + 1])[0, 0])
    return 0 < measured < distance - HAND_SIZE
