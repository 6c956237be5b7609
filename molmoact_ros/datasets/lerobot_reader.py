"""Reads episodes of a LeRobot dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Final, Literal

import cv2
import numpy as np

from molmoact_ros.control.kinematics import Kinematics
from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration
from molmoact_ros.datasets.feature_roles import size_of
from molmoact_ros.datasets.lerobot_format import CHUNKS_SIZE, INTERVENTION, OUTCOME, import_parquet
from molmoact_ros.datasets.mapping import DatasetMapping
from molmoact_ros.datasets.mapping_options import MappingOptions, choose_mapping
from molmoact_ros.datasets.video_reader import read_video
from molmoact_ros.utils.git_lfs import unread_reason
from molmoact_ros.utils.paths import robot_model

VERSIONS: Final = ("v2.0", "v2.1", "v3.0")
IMAGES: Final = (
    "images/{key}/episode_{episode:06d}/frame_{frame:06d}.png",
    "images/{key}/episode-{episode:06d}/frame-{frame:06d}.png",
)
"""Where LeRobot writes images before they are in tables or videos: versions 2.x, and 3.0."""


class Dataset:
    """A LeRobot dataset of version 2.0, 2.1 or 3.0; nothing in its folder is changed.

    dataset = Dataset.open(Path("dataset"))
    mapping = dataset.mapping(MappingOptions())
    demonstration = dataset.episode(dataset.episodes[0], mapping)
    print(demonstration.tasks[0], demonstration.actions.shape)  # [n, 7]
    """

    def __init__(self, folder: Path, info: dict[str, Any]) -> None:
        """folder: the dataset's. info: contents of its meta/info.json."""
        self.folder, self.info = folder, info
        self._kinematics = cache(lambda: Kinematics(robot_model()))

    @staticmethod
    def open(folder: Path) -> Dataset:
        """Open a dataset.

        Raises FileNotFoundError if there is none, ValueError for an unsupported version or a damaged meta/info.json.
        """
        file = folder / "meta" / "info.json"
        if not file.is_file():
            raise FileNotFoundError(_no_dataset(folder))
        try:
            info = json.loads(file.read_text("utf-8-sig"))
            version, fps = info.get("codebase_version"), float(info["fps"])
            if not all(isinstance(feature, dict) and "dtype" in feature for feature in info["features"].values()):
                raise ValueError("a feature without dtype")
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise ValueError(f"{file} is damaged, or of another format ({type(error).__name__}: {error})") from None
        if version not in VERSIONS:
            raise ValueError(f"{folder} is a dataset of version {version}; v2.0, v2.1 and v3.0 are read")
        if not 0 < fps < np.inf:
            raise ValueError(f"{file}: a rate of {fps:g} frames per second is not possible")
        return Dataset(folder, info)

    @property
    def fps(self) -> float:
        """Frames per second."""
        return float(self.info["fps"])

    @cached_property
    def episodes(self) -> list[int]:
        """Numbers of the episodes, which have gaps where some were deleted."""
        if self._listed:
            return sorted(self._listed)
        if self._version_3:
            numbers = [self._read(file, ["episode_index"])["episode_index"] for file in self._data_files()]
            return sorted({int(number) for column in numbers for number in column})
        there = {int(file.stem.rpartition("_")[2]) for file in self.folder.glob("data/*/episode_[0-9]*.parquet")}
        return sorted(there.union(range(int(self.info.get("total_episodes", 0)))))

    @property
    def numbers(self) -> str:
        """The episodes' numbers in words: `0 to 4, 6 to 9`."""
        begins = [k for k in self.episodes if k - 1 not in self.episodes]
        ends = [k for k in self.episodes if k + 1 not in self.episodes]
        return ", ".join(str(a) if a == b else f"{a} to {b}" for a, b in zip(begins, ends, strict=True)) or "none"

    @property
    def cameras(self) -> list[str]:
        """Names of the image and video features, in their order; depth images are left out."""
        return [name for name, of in self.info["features"].items() if _is_colour(name, of)]

    def mapping(self, options: MappingOptions) -> DatasetMapping:
        """How features become ours. Raises ValueError, in one line, where neither names nor options say it."""
        return choose_mapping(self.info["features"], self.cameras, options)

    def episode(self, number: int, mapping: DatasetMapping) -> Demonstration:
        """Read one episode.

        Raises DamagedEpisode, in one line, if it is missing or cannot be read, ValueError if the mapping does not fit.
        """
        if number not in self.episodes:
            raise DamagedEpisode(f"there is no episode {number}; the dataset has {self.numbers}")
        images = [key for key in mapping.cameras.values() if self.info["features"][key]["dtype"] == "image"]
        columns = self._rows(number, [*mapping.keys, "task_index", INTERVENTION, OUTCOME, *images])
        columns |= {key: files for key in images if key not in columns and (files := self._beside(key, number))}
        if lacking := [key for key in (*mapping.keys, *images) if key not in columns]:
            raise DamagedEpisode(f"it has no {lacking[0]}, though meta/info.json names it")
        sizes = {key: size_of(self.info["features"][key]) for key in mapping.keys}
        table = {key: _finite(key, _of_size(key, _numbers(key, columns[key]), sizes[key])) for key in mapping.keys}
        count = len(next(iter(table.values())))
        if not count:
            raise DamagedEpisode("it has no frames")
        if short := [key for key in images if len(columns[key]) != count]:
            raise DamagedEpisode(f"{short[0]} has {len(columns[short[0]])} images for {count} frames")
        pictures = {name: self._pictures(key, number, columns, count) for name, key in mapping.cameras.items()}
        states = mapping.states(table, self._kinematics)
        return Demonstration(
            self._frame_tasks(number, columns, count), self.fps, pictures, states,
            mapping.deltas(table, states, self.fps, self._kinematics), mapping.arm_joints(table, states),
            arms=tuple(mapping.arms), interventions=_interventions(columns), outcome=_outcome(columns),
            action_source=self._action_source(mapping), name=f"episode {number} of {self.folder}",
        )  # fmt: skip

    def _action_source(self, mapping: DatasetMapping) -> Literal["commanded", "measured"]:
        about = [self.info["features"][key].get("info") or {} for arm in mapping.arms.values() for key in arm.keys]
        return "measured" if any(of.get("source") in ("measured", "mixed") for of in about) else "commanded"

    # Files

    @property
    def _version_3(self) -> bool:
        return bool(self.info["codebase_version"] == "v3.0")

    @cached_property
    def _listed(self) -> dict[int, dict[str, Any]]:
        """What meta/ says of each episode, by its number; empty if it lists none."""
        rows: list[dict[str, Any]] = []
        if self._version_3:
            for file in sorted((self.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
                columns = self._read(file)
                rows += [dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)]
        else:
            rows = _json_lines(self.folder / "meta" / "episodes.jsonl", "episode_index")
        return {int(row["episode_index"]): row for row in rows if row.get("episode_index") is not None}

    def _data_files(self) -> list[Path]:
        if self._version_3:
            return sorted((self.folder / "data").glob("chunk-*/file-*.parquet"))
        return [self._path("data_path", number) for number in self.episodes]

    def _path(self, kind: str, number: int, key: str = "") -> Path:
        """A file of an episode: `data_path` or `video_path` of info.json, filled in."""
        chunk = number // int(self.info.get("chunks_size") or CHUNKS_SIZE)
        place = {"episode_chunk": chunk, "episode_index": number, "video_key": key}
        if self._version_3:
            row, about = self._listed.get(number, {}), f"videos/{key}" if key else "data"
            place |= {name: row.get(f"{about}/{name}") for name in ("chunk_index", "file_index")}
            if None in place.values():
                raise DamagedEpisode(f"meta/episodes does not say in which file its {key or 'data'} is")
        try:
            return self.folder / str(self.info[kind]).format(**place)
        except (KeyError, ValueError, IndexError, AttributeError):
            raise DamagedEpisode(f"meta/info.json does not say where it is: its {kind} is missing or unknown") from None

    def _read(
        self, file: Path, names: Sequence[str] | None = None, number: int | None = None
    ) -> dict[str, list[Any]]:  # fmt: skip
        """Those columns of a Parquet file that it has; default: all but statistics. number: of one episode alone."""
        if not file.is_file():
            raise DamagedEpisode(f"{file} is missing")
        parquet = import_parquet()
        try:
            there = [name for name in parquet.read_schema(file).names if not name.startswith("stats/")]
            chosen = [("episode_index", "=", number)] if number is not None and "episode_index" in there else None
            table = parquet.read_table(file, columns=[name for name in names or there if name in there], filters=chosen)
            return dict(table.to_pydict())
        except (ValueError, OSError) as error:
            reason = unread_reason(file, str(error).partition("\n")[0])
            raise DamagedEpisode(f"{file} cannot be read: {reason}") from None

    def _rows(self, number: int, names: Sequence[str]) -> dict[str, list[Any]]:
        if not self._version_3:
            return self._read(self._path("data_path", number), names)
        files, reason = self._data_files(), f"it is in no file of {self.folder / 'data'}"
        if "data/file_index" in self._listed.get(number, {}):
            # LeRobot's converter from 2.1 lists the first episode of a file under the file before: look behind it, too.
            listed = self._path("data_path", number)
            files = [*(file for file in files if file >= listed), *(file for file in files if file < listed)]
        for file in files:
            try:
                columns = self._read(file, names, number)
            except DamagedEpisode as error:
                reason = str(error)
                continue
            if any(columns.values()):
                return columns
        raise DamagedEpisode(reason)

    # Contents

    @cached_property
    def _tasks(self) -> dict[int, str]:
        if not self._version_3:
            rows = _json_lines(self.folder / "meta" / "tasks.jsonl", "task_index", "task")
            return {int(row["task_index"]): str(row["task"]) for row in rows}
        file = self.folder / "meta" / "tasks.parquet"
        columns = self._read(file) if file.is_file() else {}
        named = [name for name in ("task", "__index_level_0__", *columns) if name in columns and name != "task_index"]
        words = columns[named[0]] if named else []
        return {int(number): str(task) for number, task in zip(columns.get("task_index", []), words, strict=True)}

    def _frame_tasks(self, number: int, columns: Mapping[str, list[Any]], count: int) -> list[str]:
        """The task of each frame; of the whole episode where frames do not say it."""
        if "task_index" not in columns or not self._tasks:
            listed = list(self._listed.get(number, {}).get("tasks") or [""])
            return [str(listed[0])] * count
        numbers = _numbers("task_index", columns["task_index"]).ravel().astype(int)
        if unknown := sorted(set(numbers.tolist()) - set(self._tasks)):
            raise DamagedEpisode(f"its task {unknown[0]} is not among the tasks in meta/")
        return [self._tasks[task] for task in numbers]

    def _pictures(
        self, key: str, number: int, columns: Mapping[str, list[Any]], count: int
    ) -> Callable[[], Iterator[np.ndarray]]:
        if key in columns:
            return lambda: (self._decode(cell, key, number, frame) for frame, cell in enumerate(columns[key]))
        file, fps = self._path("video_path", number, key), self.fps
        begin = self._listed[number].get(f"videos/{key}/from_timestamp", 0.0) if self._version_3 else 0.0
        if not file.is_file():
            raise DamagedEpisode(f"{file} is missing")
        return lambda: read_video(file, count, begin, fps)

    def _decode(self, cell: Any, key: str, number: int, frame: int) -> np.ndarray:
        """An image of a table, which holds it or names a file, or the file itself."""
        cell = cell if isinstance(cell, dict) else {"path": cell} if isinstance(cell, str) else {"bytes": cell}
        data, named = cell.get("bytes"), str(cell.get("path"))
        if not data:  # of a dataset that was moved, the file in its usual place
            places = (self.folder / named, *self._image_files(key, number, frame))
            data = next((file.read_bytes() for file in places if file.is_file()), b"")
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR) if data else None
        if pixels is None:
            raise DamagedEpisode(f"the image {named} {'cannot be decoded' if data else 'is missing'}")
        return np.ascontiguousarray(pixels[:, :, ::-1])

    def _image_files(self, key: str, number: int, frame: int) -> list[Path]:
        return [self.folder / form.format(key=key, episode=number, frame=frame) for form in IMAGES]

    def _beside(self, key: str, number: int) -> list[str]:
        """The image files of an episode whose table does not have them, frame by frame."""
        folders = [file.parent for file in self._image_files(key, number, 0)]
        return [str(file.relative_to(self.folder)) for folder in folders for file in sorted(folder.glob("*.png"))]


