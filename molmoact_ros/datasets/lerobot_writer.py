"""Writes demonstrations as a LeRobot dataset."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration, joint_names, state_names
from molmoact_ros.datasets.gripper_scale import GripperScale
from molmoact_ros.datasets.lerobot_files import DatasetFiles, EncodedEpisode, FilesVersion21, FilesVersion30
from molmoact_ros.datasets.lerobot_format import CHUNKS_SIZE, INTERVENTION, OUTCOME, Version, image_keys, import_pyarrow
from molmoact_ros.datasets.staging import built_beside
from molmoact_ros.datasets.statistics import Statistics, image_statistics, statistics, thinned, together
from molmoact_ros.visualization.video import VideoWriter

_FILES: Final[dict[Version, type[DatasetFiles]]] = {"3.0": FilesVersion30, "2.1": FilesVersion21}
_DTYPES: Final = {"timestamp": "float32", INTERVENTION: "bool", OUTCOME: "string"}
"""Of columns that are one number; the others are int64."""


@dataclass(frozen=True)
class WriteOptions:
    """How a dataset is written.

    version: of the format. video: H.264 videos instead of PNG images; images of an odd size are padded by a row or
    column. size: width and height to which images are scaled. gripper: the values that mean open and closed in it; the
    released fine-tuning script needs closed = 1.
    """

    version: Version = "3.0"
    video: bool = False
    size: tuple[int, int] | None = None
    gripper: GripperScale = field(default_factory=GripperScale)


@dataclass
class WrittenDataset:
    """What was written. notes: what was changed on the way, one line each. left_out: why, by the episode's name."""

    episodes: int = 0
    frames: int = 0
    notes: dict[str, None] = field(default_factory=dict)
    left_out: dict[str, str] = field(default_factory=dict)


def write_dataset(
    folder: Path, demonstrations: Iterable[Demonstration], options: WriteOptions | None = None
) -> WrittenDataset:
    """Write a dataset; one episode at a time is in memory.

    An episode whose images cannot be read is left out. The folder appears when the dataset is complete. Raises
    FileExistsError if it exists, ValueError if the demonstrations differ in arms, cameras, rates, sizes of images or
    what was recorded, or if none can be read.
    """
    import_pyarrow()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder for the dataset")
    with built_beside(folder) as unfinished:
        writer = _Writer(unfinished, options or WriteOptions())
        for demonstration in demonstrations:
            writer.add_episode(demonstration)
        writer.finish()
        return writer.written


