"""Frames that are fixed to each other: what is published on /tf_static, and lookup of one frame in another."""

from __future__ import annotations

from collections.abc import Collection
from typing import Any

import numpy as np
from scipy.spatial.transform import Rotation

MIN_NORM = 1e-3
"""Smallest norm of a quaternion that is a rotation, though perhaps not normalised."""


class StaticFrames:
    """The transforms published on /tf_static.

    Example:
        frames = StaticFrames()
        frames.add_transforms(message)
        pose = frames.pose("front_color_optical_frame", "base")  # [4, 4], or None where no static frames join them
    """

    def __init__(self) -> None:
        self._parents: dict[str, tuple[str, np.ndarray]] = {}  # of each frame: its parent and its pose [4, 4] in it

    def add_transforms(self, message: Any) -> None:
        """Add a publisher's transforms, a tf2_msgs/TFMessage; invalid ones are skipped."""
        for said in message.transforms:
            t, q = said.transform.translation, said.transform.rotation
            place = np.array([q.x, q.y, q.z, q.w, t.x, t.y, t.z])
            if not np.isfinite(place).all() or not MIN_NORM < np.linalg.norm(place[:4]) < 1 / MIN_NORM:
                continue  # no rotation: a publisher that has left it empty, or malformed data
            pose = np.eye(4)
            pose[:3, :3], pose[:3, 3] = Rotation.from_quat([q.x, q.y, q.z, q.w]).as_matrix(), [t.x, t.y, t.z]
            self._parents[said.child_frame_id] = said.header.frame_id, pose

    def pose(self, frame: str, within: str) -> np.ndarray | None:
        """Homogeneous transform [4, 4] of `frame` in the frame `within`; None where no static frames join them."""
        # The pose of `within` in the world is irrelevant: a distant or wrong one would only cost precision.
        root, here = self._to_root(frame, within)
        if root == within:
            return here
        other_root, there = self._to_root(within)
        return np.linalg.inv(there) @ here if root == other_root else None

    def mounted(self, frame: str, but: Collection[str]) -> tuple[str, np.ndarray]:
        """The root of the static frames that carry `frame`, below those named in `but`, and the pose [4, 4] of `frame`
        in it: of a camera's optical frame its driver's `front_link`, say, or the frame itself."""
        pose, seen = np.eye(4), {frame}
        while (parent := self._parents.get(frame)) and parent[0] not in but and parent[0] not in seen:
            frame, step = parent
            pose = step @ pose
            seen.add(frame)
        return frame, pose

    def _to_root(self, frame: str, until: str = "") -> tuple[str, np.ndarray]:
        pose, seen = np.eye(4), {frame}
        while frame in self._parents and frame != until:
            frame, step = self._parents[frame]
            pose = step @ pose
            if frame in seen:  # a cycle has no root
                break
            seen.add(frame)
        return frame, pose
