"""LeRobot datasets of bags, and bags of LeRobot datasets.

Written is version 2.1 of the format, which the released model's own tools read; versions 2.0, 2.1 and 3.0 are read.
Frames are evenly 1/fps s apart: at each of these times the nearest pictures are taken, and the joints between the
nearest two. Numbers are float32 there, pictures PNG, or H.264 where asked for. Names are the ones that MolmoAct's tools
look for: `image`, `wrist_image`, `state`, `actions`; `joint_positions` is ours, so that nothing is lost.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.bags.bag import BagWriter
from molmoact_ros.bags.episode_writer import EpisodeWriter
from molmoact_ros.bags.message_arrays import chunk_actions, seconds
from molmoact_ros.bags.recording import Recording
from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.robots.franka import JOINTS, OPENING_MAX, SINGLE
from molmoact_ros.visualization.video import VideoWriter

CHUNKS_SIZE: Final = 1000
CHUNK: Final = 8  # actions of a plan that an imported demonstration is said to be
HAND: Final = "/ee_state"
"""Topic of an imported dataset's states: a JointState whose names are STATE_NAMES."""
STATE_NAMES: Final = ("x", "y", "z", "roll", "pitch", "yaw", "gripper")
_DATA: Final = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
_VIDEO: Final = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
_BEGIN: Final = 1.0  # s, of an imported bag's clock: a stamp of zero means none


@dataclass
class Demonstration:
    """An episode at `fps` frames a second.

    pictures: of each camera, uint8 [H, W, 3] RGB by frame, asked for one at a time. states: float32 [n, 7], the hand's
    x, y, z (m), roll, pitch, yaw (rad, fixed axes) in the base frame and its gripper (1 open .. 0 closed). actions:
    float32 [n, 7], as DELTA_EE_POSE of ActionChunk.msg. joints: float32 [n, 9] rad and m, or None.
    """

    task: str
    fps: int
    pictures: dict[str, Callable[[], Iterator[np.ndarray]]]
    states: np.ndarray
    actions: np.ndarray
    joints: np.ndarray | None
    notes: list[str] = field(default_factory=list)


# Bag -> demonstration


def of_bag(recording: Recording, robot: Path, fps: int, task: str = "") -> Demonstration:
    """A recording of one arm. task: where the bag does not say it. ValueError, in one line: something is missing."""
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
    """What the hand was told to do from each time to the next; at the last, nothing."""
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
    """What the gripper was told last, 1 open .. 0 closed; before the first word, as it was."""
    said = recording.decoded(f"/{SINGLE.robot}_gripper_controller/joint_trajectory")
    goals = [(at, 2 * m.points[-1].positions[0] / OPENING_MAX) for at, m in said if m.points]
    times = np.array([at for at, _ in goals])
    last = np.searchsorted(times, ticks, side="right") - 1
    return np.array([goals[k][1] if k >= 0 else measured[row] for row, k in enumerate(last)])


# Demonstrations -> dataset


