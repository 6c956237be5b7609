"""One chunk as a smooth path over path time: position, velocity and acceleration are continuous along it."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import ARM, ActionSpace
from molmoact_ros.control.pose import Pose


@dataclass(frozen=True)
class Target:
    """Target of an arm: `pose` of the hand, or `joints` [7] rad; `gripper` 1 open .. 0 closed, None: unchanged."""

    pose: Pose | None = None
    joints: np.ndarray | None = None
    gripper: float | None = None


class ChunkTrajectory:
    """A chunk's waypoints joined by a cubic spline that ends at rest.

    Its coordinates are joints [7], or position and rotation vector [6] relative to the anchor's rotation.
    """

    def __init__(self, actions: np.ndarray, space: ActionSpace, dt: float, start: float, anchor: Target) -> None:
        """`actions` [N, D]; start: path time of the anchor, s."""
        self.start, self.dt, self.space = start, dt, space
        self.gripper = actions[:, -1]
        self.anchor = anchor
        knots = _knots(actions, space, anchor)
        rest = np.zeros(knots.shape[1])
        times = np.arange(len(knots)) * dt
        times[-1] += dt  # the last step takes twice its time, since it ends at rest
        self._spline = CubicSpline(times, knots, bc_type=((2, rest), (1, rest)))

    @property
    def end(self) -> float:
        """Path time at which the last waypoint is reached, s."""
        return self.start + self.dt * (len(self.gripper) + 1)

    def hand_speed(self, time: float) -> float:
        """Speed of the hand at a path time, m/s; 0 for joint paths, for which it is unknown here."""
        if self.space is ActionSpace.JOINT:
            return 0.0
        along = min(max(time - self.start, 0.0), self.end - self.start)
        return float(np.linalg.norm(self._spline(along, 1)[:3]))

    def at(self, time: float) -> Target:
        """The target at a path time, s; clamped to the first before the start and to the last after the end."""
        along = min(max(time - self.start, 0.0), self.end - self.start)
        values = self._spline(along)
        gripper = float(self.gripper[min(int(along / self.dt), len(self.gripper) - 1)])
        if self.space is ActionSpace.JOINT:
            return Target(joints=values, gripper=gripper)
        assert self.anchor.pose is not None
        rotation = Rotation.from_rotvec(values[3:]) * self.anchor.pose.rotation
        return Target(pose=Pose(values[:3], rotation), gripper=gripper)


def _knots(actions: np.ndarray, space: ActionSpace, anchor: Target) -> np.ndarray:
    if space is ActionSpace.JOINT:
        assert anchor.joints is not None
        return np.vstack([anchor.joints, actions[:, :ARM]])
    assert anchor.pose is not None
    out = np.zeros((len(actions) + 1, 6))
    out[0, :3] = anchor.pose.position
    if space is ActionSpace.EE:
        out[1:, :3] = actions[:, :3]
        turns = Rotation.from_euler("xyz", actions[:, 3:6]) * anchor.pose.rotation.inv()
        out[1:, 3:] = turns.as_rotvec()
        return out
    out[1:, :3] = anchor.pose.position + np.cumsum(actions[:, :3], axis=0)
    turn = Rotation.identity()
    for k, step in enumerate(Rotation.from_euler("xyz", actions[:, 3:6])):
        turn = step * turn
        out[k + 1, 3:] = turn.as_rotvec()
    return out
