"""The check of an episode after it was recorded: what its bag says of cameras, joints, arm and recorder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

import numpy as np

from molmoact_ros.bags.bag import BagMessage, BagReader
from molmoact_ros.bags.bag_files import about
from molmoact_ros.bags.message_arrays import seconds
from molmoact_ros.bags.recorded_parameters import parameter_values
from molmoact_ros.bags.recording import TopicNames
from molmoact_ros.datasets.episode_record import CameraCheck, EpisodeRecord
from molmoact_ros.datasets.interventions import POLICY, TELEOP, Interventions
from molmoact_ros.utils.errors import one_line

EPISODE_TOPIC: Final = "/collector/episode"
RECORDING: Final = 3
"""Number of this state in Episode.msg."""
IMAGE_GAP: Final = 0.5
"""s without an image of a camera from which on it is not in time; of a slow camera, five of its periods."""
JOINT_GAP: Final = 0.5
"""s without joint states from which on they are not in time."""
MOVED: Final = 0.02
"""rad of the joint that moves most below which the arm did not move: ten times the noise of a joint that stands."""
ARM_JOINT: Final = re.compile(r".*_joint[1-7]")
OURS: Final = ("/recorder", "/collector")
"""Nodes whose parameters differ from episode to episode, and say nothing of how the robot is set up."""


class EpisodeContents:
    """What a check reads of a bag, in one pass: when images came, and the messages of small topics."""

    def __init__(self, reader: BagReader, names: TopicNames) -> None:
        self._reader, self.names, self.repaired = reader, names, reader.repaired
        there = reader.topics()
        self._images = {
            topic: name
            for name in names.cameras
            for topic in (f"/{name}/color/image_raw", f"/{name}/color/image_raw/compressed")
            if topic in there
        }
        small = [
            names.joint_states, f"{names.controller}/safety_status", f"{names.policy}/answer_tokens", EPISODE_TOPIC,
            "/tf_static", "/recorder/parameters", "/parameter_events",
            *(f"/{name}/color/camera_info" for name in names.cameras),
        ]  # fmt: skip
        self.arrivals: dict[str, list[float]] = {name: [] for name in names.cameras}
        """Times of receipt of each camera's images, s."""
        self._messages: dict[str, list[BagMessage]] = {topic: [] for topic in small}
        for message in reader.messages([topic for topic in (*self._images, *small) if topic in there]):
            if message.topic in self._images:
                self.arrivals[self._images[message.topic]].append(message.stamp_ns * 1e-9)
            else:
                self._messages[message.topic].append(message)

    def decoded(self, topic: str) -> Iterator[tuple[float, Any]]:
        """The messages of a small topic that can be read, each with its time of receipt, s."""
        for message in self._messages[topic]:
            with suppress(ValueError):
                yield message.stamp_ns * 1e-9, self._reader.decode(message)

    def last(self, topic: str) -> Any:
        """The last message of a small topic; None without one."""
        return next((self._reader.decode(message) for message in self._messages[topic][-1:]), None)


def check_episode(contents: EpisodeContents, record: EpisodeRecord, recorder: dict[str, str]) -> EpisodeRecord:
    """The record with everything that the bag says, and with the problems that were found.

    record: with its number, task, begin and end. recorder: what the recorder left in the bag's metadata.
    """
    names = contents.names
    states = _controller_states(contents)
    calibration = {name: of for name in names.cameras if (of := _calibration(contents, name))}
    tokens = contents.last(f"{names.policy}/answer_tokens")
    way, gap = _motion(contents, record)
    found = record.model_copy(
        update={
            "interventions": _interventions(states, record),
            "actions": "commanded" if _is_commanded(states, record) else "measured",
            "checkpoint": "" if tokens is None else str(tokens.checkpoint),
            "config": _config(contents), "calibration": calibration,
            "calibration_hash": _hash(calibration) if calibration else "",
            "cameras": {name: _camera(contents.arrivals[name], record) for name in names.cameras},
            "moved": way, "messages": int(recorder.get("recorder.messages", 0)),
            "lost_images": int(recorder.get("recorder.pictures", 0)),
            "lost_others": int(recorder.get("recorder.others", 0)),
        }
    )  # fmt: skip
    torn = ["its recorder was killed: the last second may be missing"] if contents.repaired else []
    lost = _lost(found, recorder.get("recorder.problem", ""))
    found.problems = [*_camera_problems(found), *_joint_problems(names.joint_states, way, gap), *torn, *lost]
    return found


# States of the controller: stamp in s and number, in order


def _controller_states(contents: EpisodeContents) -> list[tuple[float, int]]:
    messages = contents.decoded(f"{contents.names.controller}/safety_status")
    return sorted((seconds(message.header.stamp), int(message.state)) for _, message in messages)


def _in_episode(states: Sequence[tuple[float, int]], record: EpisodeRecord) -> list[tuple[float, int]]:
    """The states in the episode; the one in which it began counts from its begin."""
    before = [state for stamp, state in states if stamp <= record.begin]
    inside = [(stamp, state) for stamp, state in states if record.begin < stamp <= record.end]
    return [*([(record.begin, before[-1])] if before else []), *inside]


def _interventions(states: Sequence[tuple[float, int]], record: EpisodeRecord) -> list[tuple[float, float]]:
    interventions = Interventions()
    for stamp, state in _in_episode(states, record):
        interventions.observe_state(stamp, state)
    return interventions.until(record.end)


def _is_commanded(states: Sequence[tuple[float, int]], record: EpisodeRecord) -> bool:
    return any(state in (POLICY, TELEOP) for _, state in _in_episode(states, record))


