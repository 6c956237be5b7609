"""Converts a bag to a demonstration.

Frames are 1/fps s apart: each has the nearest images, joints interpolated between each joint's nearest two samples, and
the instruction of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np

from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.recorded_arm import SAME_TIME, RecordedArm


def of_bag(
    recording: Recording, robot: Path, fps: float, task: str = "", hand: HandSource | None = None
) -> Demonstration:  # fmt: skip
    """Convert a recording of one arm to a demonstration.

    robot: the arm's MJCF file. fps: frames per second. task: instruction where the bag has none. hand: where the
    gripper's opening comes from; default: the fingers. Raises ValueError, in one line, if something is missing.
    """
    names = recording.names
    topics = [recording.picture_topic(topic) for topic in names.colour]
    stamps = [recording.stamps(topic) for topic in topics]
    if not all(len(of) for of in stamps):
        raise ValueError(f"the bag has no images on {topics[[len(of) for of in stamps].index(0)]}")
    begin, end = max(of[0] for of in stamps), min(of[-1] for of in stamps)
    if end < begin:
        raise ValueError(f"the images on {' and '.join(topics)} have no time in common; were their clocks the same?")
    arm = RecordedArm(recording, Kinematics(robot), hand or HandSource())
    ticks = arm.covered(begin + np.arange(int(np.floor((end - begin) * fps + SAME_TIME)) + 1) / fps, 1 / fps)
    nearest = [of[[np.abs(of - at).argmin() for at in ticks]] for of in stamps]
    states, joints = arm.states(ticks), arm.joints(ticks)
    out = Demonstration(
        _tasks(recording, ticks, task), fps,
        {n: _pictures(recording, topic, near) for n, topic, near in zip(names.cameras, topics, nearest, strict=True)},
        states.astype(np.float32), arm.actions(ticks, states).astype(np.float32),
        None if joints is None else joints.astype(np.float32), [*recording.notes, *arm.notes],
    )  # fmt: skip
    off = max(float(np.abs(near - ticks).max()) for near in nearest)
    if off > 0.5 / fps + SAME_TIME:
        out.notes.append(f"images were lost: one stands for a time {off:.3f} s beside its own")
    return out


def _pictures(recording: Recording, topic: str, wanted: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """Reads the images at the times `wanted`, which increase and may repeat."""

    def read() -> Iterator[np.ndarray]:
        place = 0
        for message in recording.messages([topic]):
            while place < len(wanted) and recording.time_of(message) == wanted[place]:
                yield recording.picture(message)[1]
                place += 1

    return read


def _tasks(recording: Recording, ticks: np.ndarray, otherwise: str) -> list[str]:
    """The instruction at each tick: the last one before it, or else the first one of the bag."""
    statuses = recording.decoded(f"{recording.names.policy}/engine_status")
    given = [(at, message.instruction) for at, message in statuses if message.instruction] or [(0.0, otherwise)]
    if not given[0][1]:
        raise ValueError("the bag does not say what was asked for; give --instruction")
    last = np.searchsorted(np.array([at for at, _ in given]), ticks + SAME_TIME, side="right") - 1
    return [given[max(int(k), 0)][1] for k in last]
