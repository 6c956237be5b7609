"""The states and actions of one arm and its hand in a recording."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Final, Literal

import numpy as np

from molmoact_ros.bags.message_arrays import chunk_actions, seconds
from molmoact_ros.bags.recorded_times import JOINT_STATE
from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.episode import HAND, STATE_NAMES, TWO_ARMS, state_names
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.joint_tracks import JointTracks
from molmoact_ros.datasets.mapping import MAX_ANGLE
from molmoact_ros.datasets.poses import displacements, hand_poses
from molmoact_ros.datasets.recorded_commands import RecordedCommands
from molmoact_ros.robots.franka import OPENING_MAX, SINGLE, Arm

PAUSE: Final = 0.5
"""s without a sample of an arm joint from which on a note says so: the arm may have moved meanwhile."""
SAME_TIME: Final = 1e-3
"""s within which the times of a frame and of a message are the same."""


class RecordedArm:
    """What a recording says of one arm. `notes`: what was left out or comes from elsewhere, one line each.

    Joints are put together by name from all messages of the joint states, which may hold the arm and the hand apart;
    joints of the hand are looked for on other topics with joint states, too.
    """

    def __init__(self, recording: Recording, kinematics: Kinematics, hand: HandSource, arm: Arm, alone: bool) -> None:
        """arm: named as in the recording. alone: it is the only one.

        Raises ValueError, in one line, if the recording has neither the arm's joints nor an imported state.
        """
        self._recording, self._kinematics, self._arm = recording, kinematics, arm
        self._hand = hand if alone or not hand.joint else replace(hand, joint=f"{arm.prefix}{hand.joint}")
        topic = recording.names.joint_states
        self._names = {name for _, message in recording.decoded(topic) for name in message.name}
        wanted = [self._hand.joint] if self._hand.joint else list(arm.fingers) if hand.constant is None else []
        self._tracks = JointTracks(recording.joint_samples([*arm.joints, *wanted]))
        self.notes: list[str] = []
        self._imported = _imported(recording, "" if alone else arm.prefix)
        self._has_arm = not self._tracks.lacking(arm.joints)
        self._commands = RecordedCommands(recording, kinematics, arm)
        if not self._has_arm and not self._imported:
            raise ValueError(self._no_joints(topic))
        if self._has_arm:
            self._refuse_units(topic)
            if arm.prefix + arm.robot != (f"{SINGLE.robot}" if alone else f"{arm.prefix}{SINGLE.robot}"):
                self.notes.append(f"joints of {arm.prefix}{arm.robot} are written under the FR3's names")
            self._find_elsewhere(self._tracks.lacking(wanted))
            if (pause := self._tracks.longest_pause(arm.joints)) > PAUSE:
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

    def times(self) -> list[np.ndarray]:
        """The times of the samples of each arm joint, float64 [n] s; empty if only an imported state is there."""
        return [self._tracks.samples[name][0] for name in self._arm.joints] if self._has_arm else []

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
            rows = np.array([row for _, row in self._imported])
            return np.asarray(rows[[np.abs(times - at).argmin() for at in ticks]])
        poses = hand_poses(self._tracks.at(self._arm.joints, ticks), self._kinematics)
        return np.column_stack([poses, self._opening(ticks)])

    @property
    def source(self) -> Literal["commanded", "measured"]:
        """Whether the actions are commands, or the measured motion, since nobody commanded."""
        return "commanded" if self._commands.moved or self._chunks() else "measured"

    def actions(self, ticks: np.ndarray, states: np.ndarray) -> np.ndarray:
        """The hand's commanded motion from each tick to the next [n, 7]; no motion at the last."""
        if not self._commands.moved and (chunks := self._imported_actions(ticks)) is not None:
            return chunks
        following = np.append(states[1:, 6], states[-1:, 6])
        wanted = self._commands.poses(ticks) if self._commands.moved else states
        gripper = self._commands.openings(ticks, states[:, 6]) if self._commands.gripped else following
        return np.column_stack([np.vstack([displacements(wanted), np.zeros(6)]), gripper])

    def _refuse_units(self, topic: str) -> None:
        """Raises ValueError for an arm whose joints are mostly beyond a turn: single messages may be wrong."""
        usual = max(float(np.median(np.abs(self._tracks.samples[name][1]))) for name in self._arm.joints)
        if usual > MAX_ANGLE:
            raise ValueError(f"the joint states on {topic} have positions of {usual:.4g}: these are not rad")

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
            commanded = self._commands.openings(ticks, np.full(len(ticks), np.nan))
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

    def _chunks(self) -> list[tuple[float, np.ndarray]]:
        """The first action of each chunk of an imported bag, with its stamp in s; none elsewhere."""
        if not self._imported:
            return []
        chunks = self._recording.decoded(f"{self._recording.names.policy}/action_chunk")
        return [(seconds(m.header.stamp), chunk_actions(m)[0][self._columns(m.dimensions)]) for _, m in chunks]

    def _columns(self, dimensions: int) -> list[int]:
        """The columns of this arm's values in rows of one arm or two, in the order of ActionChunk.msg."""
        if dimensions == len(STATE_NAMES):
            return list(range(dimensions))
        names = state_names(TWO_ARMS)
        return [names.index(f"{self._arm.prefix}{name}") for name in STATE_NAMES]

    def _imported_actions(self, ticks: np.ndarray) -> np.ndarray | None:
        """The first action of the chunk of each tick [n, 7]; None unless each has one, as in an imported bag."""
        chunks = self._chunks()
        if not chunks:
            return None
        stamps = np.array([at for at, _ in chunks])
        nearest = [int(np.abs(stamps - at).argmin()) for at in ticks]
        if np.abs(stamps[nearest] - ticks).max() > SAME_TIME:
            return None
        return np.array([chunks[k][1] for k in nearest])


def _imported(recording: Recording, prefix: str) -> list[tuple[float, np.ndarray]]:
    """The states [7] of an arm in an imported bag, with their times, s; none in other bags."""
    names = [f"{prefix}{name}" for name in STATE_NAMES]
    out = []
    for at, message in recording.decoded(HAND) if recording.topics.get(HAND) == JOINT_STATE else []:
        there = dict(zip(message.name, message.position, strict=False))
        if all(name in there for name in names):
            out.append((at, np.array([there[name] for name in names])))
    return out


def find_arms(recording: Recording) -> list[Arm]:
    """The Franka arms of a recording, left first, by the names of their first joints: FR3, Panda, or FER.

    The FR3 without a prefix if there is none. Raises ValueError for more than two.
    """
    topic = recording.names.joint_states
    names = {name for _, message in recording.decoded(topic) for name in message.name}
    found = [re.fullmatch(r"(.*?)(fr3|panda|fer)_joint1", name) for name in sorted(names)]
    arms = [Arm(match[1], match[2]) for match in found if match]
    if not arms and _imported(recording, TWO_ARMS[0]):
        arms = [Arm(prefix) for prefix in TWO_ARMS]
    if len(arms) > 1 and tuple(arm.prefix for arm in arms) != TWO_ARMS:
        described = ", ".join(f"{arm.prefix}{arm.robot}" for arm in arms)
        raise ValueError(
            f"the joint states on {topic} are of several arms ({described}); of two arms the names have to begin with "
            "left_ and right_"
        )
    return arms or [SINGLE]
