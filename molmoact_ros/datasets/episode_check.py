"""The check of an episode after it was recorded: what its bag says of cameras, joints, arm and recorder."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from molmoact_ros.bags.bag_files import about
from molmoact_ros.bags.message_arrays import seconds
from molmoact_ros.bags.recorded_parameters import parameters
from molmoact_ros.bags.recording import Recording, TopicNames
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


def check_episode(recording: Recording, record: EpisodeRecord) -> EpisodeRecord:
    """The record with everything that the bag says, and with the problems that were found.

    recording: the episode's bag. record: with its number, task, begin and end.
    """
    states = _controller_states(recording)
    calibration = {name: of for name in recording.names.cameras if (of := _calibration(recording, name))}
    tokens = recording.decoded(f"{recording.names.policy}/answer_tokens")
    recorder = about(recording.bag)
    way, gap = _motion(recording, record)
    found = record.model_copy(
        update={
            "interventions": _interventions(states, record),
            "actions": "commanded" if _is_commanded(states, record) else "measured",
            "checkpoint": tokens[-1][1].checkpoint if tokens else "",
            "config": _config(recording), "calibration": calibration,
            "calibration_hash": _hash(calibration) if calibration else "",
            "cameras": {name: _camera(recording, name, record) for name in recording.names.cameras},
            "moved": way, "messages": int(recorder.get("recorder.messages", 0)),
            "lost_images": int(recorder.get("recorder.pictures", 0)),
            "lost_others": int(recorder.get("recorder.others", 0)),
        }
    )  # fmt: skip
    found.problems = [*_camera_problems(found), *_joint_problems(recording, way, gap), *_cut(recording, found)]
    return found


# States of the controller: stamp in s and number, in order


def _controller_states(recording: Recording) -> list[tuple[float, int]]:
    messages = recording.decoded(f"{recording.names.controller}/safety_status")
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


def _camera(recording: Recording, camera: str, record: EpisodeRecord) -> CameraCheck:
    topic = recording.find_picture(f"/{camera}/color/image_raw")
    stamps = np.zeros(0) if topic is None else recording.stamps(topic)
    inside = stamps[(stamps >= record.begin) & (stamps <= record.end)]
    gaps = np.diff(np.concatenate([[record.begin], inside, [record.end]]))
    span = float(inside[-1] - inside[0]) if len(inside) > 1 else 0.0
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


def _motion(recording: Recording, record: EpisodeRecord) -> tuple[float, float]:
    """The way of the joint that moves most, rad, and the longest time without joint states, s; inf without any."""
    names = {name for _, message in recording.decoded(recording.names.joint_states) for name in message.name}
    samples = recording.joint_samples(sorted(names)) if names else {}
    way, gap = 0.0, np.inf
    for name, (times, positions) in samples.items():
        if ARM_JOINT.fullmatch(name):
            inside = (times >= record.begin) & (times <= record.end)
            gaps = np.diff(np.concatenate([[record.begin], times[inside], [record.end]]))
            gap = float(gaps.max()) if np.isinf(gap) else max(gap, float(gaps.max()))
            way = max(way, float(np.ptp(positions[inside])) if inside.any() else 0.0)
    return round(way, 5), gap


def _joint_problems(recording: Recording, way: float, gap: float) -> list[str]:
    if np.isinf(gap):
        return [f"no arm's joints on {recording.names.joint_states}; is the robot's driver running?"]
    late = [f"joint states: {gap:.2f} s without any"] if gap > JOINT_GAP else []
    still = [f"the arm did not move ({way:.3f} rad); was it followed, or was it held?"] if way < MOVED else []
    return [*late, *still]


# Recorder


def _cut(recording: Recording, record: EpisodeRecord) -> list[str]:
    out = ["its recorder was killed: the last second may be missing"] if recording.reader.repaired else []
    if record.lost_images or record.lost_others:
        why = about(recording.bag).get("recorder.problem", "")
        out.append(f"{record.lost_images} images and {record.lost_others} other messages were lost: {why}")
    return out


# How the robot is set up


def _config(recording: Recording) -> str:
    events = [*recording.decoded("/recorder/parameters"), *recording.decoded("/parameter_events")]
    nodes = sorted({event.node for _, event in events if not event.node.endswith(OURS)})
    return _hash({node: parameters(recording, node) for node in nodes}) if nodes else ""


def _calibration(recording: Recording, camera: str) -> dict[str, Any]:
    """Intrinsics of a camera and the static transforms from its optical frame upwards; empty without them."""
    infos = recording.decoded(f"/{camera}/color/camera_info")
    if not infos:
        return {}
    info = infos[-1][1]
    frame, transforms = str(info.header.frame_id), _static_transforms(recording)
    out: dict[str, Any] = {
        "width": int(info.width), "height": int(info.height), "k": np.asarray(info.k).tolist(),
        "d": np.asarray(info.d).tolist(), "model": str(info.distortion_model), "frame": frame, "transforms": [],
    }  # fmt: skip
    while frame in transforms:
        above = transforms.pop(frame)
        out["transforms"].append(above)
        frame = above["parent"]
    return out


def _static_transforms(recording: Recording) -> dict[str, dict[str, Any]]:
    """The last static transform of each child frame: translation [3] m, rotation as a quaternion x y z w."""
    out = {}
    for _, message in recording.decoded("/tf_static"):
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

    draft: with what is known; begin and end are read from the bag where they are 0. A bag that cannot be read gives a
    record that says so.
    """
    try:
        with Recording(bag, names) as recording:
            if not draft.begin:
                draft.begin, draft.end, draft.task = _left_behind(recording, draft)
            if not draft.begin:
                return draft.model_copy(update={"problems": ["the episode had not begun when its recorder ended"]})
            return check_episode(recording, draft)
    except (ValueError, OSError) as error:
        return draft.model_copy(update={"problems": [f"its bag cannot be read: {one_line(error)}"]})


def _left_behind(recording: Recording, draft: EpisodeRecord) -> tuple[float, float, str]:
    """Begin and end, s, and task of an episode by its own bag; zeros where it never began."""
    messages = [message for _, message in recording.decoded(EPISODE_TOPIC) if int(message.state) == RECORDING]
    if not messages:
        return 0.0, 0.0, draft.task
    return seconds(messages[0].begin), seconds(messages[-1].header.stamp), str(messages[0].task)
