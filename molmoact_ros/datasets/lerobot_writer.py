"""Writes demonstrations as a LeRobot dataset."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from molmoact_ros.datasets.episode import STATE_NAMES, Demonstration
from molmoact_ros.datasets.lerobot_format import CHUNKS_SIZE, DATA, VIDEO, image_keys, import_pyarrow
from molmoact_ros.datasets.staging import built_beside
from molmoact_ros.robots.franka import SINGLE
from molmoact_ros.visualization.video import VideoWriter


def write_dataset(
    folder: Path, demonstrations: Sequence[Demonstration], video: bool = False, size: tuple[int, int] | None = None
) -> list[str]:  # fmt: skip
    """Write a dataset of version 2.1, and return notes of what was changed on the way, one line each.

    video: H.264 videos instead of PNG images; images of an odd size are padded by a row or column. size: width and
    height to which images are scaled. The folder appears when the dataset is complete. Raises FileExistsError if it
    exists, ValueError if the demonstrations differ in cameras, rates or sizes of images.
    """
    arrow = import_pyarrow()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder for the dataset")
    first = demonstrations[0]
    if any(d.fps != first.fps or list(d.pictures) != list(first.pictures) for d in demonstrations):
        raise ValueError("the recordings differ in their cameras or rates; make a dataset of each")
    if len({d.joints is None for d in demonstrations}) > 1:
        raise ValueError("some of the recordings have no joint states; make a dataset of each kind")
    with built_beside(folder) as unfinished:
        return _write(arrow, unfinished, demonstrations, video, size)


def _write(
    arrow: Any, folder: Path, demonstrations: Sequence[Demonstration], video: bool, size: tuple[int, int] | None
) -> list[str]:  # fmt: skip
    first, notes = demonstrations[0], dict[str, None]()
    keys = dict(zip(first.pictures, image_keys(len(first.pictures)), strict=True))
    tasks = list(dict.fromkeys(task for d in demonstrations for task in d.tasks))
    meta, features, total = folder / "meta", dict[str, Any](), 0
    sizes: dict[str, tuple[int, ...]] = {}
    fps = int(first.fps) if first.fps == int(first.fps) else first.fps
    meta.mkdir()
    for number, demonstration in enumerate(demonstrations):
        columns, shapes = _columns(demonstration, number, total, tasks)
        stats = {name: _statistics(values) for name, values in columns.items()}
        place = {"episode_chunk": number // CHUNKS_SIZE, "episode_index": number}
        pictures = {}
        for camera, key in keys.items():
            images = _of_one_size(demonstration.pictures[camera](), camera, number, size, sizes)
            if video:
                file = folder / VIDEO.format(video_key=key, **place)
                shapes[key], stats[key] = _write_video(file, _even(images, camera, notes), fps)
            else:
                pictures[key], shapes[key], stats[key] = _as_png(images)
        features = _features(shapes, list(keys.values()), video, fps)
        _write_parquet(arrow, folder / DATA.format(**place), columns, pictures, features)
        length, said = len(demonstration.states), list(dict.fromkeys(demonstration.tasks))
        _append(meta / "episodes.jsonl", {"episode_index": number, "tasks": said, "length": length})
        _append(meta / "episodes_stats.jsonl", {"episode_index": number, "stats": stats})
        total += length
    for number, task in enumerate(tasks):
        _append(meta / "tasks.jsonl", {"task_index": number, "task": task})
    count = len(demonstrations)
    info = {
        "codebase_version": "v2.1", "robot_type": "fr3", "total_episodes": count, "total_frames": total,
        "total_tasks": len(tasks), "total_videos": count * len(keys) if video else 0,
        "total_chunks": -(-count // CHUNKS_SIZE), "chunks_size": CHUNKS_SIZE, "fps": fps,
        "splits": {"train": f"0:{count}"}, "data_path": DATA, "video_path": VIDEO if video else None,
        "features": features,
    }  # fmt: skip
    (meta / "info.json").write_text(json.dumps(info, indent=4))
    return list(notes)


def _of_one_size(
    images: Iterator[np.ndarray], camera: str, episode: int, size: tuple[int, int] | None,
    sizes: dict[str, tuple[int, ...]],
) -> Iterator[np.ndarray]:  # fmt: skip
    """The images, scaled to `size`, if that is given. Raises ValueError for one that differs from `sizes[camera]`."""
    for number, image in enumerate(images):
        if size is not None and image.shape[1::-1] != size:
            image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
        before = sizes.setdefault(camera, image.shape)
        if image.shape != before:
            raise ValueError(
                f"the images of {camera} are {image.shape[1]}x{image.shape[0]} from frame {number} of episode "
                f"{episode} on, and {before[1]}x{before[0]} before; scale them with --size {before[1]}x{before[0]}, "
                "or make a dataset of each"
            )
        yield image


def _even(images: Iterator[np.ndarray], camera: str, notes: dict[str, None]) -> Iterator[np.ndarray]:
    """The images with even sizes, as H.264's usual pixel format needs: the last row or column may be repeated."""
    for image in images:
        height, width = image.shape[:2]
        if height % 2 or width % 2:
            image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
            notes[
                f"the images of {camera} are {width}x{height}: padded to {image.shape[1]}x{image.shape[0]} for H.264"
            ] = None
        yield image


def _columns(
    d: Demonstration, number: int, total: int, tasks: list[str]
) -> tuple[dict[str, np.ndarray], dict[str, list[int]]]:  # fmt: skip
    length = len(d.states)
    frames = np.arange(length)
    columns = {"state": d.states, "actions": d.actions}
    if d.joints is not None:
        columns["joint_positions"] = d.joints
    shapes = {name: [values.shape[1]] for name, values in columns.items()}
    columns |= {
        "timestamp": (frames / d.fps).astype(np.float32), "frame_index": frames,
        "episode_index": np.full(length, number), "index": total + frames,
        "task_index": np.array([tasks.index(task) for task in d.tasks]),
    }  # fmt: skip
    return columns, shapes


def _features(shapes: dict[str, list[int]], pictures: list[str], video: bool, fps: float) -> dict[str, Any]:
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


def _write_video(file: Path, pictures: Iterator[np.ndarray], fps: float) -> tuple[list[int], dict[str, Any]]:
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
    """Statistics of each colour channel, 0..1, over every eighth pixel, in the format's shape [3, 1, 1]."""
    values = np.concatenate([picture.reshape(-1, 3) for picture in pictures]) / 255
    out = _statistics(values)
    return {n: [[[v]] for v in of] if n != "count" else [len(pictures)] for n, of in out.items()}


def _append(file: Path, row: dict[str, Any]) -> None:
    with file.open("a") as out:
        out.write(json.dumps(row) + "\n")
