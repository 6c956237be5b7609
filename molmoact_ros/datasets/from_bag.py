"""Conversion between bags and LeRobot datasets; this module converts a bag to a demonstration.

The writer produces version 2.1 of the format, which the released model's own tools read; the reader accepts versions
2.0, 2.1 and 3.0. Frames are 1/fps s apart: each has the nearest images, and joints interpolated between the nearest two
samples. Values are float32, images PNG, or H.264 on request. Names are those that MolmoAct's tools expect: `image`,
`wrist_image`, `state`, `actions`; `joint_positions` is our addition, so that nothing is lost.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.bags.message_arrays import chunk_actions, seconds
from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.episode import HAND, Demonstration
from molmoact_ros.robots.franka import JOINTS, OPENING_MAX, SINGLE


def of_bag(recording: Recording, robot: Path, fps: int, task: str = "") -> Demonstration:
    """Convert a recording of one arm to a demonstration.

    task: instruction, needed if the bag has none. Raises ValueError, in one line, if something is missing.
    """
    names = recording.names
    topics = [recording.picture_topic(topic) for topic in names.colour]
    stamps = [recording.stamps(topic) for topic in topics]
    if not all(len(of) for of in stamps):
        raise ValueError(f"the bag has no pictures on {topics[[len(of) for of in stamps].index(0)]}")
    said = [m.instruction for _, m in recording.decoded(f"{names.policy}/engine_status") if m.instruction]
    task = task or (said[0] if said else "")
    if not task:
        raise ValueError("the bag does not say what was asked for; give --instruction")
    begin, end = max(of[0] for of in stamps), min(of[-1] for of in stamps)
    ticks = begin + np.arange(int(np.floor((end - begin) * fps + 1e-6)) + 1) / fps
    nearest = [np.array([np.abs(of - at).argmin() for at in ticks]) for of in stamps]
    off = max(float(np.abs(of[near] - ticks).max()) for of, near in zip(stamps, nearest, strict=True))
    joints = _joints(recording, ticks)
    kinematics = Kinematics(robot)
    states = _states(recording, ticks, joints, kinematics)
    out = Demonstration(
        task, fps,
        {n: _pictures(recording, topic, near) for n, topic, near in zip(names.cameras, topics, nearest, strict=True)},
        states.astype(np.float32), _actions(recording, ticks, states, kinematics).astype(np.float32),
        None if joints is None else joints.astype(np.float32),
    )  # fmt: skip
    if off > 0.5 / fps + 1e-6:
        out.notes.append(f"pictures were lost: one stands for a time {off:.3f} s beside its own")
    return out


def _pictures(recording: Recording, topic: str, wanted: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    def read() -> Iterator[np.ndarray]:
        place = 0
        for number, message in enumerate(recording.messages([topic])):
            while place < len(wanted) and wanted[place] == number:
                yield recording.picture(message)[1]
                place += 1

    return read


def _joints(recording: Recording, ticks: np.ndarray) -> np.ndarray | None:
    messages = recording.decoded(recording.names.joint_states)
    if not messages:
        return None
    wanted = [*SINGLE.joints, *SINGLE.fingers]
    try:
        rows = np.array([[dict(zip(m.name, m.position, strict=False))[name] for name in wanted] for _, m in messages])
    except KeyError as lacking:
        raise ValueError(f"the joint states lack the position of {lacking}; only one FR3 arm can be exported") from None
    return _between(np.array([seconds(m.header.stamp) for _, m in messages]), rows, ticks)


def _between(times: np.ndarray, rows: np.ndarray, at: np.ndarray) -> np.ndarray:
    return np.stack([np.interp(at, times, column) for column in rows.T], axis=1)


def _states(
    recording: Recording, ticks: np.ndarray, joints: np.ndarray | None, kinematics: Kinematics
) -> np.ndarray:  # fmt: skip
    said = recording.decoded(HAND)
    if said:
        rows = np.array([m.position for _, m in said])
        return rows[[np.abs(np.array([seconds(m.header.stamp) for _, m in said]) - at).argmin() for at in ticks]]
    if joints is None:
        raise ValueError(f"the bag has no joint states on {recording.names.joint_states}; say where with --remap")
    opening = np.clip(joints[:, JOINTS:].sum(axis=1) / OPENING_MAX, 0, 1)
    return np.column_stack([_hands(joints[:, :JOINTS], kinematics), opening])


def _hands(joints: np.ndarray, kinematics: Kinematics) -> np.ndarray:
    poses = [kinematics.forward(q) for q in joints]
    turns = [pose.rotation.as_euler("xyz") for pose in poses]
    return np.column_stack([[pose.position for pose in poses], turns])


def _actions(recording: Recording, ticks: np.ndarray, states: np.ndarray, kinematics: Kinematics) -> np.ndarray:
    """The hand's commanded motion from each tick to the next [n, 7]; no motion at the last."""
    commands = recording.decoded(f"/{SINGLE.robot}_arm_controller/joint_trajectory")
    rows = [(at, m.points[0].positions) for at, m in commands if m.points and len(m.points[0].positions) == JOINTS]
    if not rows:
        said = {
            round(seconds(m.header.stamp), 4): m for _, m in recording.decoded(f"{recording.names.policy}/action_chunk")
        }
        chunks = [said.get(round(at, 4)) for at in ticks]
        if all(chunk is not None for chunk in chunks):  # an imported demonstration
            return np.array([chunk_actions(chunk)[0] for chunk in chunks])
    wanted = states
    if rows:
        q = _between(np.array([at for at, _ in rows]), np.array([q for _, q in rows]), ticks)
        wanted = np.column_stack([_hands(q, kinematics), _gripper(recording, ticks, states[:, -1])])
    out = np.zeros((len(ticks), 7))
    turns = Rotation.from_euler("xyz", wanted[:, 3:6])
    out[:-1, :3] = np.diff(wanted[:, :3], axis=0)
    out[:-1, 3:6] = (turns[1:] * turns[:-1].inv()).as_euler("xyz")
    out[:, 6] = np.append(wanted[1:, 6], wanted[-1, 6]) if not rows else wanted[:, 6]
    return out


def _gripper(recording: Recording, ticks: np.ndarray, measured: np.ndarray) -> np.ndarray:
    """The last gripper command at each tick [n], 1 open .. 0 closed; before the first one, as measured."""
    said = recording.decoded(f"/{SINGLE.robot}_gripper_controller/joint_trajectory")
    goals = [(at, 2 * m.points[-1].positions[0] / OPENING_MAX) for at, m in said if m.points]
    times = np.array([at for at, _ in goals])
    last = np.searchsorted(times, ticks, side="right") - 1
    return np.array([goals[k][1] if k >= 0 else measured[row] for row, k in enumerate(last)])
