"""Plays action chunks as a path in time.

A chunk holds displacements from where the hand was told to be when the picture was taken. Anchored there, its path is
known at every time, so what is already in the past is skipped without a special case.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.pose import Pose

DIMENSIONS = 7
MAX_STEP_M, MAX_STEP_RAD = 0.05, 0.25  # largest displacement in one step that is believed: 0.5 m/s, 2.5 rad/s at 10 Hz
HISTORY = 3.0  # s of past commands that a chunk may be anchored on
BLEND = 0.15  # s in which the gap between the old path and the new one closes


class RefusedChunk(ValueError):
    """A chunk that must not move the arm; its message says why in one line."""


@dataclass(frozen=True)
class ActionChunk:
    """`actions` float [N, 7]: dx, dy, dz (m), droll, dpitch, dyaw (rad) in the base frame, gripper (1 open, 0 closed).

    dt: seconds a step; stamp: when the picture was taken, s; plan_id: which plan it belongs to.
    """

    actions: np.ndarray
    dt: float
    stamp: float
    plan_id: int = 0


@dataclass(frozen=True)
class _Path:
    start: float
    dt: float
    positions: np.ndarray  # [N + 1, 3]
    rotations: list[Rotation]  # N + 1
    gripper: np.ndarray  # [N]

    @property
    def end(self) -> float:
        return self.start + self.dt * len(self.gripper)

    def at(self, now: float) -> tuple[Pose, float]:
        where = float(np.clip((now - self.start) / self.dt, 0.0, len(self.gripper)))
        i = min(int(where), len(self.gripper) - 1)
        part = where - i
        position = (1 - part) * self.positions[i] + part * self.positions[i + 1]
        turn = (self.rotations[i + 1] * self.rotations[i].inv()).as_rotvec()
        return Pose(position, Rotation.from_rotvec(part * turn) * self.rotations[i]), float(self.gripper[i])


class ChunkPlayer:
    """Turns chunks into the hand's target at any time; holds at the end of the last one."""

    def __init__(self) -> None:
        self._commanded: deque[tuple[float, Pose]] = deque()
        self._path: _Path | None = None
        self._switched, self._gap, self._turn = 0.0, np.zeros(3), np.zeros(3)

    def reset(self, pose: Pose, now: float) -> None:
        """Forget every chunk; the hand is at `pose` and stays there."""
        self._commanded = deque([(now, pose)])
        self._path = None

    def commanded(self, pose: Pose, now: float) -> None:
        """Remember what the arm was told at `now`, s."""
        self._commanded.append((now, pose))
        while self._commanded[0][0] < now - HISTORY:
            self._commanded.popleft()

    def load(self, chunk: ActionChunk, now: float) -> None:
        """Switch to a new chunk at `now`, s. Raises RefusedChunk and changes nothing when it must not be played."""
        actions = check_chunk(chunk, now)
        if self._path is not None and chunk.stamp <= self._path.start:
            raise RefusedChunk(f"chunk {chunk.plan_id} is older than the one being played; dropped")
        if not self._commanded or chunk.stamp < self._commanded[0][0] - chunk.dt:
            raise RefusedChunk(f"chunk {chunk.plan_id} was planned before the arm was started; waiting for a newer one")
        path = _path(actions, chunk, self._pose_at(chunk.stamp))
        before, _ = self.target(now)
        after, _ = path.at(now)
        self._switched, self._gap = now, before.position - after.position
        self._turn = (before.rotation * after.rotation.inv()).as_rotvec()
        self._path = path

    def _pose_at(self, stamp: float) -> Pose:
        past = [pose for when, pose in self._commanded if when <= stamp]
        return past[-1] if past else self._commanded[0][1]

    def target(self, now: float) -> tuple[Pose, float | None]:
        """Where the hand should be at `now` and the gripper (1 open, 0 closed); None: leave the gripper as it is."""
        if self._path is None:
            return self._commanded[-1][1], None
        pose, gripper = self._path.at(now)
        left = max(0.0, 1.0 - (now - self._switched) / BLEND)
        rotation = Rotation.from_rotvec(left * self._turn) * pose.rotation
        return Pose(pose.position + left * self._gap, rotation), gripper

    def remaining(self, now: float) -> float:
        """Seconds of motion left; negative: how long ago the last chunk ended; -inf: there is none."""
        return -np.inf if self._path is None else self._path.end - now


def check_chunk(chunk: ActionChunk, now: float) -> np.ndarray:
    """The actions float64 [N, 7] of a chunk that may be played at `now`, s; raises RefusedChunk for any other."""
    name, actions = f"chunk {chunk.plan_id}", np.asarray(chunk.actions, np.float64)
    if actions.ndim != 2 or actions.shape[1] != DIMENSIONS or not len(actions):
        raise RefusedChunk(f"{name} has shape {list(actions.shape)}, expected [N, {DIMENSIONS}]; check the checkpoint")
    if not (np.isfinite(actions).all() and np.isfinite([chunk.dt, chunk.stamp]).all()):
        raise RefusedChunk(f"{name} holds NaN or infinity; check the checkpoint with `molmoact-ros doctor`")
    if not 0.005 <= chunk.dt <= 1.0:
        raise RefusedChunk(f"{name} has steps of {chunk.dt} s, expected 0.005 to 1 s")
    if np.linalg.norm(actions[:, :3], axis=1).max() > MAX_STEP_M or np.abs(actions[:, 3:6]).max() > MAX_STEP_RAD:
        raise RefusedChunk(
            f"{name} steps farther than {MAX_STEP_M} m or {MAX_STEP_RAD} rad; check the normalisation key"
        )
    if actions[:, 6].min() < -0.1 or actions[:, 6].max() > 1.1:
        raise RefusedChunk(f"{name} has a gripper value outside 0..1; check the checkpoint")
    if chunk.stamp > now + 0.05:
        raise RefusedChunk(f"{name} is stamped {chunk.stamp - now:.2f} s in the future; synchronise the clocks")
    if chunk.stamp + chunk.dt * len(actions) <= now:
        raise RefusedChunk(
            f"{name} ended {now - chunk.stamp - chunk.dt * len(actions):.2f} s ago; the engine is too slow"
        )
    return actions


def _path(actions: np.ndarray, chunk: ActionChunk, anchor: Pose) -> _Path:
    positions = anchor.position + np.vstack([np.zeros(3), np.cumsum(actions[:, :3], axis=0)])
    rotations = [anchor.rotation]
    for turn in actions[:, 3:6]:
        rotations.append(Rotation.from_euler("xyz", turn) * rotations[-1])
    return _Path(chunk.stamp, chunk.dt, positions, rotations, actions[:, 6])