def _no_dataset(folder: Path) -> str:
    """Why a folder is no dataset, and which may be meant, in one line."""
    if not folder.exists():
        return f"there is no {folder}; give the folder of a LeRobot dataset"
    inner = [place.parents[1] for form in ("*", "*/*") for place in sorted(folder.glob(f"{form}/meta/info.json"))]
    if inner:
        return f"{folder} is no LeRobot dataset, but holds {len(inner)}; give {inner[-1]}"
    bag = any(any(folder.glob(form)) for form in ("*.mcap", "*.db3"))
    return f"{folder} is no LeRobot dataset: {'it is a bag, for to-lerobot' if bag else 'it has no meta/info.json'}"


def _is_colour(name: str, feature: Mapping[str, Any]) -> bool:
    about = {**(feature.get("video_info") or {}), **(feature.get("info") or {})}
    return feature.get("dtype") in ("image", "video") and not about.get("video.is_depth_map") and "depth" not in name


def _interventions(columns: Mapping[str, list[Any]]) -> np.ndarray | None:
    return np.array(columns[INTERVENTION], bool).ravel() if columns.get(INTERVENTION) else None


def _outcome(columns: Mapping[str, list[Any]]) -> Literal["", "success", "failure"]:
    given = columns.get(OUTCOME) or [""]
    return given[0] if given[0] in ("success", "failure") else ""


