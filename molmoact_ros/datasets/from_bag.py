"""Converts a bag to a demonstration.

Frames are 1/fps s apart: each has the nearest images, joints interpolated between each joint's nearest two samples, and
the instruction of its time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Final, Literal

import numpy as np

from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.action_chunk import ActionSpace, join
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.camera_view import front_view
from molmoact_ros.datasets.collection import Outcome
from molmoact_ros.datasets.episode import ONE_ARM, TWO_ARMS, DamagedEpisode, Demonstration
from molmoact_ros.datasets.episode_record import EpisodeRecord
from molmoact_ros.datasets.hand_source import HandSource
from molmoact_ros.datasets.recorded_arm import SAME_TIME, RecordedArm, find_arms

LONGEST_PAUSE: Final = 2.0
"""s without an image or a joint state from which on an episode is cut: a recorder or a camera was paused."""
_OUTCOMES: Final[dict[Outcome, Literal["success", "failure"]]] = {Outcome.KEPT: "success", Outcome.FAILED: "failure"}


def of_bag(
    recording: Recording, robot: Path, fps: float, task: str = "", hand: HandSource | None = None,
    record: EpisodeRecord | None = None,
) -> Demonstration:  # fmt: skip
    """Convert a recording of one arm or two to a demonstration.

    robot: the arm's MJCF file. fps: frames per second. task: instruction where nothing else says it. hand: where the
    gripper's opening comes from; default: the fingers. record: of the episode. Raises ValueError, in one
    line, if something is missing.
    """
    names = recording.names
    topics = [recording.picture_topic(topic) for topic in names.colour]
    stamps = [recording.stamps(topic) for topic in topics]
    if not all(len(of) for of in stamps):
        empty = topics[[len(of) for of in stamps].index(0)]
        raise ValueError(f"the bag has no images on {empty}{recording.why_lost(empty)}")
    begin, end = max(of[0] for of in stamps), min(of[-1] for of in stamps)
    if end < begin:
        raise ValueError(f"the images on {' and '.join(topics)} have no time in common; were their clocks the same?")
    if record is not None:
        begin, end = max(begin, record.begin), min(end, record.end)
        if end < begin:
            raise ValueError("the images are of another time than the episode's record; were their clocks the same?")
    found = find_arms(recording)
    kinematics, alone = Kinematics(robot), len(found) == 1
    arms = [RecordedArm(recording, kinematics, hand or HandSource(), arm, alone) for arm in found]
    ticks = begin + np.arange(int(np.floor((end - begin) * fps + SAME_TIME)) + 1) / fps
    for arm in arms:
        ticks = arm.covered(ticks, 1 / fps)
    sources = [*zip(topics, stamps, strict=True), *((names.joint_states, of) for arm in arms for of in arm.times())]
    ticks, left_out = without_pauses(ticks, [pause for topic, of in sources for pause in pauses(topic, of)])
    nearest = [of[[np.abs(of - at).argmin() for at in ticks]] for of in stamps]
    states = [arm.states(ticks) for arm in arms]
    actions = [arm.actions(ticks, of) for arm, of in zip(arms, states, strict=True)]
    joints = [of for arm in arms if (of := arm.joints(ticks)) is not None]
    measured = (record is not None and record.actions == "measured") or any(arm.source == "measured" for arm in arms)
    out = Demonstration(
        _tasks(recording, ticks, task) if record is None or not record.task else [record.task] * len(ticks), fps,
        {n: _pictures(recording, topic, near) for n, topic, near in zip(names.cameras, topics, nearest, strict=True)},
        join(states, ActionSpace.DELTA_EE).astype(np.float32), join(actions, ActionSpace.DELTA_EE).astype(np.float32),
        np.column_stack(joints).astype(np.float32) if len(joints) == len(arms) else None,
        [*recording.notes, *left_out, *dict.fromkeys(note for arm in arms for note in arm.notes)],
        ONE_ARM if alone else TWO_ARMS,
        None if record is None else _inside(ticks, record.interventions),
        "" if record is None else _OUTCOMES.get(record.outcome, ""),
        "measured" if measured else "commanded", str(recording.bag),
        _depth(recording, nearest[0]), front_view(recording, [arm.base_frame for arm in found]),
    )  # fmt: skip
    if measured:
        out.notes.insert(0, "nobody commanded the arm on a topic that is recorded: the actions are the measured motion")
    off = max(float(np.abs(near - ticks).max()) for near in nearest)
    if off > 0.5 / fps + SAME_TIME:
        out.notes.append(f"images were lost: one stands for a time {off:.3f} s beside its own")
    return out


Pause = tuple[float, float, str]
"""Begin and end, s, of a time without messages, and the topic."""


def pauses(topic: str, times: np.ndarray) -> list[Pause]:
    """Where a topic with messages at `times` [n] s has none for more than LONGEST_PAUSE."""
    found = np.flatnonzero(np.diff(times) > LONGEST_PAUSE)
    return [(float(times[k]), float(times[k + 1]), topic) for k in found]


def without_pauses(ticks: np.ndarray, found: Sequence[Pause]) -> tuple[np.ndarray, list[str]]:
    """The longest part of `ticks` [n] s that has no pause within, and a note where that is not all of them.

    A frame in a pause would show what was before it, and an action across one is none.
    """
    if not found:
        return ticks, []
    known = np.ones(len(ticks), bool)
    for begin, end, _ in found:
        known &= (ticks <= begin + SAME_TIME) | (ticks >= end - SAME_TIME)
    part = np.searchsorted(np.sort([begin + SAME_TIME for begin, *_ in found]), ticks)
    lengths = np.bincount(part[known], minlength=1)
    kept = ticks[known & (part == lengths.argmax())]
    begin, end, topic = max(found, key=lambda pause: pause[1] - pause[0])
    return kept, [
        f"{topic} has nothing for {end - begin:.1f} s: the longest part without such a pause is read, {len(kept)} of "
        f"{len(ticks)} frames"
    ]


def _inside(ticks: np.ndarray, spans: Sequence[tuple[float, float]]) -> np.ndarray:
    """Which of `ticks` [n] s lie in one of the spans, bool [n]."""
    return np.array([any(begin <= at <= end for begin, end in spans) for at in ticks], bool)


def _pictures(recording: Recording, topic: str, wanted: np.ndarray) -> Callable[[], Iterator[np.ndarray]]:
    """Reads the images at the times `wanted`, which increase and may repeat."""

    def read() -> Iterator[np.ndarray]:
        place = 0
        for message in recording.messages([topic]):
            while place < len(wanted) and recording.time_of(message) == wanted[place]:
                try:
                    yield recording.picture(message)[1]
                except ValueError as error:
                    raise DamagedEpisode(str(error)) from None
                place += 1

    return read


def _depth(recording: Recording, wanted: np.ndarray) -> Callable[[], Iterator[np.ndarray | None]] | None:
    """Reads the depth images at the times of the colour images `wanted`; None where none is within the slop."""
    topic = recording.find_picture(recording.names.depth)
    stamps = recording.stamps(topic) if topic else np.zeros(0)
    if topic is None or not len(stamps):
        return None
    nearest = stamps[[np.abs(stamps - at).argmin() for at in wanted]]
    known = np.abs(nearest - wanted) <= recording.names.slop

    def read() -> Iterator[np.ndarray | None]:
        last: tuple[float, np.ndarray | None] = (-np.inf, None)
        messages = iter(recording.messages([topic]))
        for at, there in zip(nearest.tolist(), known, strict=True):
            while there and last[0] < at and (message := next(messages, None)) is not None:
                if recording.time_of(message) == at:
                    try:
                        last = at, recording.picture(message, depth=True)[1]
                    except ValueError:
                        last = at, None
            yield last[1] if there and last[0] == at else None

    return read


def _tasks(recording: Recording, ticks: np.ndarray, otherwise: str) -> list[str]:
    """The instruction at each tick: the last one before it, or else the first one of the bag."""
    statuses = recording.decoded(f"{recording.names.policy}/engine_status")
    given = [(at, message.instruction) for at, message in statuses if message.instruction] or [(0.0, otherwise)]
    if not given[0][1]:
        raise ValueError("the bag does not say what was asked for; give --instruction")
    last = np.searchsorted(np.array([at for at, _ in given]), ticks + SAME_TIME, side="right") - 1
    return [given[max(int(k), 0)][1] for k in last]