def write_dataset(folder: Path, demonstrations: Sequence[Demonstration], video: bool = False) -> None:
    """A dataset of version 2.1. FileExistsError where the folder is there already; ValueError where they differ."""
    arrow = _arrow()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder for the dataset")
    first = demonstrations[0]
    if any(d.fps != first.fps or list(d.pictures) != list(first.pictures) for d in demonstrations):
        raise ValueError("the recordings differ in their cameras or rates; make a dataset of each")
    keys = dict(zip(first.pictures, _picture_keys(len(first.pictures)), strict=True))
    tasks = list(dict.fromkeys(d.task for d in demonstrations))
    meta, features, total = folder / "meta", dict[str, Any](), 0
    meta.mkdir(parents=True)
    for number, demonstration in enumerate(demonstrations):
        columns, shapes = _columns(demonstration, number, total, tasks.index(demonstration.task))
        stats = {name: _statistics(values) for name, values in columns.items()}
        place = {"episode_chunk": number // CHUNKS_SIZE, "episode_index": number}
        pictures = {}
        for camera, key in keys.items():
            read = demonstration.pictures[camera]
            if video:
                shapes[key], stats[key] = _write_video(
                    folder / _VIDEO.format(video_key=key, **place), read(), first.fps
                )  # fmt: skip
            else:
                pictures[key], shapes[key], stats[key] = _as_png(read())
        features = _features(shapes, list(keys.values()), video, first.fps)
        _write_parquet(arrow, folder / _DATA.format(**place), columns, pictures, features)
        length = len(demonstration.states)
        _append(meta / "episodes.jsonl", {"episode_index": number, "tasks": [demonstration.task], "length": length})
        _append(meta / "episodes_stats.jsonl", {"episode_index": number, "stats": stats})
        total += length
    for number, task in enumerate(tasks):
        _append(meta / "tasks.jsonl", {"task_index": number, "task": task})
    count = len(demonstrations)
    info = {
        "codebase_version": "v2.1", "robot_type": "fr3", "total_episodes": count, "total_frames": total,
        "total_tasks": len(tasks), "total_videos": count * len(keys) if video else 0,
        "total_chunks": -(-count // CHUNKS_SIZE), "chunks_size": CHUNKS_SIZE, "fps": first.fps,
        "splits": {"train": f"0:{count}"}, "data_path": _DATA, "video_path": _VIDEO if video else None,
        "features": features,
    }  # fmt: skip
    (meta / "info.json").write_text(json.dumps(info, indent=4))


def _picture_keys(count: int) -> list[str]:
    return ["image", "wrist_image", *(f"wrist_image_{k}" for k in range(2, count))][:count]


def _columns(
    d: Demonstration, number: int, total: int, task: int
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:  # fmt: skip
    length = len(d.states)
    frames = np.arange(length)
    columns = {"state": d.states, "actions": d.actions}
    if d.joints is not None:
        columns["joint_positions"] = d.joints
    shapes = {name: [values.shape[1]] for name, values in columns.items()}
    columns |= {
        "timestamp": (frames / d.fps).astype(np.float32), "frame_index": frames,
        "episode_index": np.full(length, number), "index": total + frames, "task_index": np.full(length, task),
    }  # fmt: skip
    return columns, shapes


def _features(shapes: dict[str, list[int]], pictures: list[str], video: bool, fps: int) -> dict[str, Any]:
    names = {
        "state": list(STATE_NAMES), "actions": [f"delta_{n}" for n in STATE_NAMES[:6]] + ["gripper"],
        "joint_positions": [*SINGLE.joints, *SINGLE.fingers],
    }  # fmt: skip
    out: dict[str, Any] = {}
    for name, shape in shapes.items():
        if name in pictures:
            kind = "video" if video else "image"
            out[name] = {"dtype": kind, "shape": shape, "names": ["height", "width", "channels"]}
            if video:
                out[name]["info"] = {
                    "video.height": shape[0], "video.width": shape[1], "video.codec": "h264", "video.channels": 3,
                    "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": fps, "has_audio": False,
                }  # fmt: skip
        else:
            out[name] = {"dtype": "float32", "shape": shape, "names": names[name]}
    for name in ("timestamp", "frame_index", "episode_index", "index", "task_index"):
        out[name] = {"dtype": "float32" if name == "timestamp" else "int64", "shape": [1], "names": None}
    return out


def _write_parquet(
    arrow: Any, file: Path, columns: dict[str, np.ndarray], pictures: dict[str, list[bytes]], features: dict[str, Any]
) -> None:  # fmt: skip
    data, hints = {}, {}
    for key, encoded in pictures.items():
        rows = [{"bytes": png, "path": f"frame_{k:06d}.png"} for k, png in enumerate(encoded)]
        data[key] = arrow.array(rows, arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]))
        hints[key] = {"_type": "Image"}
    for name, values in columns.items():
        kind = arrow.float32() if features[name]["dtype"] == "float32" else arrow.int64()
        hint: dict[str, Any] = {"dtype": features[name]["dtype"], "_type": "Value"}
        if values.ndim == 2:
            width = values.shape[1]
            data[name] = arrow.array(list(values), arrow.list_(kind, width))
            hint = {"feature": hint, "length": width, "_type": "Sequence"}
        else:
            data[name] = arrow.array(values, kind)
        hints[name] = hint
    about = {"huggingface": json.dumps({"info": {"features": hints}})}
    file.parent.mkdir(parents=True, exist_ok=True)
    import pyarrow.parquet

    pyarrow.parquet.write_table(arrow.table(data).replace_schema_metadata(about), file)


def _as_png(pictures: Iterator[np.ndarray]) -> tuple[list[bytes], list[int], dict[str, Any]]:
    encoded, small, shape = [], [], [0, 0, 3]
    for picture in pictures:
        shape = list(picture.shape)
        encoded.append(cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
        small.append(picture[::8, ::8])
    return encoded, shape, _picture_statistics(small)


def _write_video(file: Path, pictures: Iterator[np.ndarray], fps: int) -> tuple[list[int], dict[str, Any]]:
    file.parent.mkdir(parents=True, exist_ok=True)
    small, shape = [], [0, 0, 3]
    with VideoWriter(file, fps) as writer:
        for picture in pictures:
            shape = list(picture.shape)
            writer.write(picture)
            small.append(picture[::8, ::8])
    return shape, _picture_statistics(small)


def _statistics(values: np.ndarray) -> dict[str, Any]:
    rows = values.reshape(len(values), -1).astype(np.float64)
    kinds = {"min": rows.min(axis=0), "max": rows.max(axis=0), "mean": rows.mean(axis=0), "std": rows.std(axis=0)}
    return {name: value.tolist() for name, value in kinds.items()} | {"count": [len(values)]}


def _picture_statistics(pictures: list[np.ndarray]) -> dict[str, Any]:
    """Of each colour, 0..1, over every eighth pixel, in the shape [3, 1, 1] that the format has for them."""
    values = np.concatenate([picture.reshape(-1, 3) for picture in pictures]) / 255
    out = _statistics(values)
    return {n: [[[v]] for v in of] if n != "count" else [len(pictures)] for n, of in out.items()}


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")


# Dataset -> demonstrations -> bag


@dataclass(frozen=True)
class Dataset:
    """A dataset's folder and what its meta/info.json says."""

    folder: Path
    info: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Dataset:
        """FileNotFoundError where there is none, ValueError for a version or features that are not read."""
        file = folder / "meta" / "info.json"
        if not file.is_file():
            raise FileNotFoundError(f"{folder} is no LeRobot dataset: it has no meta/info.json")
        info = json.loads(file.read_text())
        if info.get("codebase_version") not in ("v2.0", "v2.1", "v3.0"):
            version = info.get("codebase_version")
            raise ValueError(f"{folder} is a dataset of version {version}; v2.0, v2.1 and v3.0 are read")
        return Dataset(folder, info)

    @property
    def episodes(self) -> int:
        """How many there are."""
        return int(self.info["total_episodes"])

    @property
    def cameras(self) -> list[str]:
        """The features that are pictures, in their order."""
        features = self.info["features"]
        return [name for name, feature in features.items() if feature["dtype"] in ("image", "video")]

    def episode(self, number: int) -> Demonstration:
        """One episode. ValueError, in one line, where it is not there or its features are not a MolmoAct arm's."""
        if not 0 <= number < self.episodes:
            raise ValueError(f"there is no episode {number}; the dataset has 0 to {self.episodes - 1}")
        table = self._table(number)
        state, action = self._column(table, "state"), self._column(table, "action")
        if action.shape[1] != 7:
            raise ValueError(f"actions have {action.shape[1]} values; read are 7: x, y, z, roll, pitch, yaw, gripper")
        joints = self._values(table, "joint_positions") if "joint_positions" in table else None
        tasks = self._tasks()
        task = tasks[int(np.ravel(table["task_index"])[0])]
        pictures = {name: self._pictures(name, number, table) for name in self.cameras}
        return Demonstration(task, int(self.info["fps"]), pictures, state[:, :7], action, joints)

    def _table(self, number: int) -> dict[str, Any]:
        import_table = _parquet()
        if self.info["codebase_version"] != "v3.0":
            return dict(import_table(self.folder / self.info["data_path"].format(**self._place(number))).to_pydict())
        for file in sorted((self.folder / "data").glob("chunk-*/file-*.parquet")):
            columns = import_table(file).to_pydict()
            rows = [k for k, n in enumerate(columns["episode_index"]) if n == number]
            if rows:
                return {name: [values[k] for k in rows] for name, values in columns.items()}
        raise ValueError(f"episode {number} is in no file of {self.folder / 'data'}; is the dataset whole?")

    def _place(self, number: int) -> dict[str, int]:
        return {"episode_chunk": number // int(self.info.get("chunks_size", CHUNKS_SIZE)), "episode_index": number}

    def _column(self, table: dict[str, Any], kind: str) -> np.ndarray:
        for name in (kind, f"{kind}s", f"observation.{kind}"):
            if name in table:
                return self._values(table, name)
        raise ValueError(f"the dataset has no {kind}; it has {', '.join(self.info['features'])}")

    def _values(self, table: dict[str, Any], name: str) -> np.ndarray:
        return np.array(table[name], np.float32)

    def _tasks(self) -> dict[int, str]:
        if self.info["codebase_version"] == "v3.0":
            columns = _parquet()(self.folder / "meta" / "tasks.parquet").to_pydict()
            words = next(values for name, values in columns.items() if name != "task_index")
            return dict(zip(columns["task_index"], words, strict=True))
        rows = [json.loads(line) for line in (self.folder / "meta" / "tasks.jsonl").read_text().splitlines()]
        return {row["task_index"]: row["task"] for row in rows}

    def _pictures(self, name: str, number: int, table: dict[str, Any]) -> Callable[[], Iterator[np.ndarray]]:
        if self.info["features"][name]["dtype"] == "image":
            return lambda: (_decoded(cell) for cell in table[name])
        file, first = self._video(name, number)
        return lambda: _frames(file, first, len(table["task_index"]))

    def _video(self, name: str, number: int) -> tuple[Path, int]:
        """The file with an episode's pictures, and which of its frames is the first."""
        if self.info["codebase_version"] != "v3.0":
            return self.folder / self.info["video_path"].format(video_key=name, **self._place(number)), 0
        for file in sorted((self.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
            columns = _parquet()(file).to_pydict()
            if number in columns["episode_index"]:
                row = columns["episode_index"].index(number)
                place = {k: columns[f"videos/{name}/{k}"][row] for k in ("chunk_index", "file_index")}
                begin = columns[f"videos/{name}/from_timestamp"][row]
                file = self.folder / self.info["video_path"].format(video_key=name, **place)
                return file, round(begin * self.info["fps"])
        raise ValueError(f"episode {number} is in no file of {self.folder / 'meta/episodes'}; is the dataset whole?")


def _decoded(cell: dict[str, Any]) -> np.ndarray:
    pixels = cv2.imdecode(np.frombuffer(cell["bytes"] or b"", np.uint8), cv2.IMREAD_COLOR) if cell["bytes"] else None
    if pixels is None:
        raise ValueError(f"the picture {cell['path']} cannot be decoded; is the dataset whole?")
    return np.ascontiguousarray(pixels[:, :, ::-1])


def _frames(file: Path, first: int, count: int) -> Iterator[np.ndarray]:
    video = cv2.VideoCapture(str(file))
    for number in range(first + count):
        more, frame = video.read()
        if not more:
            raise ValueError(f"{file} has no frame {number}; is it there, and its codec known to OpenCV?")
        if number >= first:
            yield np.ascontiguousarray(frame[:, :, ::-1])


def write_bag(folder: Path, demonstration: Demonstration, cameras: Sequence[str]) -> None:
    """An episode as a bag: pictures, joints or poses, and at each frame the next CHUNK actions as a plan.

    cameras: names that the pictures get, in their order. FileExistsError where the folder is there already.
    """
    d, dt = demonstration, 1.0 / demonstration.fps
    if len(cameras) > len(d.pictures):
        raise ValueError(f"the dataset has {len(d.pictures)} cameras ({', '.join(d.pictures)}), not {len(cameras)}")
    streams = [read() for read in list(d.pictures.values())[: len(cameras)]]
    try:
        with BagWriter(folder, about={"imported": "LeRobot"}) as bag:
            out = EpisodeWriter(bag)
            for k in range(len(d.states)):
                now = _BEGIN + k * dt
                out.engine_status(now, d.task, k + 1, 0.0, "")
                for camera, stream in zip(cameras, streams, strict=True):
                    out.image(f"/{camera}/color/image_raw", next(stream), "rgb8", now)
                out.joints(STATE_NAMES, d.states[k], np.zeros(len(STATE_NAMES)), now, HAND)
                if d.joints is not None:
                    names = [*SINGLE.joints, *SINGLE.fingers]
                    out.joints(names, d.joints[k], np.zeros(len(names)), now)
                out.chunk(d.actions[k : k + CHUNK], dt, now, k + 1, now)
    except ValueError:
        shutil.rmtree(folder, ignore_errors=True)
        raise


def _arrow() -> Any:
    try:
        import pyarrow
    except ImportError:
        raise RuntimeError("LeRobot datasets need pyarrow: pip install 'molmoact_ros[lerobot]'") from None
    return pyarrow


def _parquet() -> Callable[[Path], Any]:
    _arrow()
    import pyarrow.parquet

    return pyarrow.parquet.read_table
