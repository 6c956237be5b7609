"""Plays action chunks as time-parameterized paths.

The motions of a chunk start from the commanded pose of the hand at the capture time of the image. Anchored there, the
path is defined at every path time. Path time advances only while a path is executed, and more slowly where the arm is
slowed down. A plan that arrives late therefore continues exactly where execution is since its image, and skips nothing
else.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import cached_property
from typing import Literal

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.control.action_chunk import (
    ARM,
    MAX_SPEED_M,
    MAX_SPEED_RAD,
    MAX_TURN,
    ActionChunk,
    ActionSpace,
    RefusedChunk,
    check_chunk,
)
from molmoact_ros.control.latency import Latency
from molmoact_ros.control.pose import Pose
from molmoact_ros.control.trajectory import ChunkTrajectory, Target

ChunkMode = Literal["realtime", "naive", "ensemble"]
HISTORY = 3.0  # s of past commands that a chunk may be anchored on
BLEND, BLEND_MAX = 0.25, 0.6  # s over which the old path blends into the new one: for small gaps, for wide ones
CLOSING = 0.15  # m/s or rad/s: mean speed at which a wide gap closes
DECAY = 0.01  # of the temporal ensemble's weights, exp(-DECAY * age), oldest first (ACT, arXiv 2304.13705)
PROBE = 0.005  # s between the samples that give the gap's velocity and acceleration by finite differences


class _Commanded:
    """What the arm was told at `now`, s, and at the path time `time`. The pose is computed when it is asked for."""

    def __init__(self, now: float, time: float, pose: Callable[[], Pose], joints: np.ndarray) -> None:
        self.now, self.time, self._pose, self._joints = now, time, pose, joints

    @cached_property
    def target(self) -> Target:
        """Both pose and joints."""
        return Target(self._pose(), self._joints)


class ChunkPlayer:
    """Turns one arm's chunks into its target; holds at the end of the last one.

    Args:
        mode: how a new chunk replaces the old one. `realtime` anchors it at the capture time of its image and blends;
            `naive` anchors it at the time of arrival; `ensemble` averages overlapping chunks (ACT, arXiv 2304.13705).

    In each control cycle, advance path time, read the target, and report the pose that was commanded:

        player.reset(pose, joints, now)
        player.load(chunk, now)  # raises RefusedChunk, and keeps the old path
        player.advance(0.01)
        pose = player.target().pose
        player.commanded(pose, joints, now)
    """

    def __init__(self, mode: ChunkMode = "realtime") -> None:
        self.mode, self.latency, self.time = mode, Latency(), 0.0
        self._commanded: deque[_Commanded] = deque()
        self._paths: list[ChunkTrajectory] = []
        self._stamp = self._began = -np.inf
        self._blended, self._blend, self._gap = -np.inf, BLEND, np.zeros((3, 6))

    def reset(self, pose: Pose, joints: np.ndarray, now: float) -> None:
        """Drop all chunks and hold: the hand is at `pose`, the joints are at `joints` [7] rad."""
        self._commanded = deque([_Commanded(now, self.time, lambda: pose, joints.copy())])
        self._paths, self._stamp, self._blended, self._began = [], -np.inf, -np.inf, now

    def advance(self, seconds: float) -> None:
        """Advance path time; at the end of the path, and without one, it stands still."""
        self.time = min(self.time + seconds, max(self.time, self._end))

    def commanded(self, pose: Callable[[], Pose], joints: np.ndarray, now: float) -> None:
        """Record the command sent at `now`, s: the hand's `pose` and `joints` [7] rad."""
        self._commanded.append(_Commanded(now, self.time, pose, joints))
        while self._commanded[0].now < now - HISTORY:
            self._commanded.popleft()

    def load(self, chunk: ActionChunk, now: float) -> None:
        """Switch to a new chunk at `now`, s. Raises RefusedChunk, and changes nothing, if it must not be played."""
        self.take_chunk(chunk, self.prepare(chunk, now), now)

    def prepare(
        self, chunk: ActionChunk, now: float, actions: np.ndarray | None = None, standing: bool = False
    ) -> ChunkTrajectory:
        """Plan the path of a chunk at `now`, s; changes nothing. Raises RefusedChunk if it must not be played.

        actions: float64 [N, D], the result of `check_chunk` for it, if the caller has it already. standing: the arm has
        stood since the chunk's image, so that the command of that time is still in effect.
        """
        actions = check_chunk(chunk, now, standing) if actions is None else actions
        if chunk.stamp <= self._stamp:
            raise RefusedChunk(f"chunk {chunk.plan_id} is older than the one being played; dropped")
        known = self._began if standing or not self._commanded else self._commanded[0].now
        if not self._commanded or chunk.stamp < known - chunk.dt:
            raise RefusedChunk(f"chunk {chunk.plan_id} was planned before the arm was started; waiting for a newer one")
        anchor = self._at(now if self.mode == "naive" else chunk.stamp)
        _check_first_step(chunk, actions, anchor.target)
        return ChunkTrajectory(actions, chunk.space, chunk.dt, anchor.time, anchor.target)

    def take_chunk(self, chunk: ActionChunk, path: ChunkTrajectory, now: float) -> None:
        """Switch to the path that `prepare` has just planned for this chunk."""
        if self.mode == "realtime":
            self._blend_into(path)
        self._paths = [*(self._paths if self.mode == "ensemble" else []), path][-8:]
        self._stamp = chunk.stamp
        self.latency.add_sample(now - chunk.stamp)

    def _at(self, now: float) -> _Commanded:
        """The command that was in effect at `now`, s."""
        past = (c for c in reversed(self._commanded) if c.now <= now)
        return next(past, self._commanded[0])

    def _blend_into(self, path: ChunkTrajectory) -> None:
        """Store the gap from new to old target, its velocity and acceleration, so that all three stay continuous."""
        times = [self.time, self.time + PROBE, self.time + 2 * PROBE]
        old, self._blended = [self._target(time) for time in times], -np.inf
        if any((target.joints is None) == (path.space is ActionSpace.JOINT) for target in old):
            return  # from task space to joint space or back: the limiter smooths the transition
        a, b, c = (_difference(o, path.at(time), path.space) for o, time in zip(old, times, strict=True))
        self._gap = np.array([a, (4 * b - 3 * a - c) / (2 * PROBE), (a - 2 * b + c) / PROBE**2])
        self._blend = float(np.clip(np.linalg.norm(a) / CLOSING, BLEND, BLEND_MAX))
        self._blended = self.time

    def target(self, ahead: float = 0.0) -> Target:
        """The target now, or `ahead` s of path time later; without a chunk, the last commanded pose."""
        return self._target(min(self.time + ahead, max(self.time, self._end)))

    def _target(self, time: float) -> Target:
        if not self._paths:
            last = self._commanded[-1].target
            return Target(pose=last.pose)
        if self.mode == "ensemble":
            return _mean(
                [path.at(time) for path in self._paths if path.start <= time <= path.end] or [self._newest.at(time)]
            )
        target, since = self._newest.at(time), time - self._blended
        if since >= self._blend:
            return target
        return _moved(target, _quintic(self._gap, since, self._blend))

    @property
    def _newest(self) -> ChunkTrajectory:
        return self._paths[-1]

    @property
    def _end(self) -> float:
        return self._newest.end if self._paths else -np.inf

    @property
    def hand_speed(self) -> float:
        """Speed of the hand along the newest path at full pace, m/s; 0 without one, and for paths of joints."""
        return self._newest.hand_speed(self.time) if self._paths else 0.0

    @property
    def loaded(self) -> bool:
        """Whether there is a chunk, in progress or at its end."""
        return bool(self._paths)

    @property
    def remaining(self) -> float:
        """Path time left, s; 0 at the end; -inf without a path."""
        return max(0.0, self._end - self.time) if self._paths else -np.inf