def _numbers(key: str, rows: list[Any]) -> np.ndarray:
    """A column as float32 [n] or [n, D]. Raises DamagedEpisode for rows that are empty or of different lengths."""
    try:
        return np.array(rows, np.float32)
    except (ValueError, TypeError):
        raise DamagedEpisode(f"{key} has rows that are empty or of different lengths") from None


def _of_size(key: str, values: np.ndarray, size: int) -> np.ndarray:
    """The same values. Raises DamagedEpisode where a frame has another number of them than `size`."""
    if len(values) and values.size != size * len(values):
        raise DamagedEpisode(f"{key} has {values.size // len(values)} values a frame, but {size} in meta/info.json")
    return values


def _finite(key: str, values: np.ndarray) -> np.ndarray:
    """The same values. Raises DamagedEpisode, with their number, for those that are not finite."""
    if bad := int((~np.isfinite(values)).reshape(len(values), -1).any(axis=1).sum()) if len(values) else 0:
        raise DamagedEpisode(f"{key} is not a finite number in {bad} of {len(values)} frames")
    return values


def _json_lines(file: Path, *keys: str) -> list[dict[str, Any]]:
    """The rows of a .jsonl file; none if there is no such file. Raises ValueError for rows that lack one of `keys`."""
    try:
        rows = [json.loads(line) for line in file.read_text().splitlines() if line.strip()] if file.is_file() else []
        if all(row[key] is not None for row in rows for key in keys):
            return rows
    except (ValueError, KeyError, TypeError):
        pass
    raise ValueError(f"{file} is damaged; download it again")
