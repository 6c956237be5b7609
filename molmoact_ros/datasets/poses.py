"""Poses of the hand as rows of numbers, and the displacements between them."""

from __future__ import annotations

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.kinematics import Kinematics


def hand_poses(joints: np.ndarray, kinematics: Kinematics) -> np.ndarray:
    """The hand at arm joints [n, 7] rad: x, y, z (m), roll, pitch, yaw (rad, fixed axes) in the base frame [n, 6]."""
    poses = [kinematics.forward(q) for q in joints]
    angles = [pose.rotation.as_euler("xyz") for pose in poses]
    return np.column_stack([[pose.position for pose in poses], angles])


def displacements(poses: np.ndarray) -> np.ndarray:
    """The motion between consecutive poses [n, 6], as DELTA_EE_POSE of ActionChunk.msg without the gripper [n - 1, 6].

    Rows are x, y, z (m), roll, pitch, yaw (rad, fixed axes) in the base frame.
    """
    if len(poses) < 2:
        return np.zeros((0, 6))
    turns = Rotation.from_euler("xyz", poses[:, 3:6])
    return np.column_stack([np.diff(poses[:, :3], axis=0), (turns[1:] * turns[:-1].inv()).as_euler("xyz")])