# Cameras


def _camera(arrivals: Sequence[float], record: EpisodeRecord) -> CameraCheck:
    inside = [at for at in arrivals if record.begin <= at <= record.end]
    gaps = np.diff([record.begin, *inside, record.end])
    span = inside[-1] - inside[0] if inside else 0.0
    rate = (len(inside) - 1) / span if span else 0.0
    return CameraCheck(images=len(inside), rate=round(rate, 2), longest_gap=round(float(gaps.max()), 3))


def _camera_problems(record: EpisodeRecord) -> list[str]:
    out = []
    for name, of in record.cameras.items():
        if of.images < 2:
            out.append(f"camera {name}: {of.images} images; is it plugged in, and is its node running?")
        elif of.longest_gap > max(IMAGE_GAP, 5 / of.rate):
            out.append(f"camera {name}: {of.longest_gap:.2f} s without an image, at {of.rate:g} a second otherwise")
    return out


# Joints


def _motion(contents: EpisodeContents, record: EpisodeRecord) -> tuple[float, float]:
    """The way of the joint that moves most, rad, and the longest time without joint states, s; inf without any."""
    found: dict[str, list[tuple[float, float]]] = {}
    for at, message in contents.decoded(contents.names.joint_states):
        for name, position in zip(message.name, message.position, strict=False):
            if ARM_JOINT.fullmatch(name) and record.begin <= at <= record.end and np.isfinite(position):
                found.setdefault(name, []).append((at, float(position)))
    if not found:
        return 0.0, np.inf
    gaps = [np.diff([record.begin, *(at for at, _ in samples), record.end]).max() for samples in found.values()]
    ways = [np.ptp([position for _, position in samples]) for samples in found.values()]
    return round(float(max(ways)), 5), float(max(gaps))


def _joint_problems(topic: str, way: float, gap: float) -> list[str]:
    if np.isinf(gap):
        return [f"no arm's joints on {topic}; is the robot's driver running?"]
    late = [f"joint states: {gap:.2f} s without any"] if gap > JOINT_GAP else []
    still = [f"the arm did not move ({way:.3f} rad); was it followed, or was it held?"] if way < MOVED else []
    return [*late, *still]


def _lost(record: EpisodeRecord, why: str) -> list[str]:
    if not (record.lost_images or record.lost_others):
        return []
    return [f"{record.lost_images} images and {record.lost_others} other messages were lost: {why}"]


# How the robot is set up


def _config(contents: EpisodeContents) -> str:
    events = [event for topic in ("/recorder/parameters", "/parameter_events") for _, event in contents.decoded(topic)]
    values = {node: of for node, of in parameter_values(events).items() if not node.endswith(OURS)}
    return _hash(values) if values else ""


def _calibration(contents: EpisodeContents, camera: str) -> dict[str, Any]:
    """Intrinsics of a camera and the static transforms from its optical frame upwards; empty without them."""
    info = contents.last(f"/{camera}/color/camera_info")
    if info is None:
        return {}
    frame, transforms = str(info.header.frame_id), _static_transforms(contents)
    out: dict[str, Any] = {
        "width": int(info.width), "height": int(info.height), "k": np.asarray(info.k).tolist(),
        "d": np.asarray(info.d).tolist(), "model": str(info.distortion_model), "frame": frame, "transforms": [],
    }  # fmt: skip
    while frame in transforms:
        above = transforms.pop(frame)
        out["transforms"].append(above)
        frame = above["parent"]
    return out


def _static_transforms(contents: EpisodeContents) -> dict[str, dict[str, Any]]:
    """The last static transform of each child frame: translation [3] m, rotation as a quaternion x y z w."""
    out = {}
    for _, message in contents.decoded("/tf_static"):
        for of in message.transforms:
            t, q = of.transform.translation, of.transform.rotation
            out[str(of.child_frame_id)] = {
                "parent": str(of.header.frame_id), "child": str(of.child_frame_id),
                "translation": [t.x, t.y, t.z], "rotation": [q.x, q.y, q.z, q.w],
            }  # fmt: skip
    return out


def _hash(contents: Any) -> str:
    return hashlib.sha256(json.dumps(contents, sort_keys=True).encode()).hexdigest()


# A whole bag


def examine_bag(bag: Path, names: TopicNames, draft: EpisodeRecord) -> EpisodeRecord:
    """The record of an episode whose bag is closed, or was left behind by a process that was killed.

    draft: with what is known; begin, end and task are read from the bag where begin is 0. A bag that cannot be read
    gives a record that says so.
    """
    try:
        with BagReader(bag) as reader:
            contents = EpisodeContents(reader, names)
            if not draft.begin:
                draft.begin, draft.end, draft.task = _left_behind(contents, draft)
            if not draft.begin:
                return draft.model_copy(update={"problems": ["the episode had not begun when its recorder ended"]})
            return check_episode(contents, draft, about(bag))
    except (ValueError, OSError) as error:
        return draft.model_copy(update={"problems": [f"its bag cannot be read: {one_line(error)}"]})


def _left_behind(contents: EpisodeContents, draft: EpisodeRecord) -> tuple[float, float, str]:
    """Begin and end, s, and task of an episode by its own bag; zeros where it never began."""
    messages = [message for _, message in contents.decoded(EPISODE_TOPIC) if int(message.state) == RECORDING]
    if not messages:
        return 0.0, 0.0, draft.task
    return seconds(messages[0].begin), seconds(messages[-1].header.stamp), str(messages[0].task)
