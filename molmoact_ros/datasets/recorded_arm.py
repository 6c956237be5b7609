"""The states and actions of one arm and its hand in a recording."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from typing import Final

import numpy as np

from molmoact_ros.bags.message_arrays import chunk_actions, seconds
from molmoact_ros.bags.recorded_times import JOINT_STATE
from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.episode import HAND, STATE_NAMES
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.joint_tracks import JointTracks
from molmoact_ros.datasets.poses import displacements, hand_poses
from molmoact_ros.robots.franka import JOINTS, OPENING_MAX, SINGLE, Arm

PAUSE: Final = 0.5
"""s without a sample of an arm joint from which on a note says so: the arm may have moved meanwhile."""
SAME_TIME: Final = 1e-3
"""s within which the times of a frame and of a message are the same."""


class RecordedArm:
    """What a recording says of one arm. `notes`: what was left out or comes from elsewhere, one line each.

    Joints are put together by name from all messages of the joint states, which may hold the arm and the hand apart;
    joints of the hand are looked for on other topics with joint states, too.
    """

    def __init__(self, recording: Recording, kinematics: Kinematics, hand: HandSource) -> None:
        """Raises ValueError, in one line, if the recording has neither the arm's joints nor an imported state."""
        self._recording, self._kinematics, self._hand = recording, kinematics, hand
        topic = recording.names.joint_states
        self._names = {name for _, message in recording.decoded(topic) for name in message.name}
        self._arm = _only_arm(self._names, topic)
        wanted = [hand.joint] if hand.joint else list(self._arm.fingers) if hand.constant is None else []
        self._tracks = JointTracks(recording.joint_samples([*self._arm.joints, *wanted]))
        self.notes: list[str] = []
        hands = recording.decoded(HAND) if recording.topics.get(HAND) == JOINT_STATE else []
        self._imported = [(at, message) for at, message in hands if tuple(message.name) == STATE_NAMES]
        self._has_arm = not self._tracks.lacking(self._arm.joints)
        if not self._has_arm and not self._imported:
            raise ValueError(self._no_joints(topic))
        if self._has_arm:
            if self._arm != SINGLE:
                self.notes.append(f"joints of {self._arm.prefix}{self._arm.robot} are written under the FR3's names")
            self._find_elsewhere(self._tracks.lacking(wanted))
            if (pause := self._tracks.longest_pause(self._arm.joints)) > PAUSE:
                self.notes.append(f"{topic}: {pause:.2f} s without the arm's joints, which are interpolated meanwhile")

    def covered(self, ticks: np.ndarray, slack: float) -> np.ndarray:
        """Those of `ticks` [n] s at which the arm's joints are known, to within `slack` s at both ends."""
        if not self._has_arm:
            return ticks
        begin, end = self._tracks.span(self._arm.joints)
        inside = ticks[(ticks >= begin - slack) & (ticks <= end + slack)]
        topic = self._recording.names.joint_states
        if not len(inside):
            raise ValueError(
                f"the joint states on {topic} ({begin:.2f} to {end:.2f} s) and the images ({ticks[0]:.2f} to "
                f"{ticks[-1]:.2f} s) have no time in common; were their clocks the same?"
            )
        if lost := len(ticks) - len(inside):
            self.notes.append(f"{lost} of {len(ticks)} frames are left out: {topic} has no joint states at their times")
        return inside

    def joints(self, ticks: np.ndarray) -> np.ndarray | None:
        """Arm joints and two fingers at `ticks` [n, 9], rad and m; None if only an imported state is there."""
        if not self._has_arm:
            return None
        arm = self._tracks.at(self._arm.joints, ticks)
        if not self._tracks.lacking(self._arm.fingers) and not self._hand.joint and self._hand.constant is None:
            return np.column_stack([arm, self._tracks.at(self._arm.fingers, ticks)])
        finger = self._opening(ticks) * OPENING_MAX / 2
        return np.column_stack([arm, finger, finger])

    def states(self, ticks: np.ndarray) -> np.ndarray:
        """The hand's pose and gripper at `ticks` [n, 7], as in Demonstration."""
        if self._imported:
            times = np.array([at for at, _ in self._imported])
            rows = np.array([message.position for _, message in self._imported])
            return np.asarray(rows[[np.abs(times - at).argmin() for at in ticks]])
        poses = hand_poses(self._tracks.at(self._arm.joints, ticks), self._kinematics)
        return np.column_stack([poses, self._opening(ticks)])

    def actions(self, ticks: np.ndarray, states: np.ndarray) -> np.ndarray:
        """The hand's commanded motion from each tick to the next [n, 7]; no motion at the last."""
        commands = self._recording.decoded(f"/{self._arm.prefix}{self._arm.robot}_arm_controller/joint_trajectory")
        rows = [(self._arm.joints, m.points[0].positions, at) for at, m in commands if m.points]
        tracks = JointTracks.of((at, names, q) for names, q, at in rows if len(q) == JOINTS)
        if tracks.lacking(self._arm.joints):
            chunks = self._imported_actions(ticks)
            if chunks is not None:
                return chunks
            wanted, gripper = states, np.append(states[1:, 6], states[-1, 6])
        else:
            wanted = hand_poses(tracks.at(self._arm.joints, ticks), self._kinematics)
            gripper = self._commanded_opening(ticks, states[:, 6])
        return np.column_stack([np.vstack([displacements(wanted), np.zeros(6)]), gripper])

    def _other_topics(self) -> list[str]:
        known = (self._recording.names.joint_states, HAND)
        return [t for t, kind in sorted(self._recording.topics.items()) if kind == JOINT_STATE and t not in known]

    def _find_elsewhere(self, lacking: Sequence[str]) -> None:
        """Take joints of the hand from the first other topic that has them, as a gripper's driver publishes them."""
        for topic in self._other_topics() if lacking else []:
            other = JointTracks.of((at, m.name, m.position) for at, m in self._recording.decoded(topic))
            if not other.lacking(lacking):
                found = {name: other.samples[name] for name in lacking}
                self._tracks = JointTracks(self._tracks.samples | found)
                self.notes.append(f"{' and '.join(lacking)} are those of {topic}")
                return

    def _no_joints(self, topic: str) -> str:
        lacking = self._tracks.lacking(self._arm.joints)
        if lacking[0] in self._names:
            return f"no message on {topic} has a position of {lacking[0]} that is a finite number"
        if self._names:
            return (
                f"the joint states on {topic} lack {', '.join(lacking)}; they have {', '.join(sorted(self._names))}, "
                "and only a Franka arm can be exported"
            )
        like = next((f"; say where with --remap {other}:={topic}" for other in self._other_topics()), "")
        return f"the bag has no joint states on {topic}{like}"

    def _opening(self, ticks: np.ndarray) -> np.ndarray:
        """The gripper's opening at `ticks` [n], 1 open .. 0 closed. Raises ValueError if nothing says it."""
        if self._hand.constant is not None:
            return np.full(len(ticks), self._hand.constant)
        wanted = [self._hand.joint] if self._hand.joint else self._arm.fingers
        if lacking := self._tracks.lacking(wanted):
            unknown = np.full(len(ticks), np.nan)
            commanded = self._commanded_opening(ticks, unknown)
            if self._hand.joint or np.isnan(commanded).all():
                raise ValueError(
                    f"the bag has no position of {', '.join(lacking)}; say what the hand is with --gripper: "
                    "JOINT=OPEN:CLOSED, or 1 for an arm without one"
                )
            self.notes += [note] if (note := "the gripper's state is its last command") not in self.notes else []
            first = commanded[np.isfinite(commanded)][0]
            return np.asarray(np.where(np.isnan(commanded), first, commanded))
        positions = self._tracks.at(wanted, ticks)
        if self._hand.joint:
            return self._hand.scale.apply(positions[:, 0], "state")
        return np.asarray(np.clip(positions.sum(axis=1) / OPENING_MAX, 0, 1))

    def _imported_actions(self, ticks: np.ndarray) -> np.ndarray | None:
        """The first action of the chunk of each tick [n, 7]; None unless each has one, as in an imported bag."""
        chunks = self._recording.decoded(f"{self._recording.names.policy}/action_chunk")
        if not chunks:
            return None
        stamps = np.array([seconds(message.header.stamp) for _, message in chunks])
        nearest = [int(np.abs(stamps - at).argmin()) for at in ticks]
        if np.abs(stamps[nearest] - ticks).max() > SAME_TIME:
            return None
        return np.array([chunk_actions(chunks[k][1])[0] for k in nearest])

    def _commanded_opening(self, ticks: np.ndarray, before: np.ndarray) -> np.ndarray:
        """The last gripper command at each tick [n], 1 open .. 0 closed; `before` the first one as given there."""
        commands = self._recording.decoded(f"/{self._arm.prefix}{self._arm.robot}_gripper_controller/joint_trajectory")
        fingers = [(at, m.points[-1].positions[0]) for at, m in commands if m.points and len(m.points[-1].positions)]
        goals = [(at, 2 * finger / OPENING_MAX) for at, finger in fingers if np.isfinite(finger)]
        last = np.searchsorted([at for at, _ in goals], ticks, side="right") - 1
        return np.array([goals[k][1] if k >= 0 else before[row] for row, k in enumerate(last)])


def _only_arm(names: Collection[str], topic: str) -> Arm:
    """The Franka arm whose joints these are, by the name of its first one: FR3, Panda, or FER as franka_ros2 calls it.

    The FR3 without a prefix if there is none. Raises ValueError for several.
    """
    found = [re.fullmatch(r"(.*?)(fr3|panda|fer)_joint1", name) for name in sorted(names)]
    arms = [Arm(match[1], match[2]) for match in found if match]
    if len(arms) > 1:
        described = ", ".join(f"{arm.prefix}{arm.robot}" for arm in arms)
        raise ValueError(f"the joint states on {topic} are of several arms ({described}); only one can be exported")
    return arms[0] if arms else SINGLE
