"""What an arm and its hand were commanded in a recording, by whichever sink was used."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Final

import numpy as np
from scipy.spatial.transform import Rotation, Slerp

from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.joint_tracks import JointTracks
from molmoact_ros.datasets.poses import hand_poses
from molmoact_ros.robots.franka import JOINTS, OPENING_MAX, Arm

Timed = list[tuple[float, np.ndarray]]
"""Times of receipt, s, each with a row of numbers."""


def _points(message: Any) -> Sequence[float]:
    return message.points[0].positions if message.points else ()


def _last_point(message: Any) -> Sequence[float]:
    return message.points[-1].positions if message.points else ()


def _position(message: Any) -> Sequence[float]:
    return list(message.position)


def _data(message: Any) -> Sequence[float]:
    return list(message.data)


def _pose(message: Any) -> Sequence[float]:
    place, turn = message.pose.position, message.pose.orientation
    return [place.x, place.y, place.z, turn.x, turn.y, turn.z, turn.w]


_JOINT_TOPICS: Final[tuple[tuple[str, Callable[[Any], Sequence[float]]], ...]] = (
    ("{robot}_arm_controller/joint_trajectory", _points),
    ("{ns}target_joint", _position),
    ("{ns}forward_position_controller/commands", _data),
)
"""The sinks' usual topics (docs/sinks.md), and the seven joints of their messages, rad."""
_POSE_TOPIC: Final = "{ns}target_pose"
_GRIPPER_TOPICS: Final[tuple[tuple[str, Callable[[Any], Sequence[float]]], ...]] = (
    ("{robot}_gripper_controller/joint_trajectory", _last_point),
    ("{robot}_gripper_controller/commands", _data),
)
"""The same of the grippers; their first number is a finger's position, m."""


class RecordedCommands:
    """The commands of one arm. arm: named as in the recording."""

    def __init__(self, recording: Recording, kinematics: Kinematics, arm: Arm) -> None:
        self._recording, self._arm = recording, arm
        self._poses = self._by_joints(kinematics) or self._by_pose()
        self._fingers = next((found for topic, of in _GRIPPER_TOPICS if (found := self._read(topic, of, 1))), [])

    @property
    def moved(self) -> bool:
        """Whether somebody commanded the arm."""
        return self._poses is not None

    @property
    def gripped(self) -> bool:
        """Whether somebody commanded the gripper on a topic."""
        return bool(self._fingers)

    def poses(self, ticks: np.ndarray) -> np.ndarray:
        """The commanded hand at `ticks` [n] s, as `hand_poses` [n, 6]; only where `moved`."""
        assert self._poses is not None
        return self._poses(ticks)

    def openings(self, ticks: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The last gripper command at each tick [n], 1 open .. 0 closed; `before` [n] where there was none yet."""
        last = np.searchsorted([at for at, _ in self._fingers], ticks, side="right") - 1
        goals = [2 * row[0] / OPENING_MAX for _, row in self._fingers]
        return np.array([goals[k] if k >= 0 else before[row] for row, k in enumerate(last)])

    def _read(self, name: str, of: Callable[[Any], Sequence[float]], count: int) -> Timed:
        """The rows of a topic that begin with `count` finite numbers."""
        arm = self._arm
        topic = "/" + name.format(
            robot=f"{arm.prefix}{arm.robot}", ns=f"{arm.prefix.rstrip('_')}/" if arm.prefix else ""
        )
        rows = [(at, np.asarray(of(message), np.float64)) for at, message in self._recording.decoded(topic)]
        return sorted(
            ((at, row) for at, row in rows if len(row) >= count and np.isfinite(row[:count]).all()),
            key=lambda timed: timed[0],
        )

    def _by_joints(self, kinematics: Kinematics) -> Callable[[np.ndarray], np.ndarray] | None:
        for topic, of in _JOINT_TOPICS:
            if rows := self._read(topic, of, JOINTS):
                tracks = JointTracks.of((at, self._arm.joints, row[:JOINTS].tolist()) for at, row in rows)
                return lambda ticks: hand_poses(tracks.at(self._arm.joints, ticks), kinematics)
        return None

    def _by_pose(self) -> Callable[[np.ndarray], np.ndarray] | None:
        found = dict(self._read(_POSE_TOPIC, _pose, 7))
        rows = [(at, row) for at, row in found.items() if np.linalg.norm(row[3:]) > 0.5]
        if not rows:
            return None
        times, places = np.array([at for at, _ in rows]), np.array([row[:3] for _, row in rows])
        turns = Rotation.from_quat([row[3:] for _, row in rows])

        def at(ticks: np.ndarray) -> np.ndarray:
            inside = np.clip(ticks, times[0], times[-1])
            turned = Slerp(times, turns)(inside) if len(times) > 1 else turns[np.zeros(len(ticks), int)]
            position = [np.interp(inside, times, places[:, axis]) for axis in range(3)]
            return np.column_stack([*position, turned.as_euler("xyz")])

        return at