def _check_first_step(chunk: ActionChunk, actions: np.ndarray, anchor: Target) -> None:
    """Absolute actions must begin within two plausible steps of the arm's state at the capture time of the image."""
    assert anchor.pose is not None and anchor.joints is not None
    metres, radians = 2 * MAX_SPEED_M * chunk.dt, 2 * MAX_SPEED_RAD * chunk.dt
    if chunk.space is ActionSpace.EE:
        turns = Rotation.from_euler("xyz", actions[:, 3:6]) * anchor.pose.rotation.inv()
        away = np.linalg.norm(actions[0, :3] - anchor.pose.position)
        far = away > metres or turns[0].magnitude() > radians or turns.magnitude().max() > MAX_TURN
    else:
        far = chunk.space is ActionSpace.JOINT and np.abs(actions[0, :ARM] - anchor.joints).max() > radians
    if far:
        raise RefusedChunk(f"chunk {chunk.plan_id} begins far from where the arm was at its image; check its frame")


def _difference(a: Target, b: Target, space: ActionSpace) -> np.ndarray:
    """The displacement from b to a: joints [7], or position and rotation vector in the base frame [6]."""
    if space is ActionSpace.JOINT:
        assert a.joints is not None and b.joints is not None
        return np.asarray(a.joints - b.joints)
    assert a.pose is not None and b.pose is not None
    turn = (a.pose.rotation * b.pose.rotation.inv()).as_rotvec()
    return np.concatenate([a.pose.position - b.pose.position, turn])


def _moved(target: Target, by: np.ndarray) -> Target:
    if target.pose is None:
        assert target.joints is not None
        return replace(target, joints=target.joints + by)
    pose = Pose(target.pose.position + by[:3], Rotation.from_rotvec(by[3:]) * target.pose.rotation)
    return replace(target, pose=pose)


def _quintic(gap: np.ndarray, since: float, whole: float) -> np.ndarray:
    """The rest [n] of a gap [3, n] (value, velocity, acceleration) after `since` s of a quintic that ends at `whole` s.

    Value, velocity and acceleration are zero at `whole` s.
    """
    s = since / whole
    value, speed, acceleration = gap[0], gap[1] * whole, gap[2] * whole**2
    h0 = 1 + s**3 * (-10 + s * (15 - 6 * s))
    h1 = s + s**3 * (-6 + s * (8 - 3 * s))
    h2 = s**2 / 2 + s**3 * (-1.5 + s * (1.5 - 0.5 * s))
    return np.asarray(h0 * value + h1 * speed + h2 * acceleration)


def _mean(targets: list[Target]) -> Target:
    """Temporal ensemble: weighted mean of all targets planned for this time, the oldest weighted most.

    The gripper value is the newest one.
    """
    weights = np.exp(-DECAY * np.arange(len(targets)))
    newest = targets[-1]
    if newest.joints is not None:
        alike = [t.joints for t in targets if t.joints is not None]
        return replace(newest, joints=np.average(alike, axis=0, weights=weights[-len(alike) :]))
    poses = [t.pose for t in targets if t.pose is not None]
    position = np.average([p.position for p in poses], axis=0, weights=weights[-len(poses) :])
    rotation = Rotation.concatenate([p.rotation for p in poses]).mean(weights[-len(poses) :])
    return replace(newest, pose=Pose(position, rotation))