class _Writer:
    """Encodes episodes and hands them to the files of the version."""

    def __init__(self, folder: Path, options: WriteOptions) -> None:
        self._options, self.written = options, WrittenDataset()
        self._files = _FILES[options.version](folder)
        self._first: Demonstration | None = None
        self._tasks: dict[str, int] = {}
        self._sizes: dict[str, tuple[int, ...]] = {}
        self._features: dict[str, dict[str, Any]] = {}
        self._stats: dict[str, list[Statistics]] = {}
        self._values: dict[str, list[np.ndarray]] = {}
        self._sources: set[str] = set()

    def add_episode(self, demonstration: Demonstration) -> None:
        """Write an episode, or note why it is left out."""
        self._check(demonstration)
        number, keys = self.written.episodes, self._keys(demonstration)
        images: dict[str, list[bytes]] = {}
        shapes: dict[str, list[int]] = {}
        stats: dict[str, Statistics] = {}
        sizes = dict(self._sizes)
        try:
            for camera, key in keys.items():
                shown = self._of_one_size(demonstration, camera)
                if self._options.video:
                    file = self._files.video_path(number, key)
                    shapes[key], stats[key] = _write_video(file, self._even(shown, camera), demonstration.fps)
                else:
                    images[key], shapes[key], stats[key] = _as_png(shown)
        except DamagedEpisode as error:
            self.written.left_out[demonstration.name], self._sizes = str(error), sizes
            for key in keys.values():
                self._files.video_path(number, key).unlink(missing_ok=True)
            return
        self._first = self._first or demonstration
        columns = self._columns(demonstration)
        self._features = self._features or _features(demonstration, columns, shapes, self._options)
        stats |= {name: statistics(of) for name, of in columns.items() if isinstance(of, np.ndarray)}
        for key, of in stats.items():
            self._stats.setdefault(key, []).append(of)
        for key in ("state", "actions"):
            self._values.setdefault(key, []).append(np.asarray(columns[key]))
        self._sources.add(demonstration.action_source)
        length = len(demonstration.states)
        self._files.add_episode(
            EncodedEpisode(
                number, list(dict.fromkeys(demonstration.tasks)), columns, images, stats, length / demonstration.fps
            ),
            self._features,
        )
        self.written.episodes, self.written.frames = number + 1, self.written.frames + length

    def _check(self, found: Demonstration) -> None:
        first = self._first or found
        if found.arms != first.arms:
            raise ValueError("some of the recordings are of one arm, others of two; make a dataset of each")
        if found.fps != first.fps or list(found.pictures) != list(first.pictures):
            raise ValueError("the recordings differ in their cameras or rates; make a dataset of each")
        if (found.joints is None) != (first.joints is None):
            raise ValueError("some of the recordings have no joint states; make a dataset of each kind")
        if (found.interventions is None) != (first.interventions is None):
            raise ValueError("some of the recordings do not say who moved the arm when; make a dataset of each kind")

    @staticmethod
    def _keys(demonstration: Demonstration) -> dict[str, str]:
        """The image feature of each camera."""
        return dict(zip(demonstration.pictures, image_keys(len(demonstration.pictures)), strict=True))

    def finish(self) -> None:
        """Write what is known of all episodes. Raises ValueError if there are none."""
        first = self._first
        if first is None:
            reasons = [f"{name}: {why}" for name, why in self.written.left_out.items()]
            raise ValueError(reasons[0] if reasons else "there are no episodes to write")
        source = self._sources.pop() if len(self._sources) == 1 else "mixed"
        self._features["actions"]["info"]["source"] = source
        stats = {key: together(of) for key, of in self._stats.items()}
        stats |= {key: statistics(np.concatenate(of)) for key, of in self._values.items()}
        info = {
            "robot_type": "fr3" if len(first.arms) == 1 else "two fr3", "total_episodes": self.written.episodes,
            "total_frames": self.written.frames, "total_tasks": len(self._tasks), "chunks_size": CHUNKS_SIZE,
            "fps": _whole(first.fps), "splits": {"train": f"0:{self.written.episodes}"}, "features": self._features,
        }  # fmt: skip
        self._files.finish(info, list(self._tasks), stats)

    def _columns(self, d: Demonstration) -> dict[str, np.ndarray | list[str]]:
        length, hands = len(d.states), len(d.arms)
        frames = np.arange(length)
        out: dict[str, np.ndarray | list[str]] = {}
        for name, values in (("state", d.states), ("actions", d.actions)):
            written = values.astype(np.float32)
            written[:, -hands:] = self._options.gripper.values(values[:, -hands:])
            out[name] = written
        if d.joints is not None:
            out["joint_positions"] = d.joints
        if d.interventions is not None:
            out[INTERVENTION] = d.interventions
        if d.interventions is not None or d.outcome:
            out[OUTCOME] = [d.outcome] * length
        return out | {
            "timestamp": (frames / d.fps).astype(np.float32), "frame_index": frames,
            "episode_index": np.full(length, self.written.episodes), "index": self.written.frames + frames,
            "task_index": np.array([self._tasks.setdefault(task, len(self._tasks)) for task in d.tasks]),
        }  # fmt: skip

    def _of_one_size(self, d: Demonstration, camera: str) -> Iterator[np.ndarray]:
        """The images of a camera, scaled where that is asked for.

        Raises ValueError for one of another size than those before, DamagedEpisode where some are missing.
        """
        size, count = self._options.size, 0
        for image in d.pictures[camera]():
            if size is not None and image.shape[1::-1] != size:
                image = np.asarray(cv2.resize(image, size, interpolation=cv2.INTER_AREA))
            before = self._sizes.setdefault(camera, image.shape)
            if image.shape != before:
                raise ValueError(
                    f"the images of {camera} are {image.shape[1]}x{image.shape[0]} from frame {count} of {d.name} "
                    f"on, and {before[1]}x{before[0]} before; scale them with --size {before[1]}x{before[0]}, "
                    "or make a dataset of each"
                )
            count += 1
            yield image
        if count != len(d.states):
            raise DamagedEpisode(f"{camera} has {count} images for {len(d.states)} frames")

    def _even(self, images: Iterator[np.ndarray], camera: str) -> Iterator[np.ndarray]:
        """The images with even sizes, as H.264's usual pixel format needs: the last row or column may be repeated."""
        for image in images:
            height, width = image.shape[:2]
            if height % 2 or width % 2:
                image = np.pad(image, ((0, height % 2), (0, width % 2), (0, 0)), "edge")
                size = f"{image.shape[1]}x{image.shape[0]}"
                self.written.notes[f"the images of {camera} are {width}x{height}: padded to {size} for H.264"] = None
            yield image


def _features(
    d: Demonstration, columns: dict[str, np.ndarray | list[str]], shapes: dict[str, list[int]], options: WriteOptions
) -> dict[str, dict[str, Any]]:
    """The features of meta/info.json: those of the values, then the images."""
    names = {
        "state": state_names(d.arms), "actions": state_names(d.arms, "delta_"), "joint_positions": joint_names(d.arms)
    }  # fmt: skip
    gripper = {"open": options.gripper.open, "closed": options.gripper.closed}
    out: dict[str, dict[str, Any]] = {}
    for name, values in columns.items():
        if name in names:
            out[name] = {"dtype": "float32", "shape": [np.shape(values)[1]], "names": names[name]}
        else:
            out[name] = {"dtype": _DTYPES.get(name, "int64"), "shape": [1], "names": None}
    out["state"]["info"], out["actions"]["info"] = {"gripper": gripper}, {"gripper": gripper}
    for name, shape in shapes.items():
        out[name] = {"dtype": "image", "shape": shape, "names": ["height", "width", "channels"]}
        if options.video:
            out[name] |= {"dtype": "video", "info": _video_info(shape, d.fps)}
    return out


def _video_info(shape: list[int], fps: float) -> dict[str, Any]:
    return {
        "video.height": shape[0], "video.width": shape[1], "video.codec": "h264", "video.channels": 3,
        "video.pix_fmt": "yuv420p", "video.is_depth_map": False, "video.fps": _whole(fps), "has_audio": False,
    }  # fmt: skip


def _whole(fps: float) -> float:
    return int(fps) if fps == int(fps) else fps


def _as_png(pictures: Iterator[np.ndarray]) -> tuple[list[bytes], list[int], Statistics]:
    encoded, small, shape = [], [], [0, 0, 3]
    for picture in pictures:
        shape = list(picture.shape)
        encoded.append(cv2.imencode(".png", picture[:, :, ::-1])[1].tobytes())
        small.append(thinned(picture))
    return encoded, shape, image_statistics(small)


def _write_video(file: Path, pictures: Iterator[np.ndarray], fps: float) -> tuple[list[int], Statistics]:
    file.parent.mkdir(parents=True, exist_ok=True)
    small, shape = [], [0, 0, 3]
    with VideoWriter(file, _whole(fps)) as writer:
        for picture in pictures:
            shape = list(picture.shape)
            writer.write(picture)
            small.append(thinned(picture))
    return shape, image_statistics(small)
