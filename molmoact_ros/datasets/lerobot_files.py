"""The files of a LeRobot dataset that is written, episode by episode, in one of its versions."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from molmoact_ros.datasets.lerobot_format import (
    CHUNKS_SIZE,
    DATA,
    DATA_MB,
    EPISODES,
    TASKS,
    VIDEO,
    Version,
    file_place,
    import_parquet,
    import_pyarrow,
)
from molmoact_ros.datasets.statistics import Statistics

Features = Mapping[str, Mapping[str, Any]]
"""The features of meta/info.json."""


@dataclass(frozen=True)
class EncodedEpisode:
    """An episode as it is written.

    number: its index. tasks: its different instructions. columns: values [n] or [n, D] of each feature that is no
    image. images: PNG of each frame, by feature. stats: of each feature. seconds: its length in a video.
    """

    number: int
    tasks: Sequence[str]
    columns: Mapping[str, np.ndarray | list[str]]
    images: Mapping[str, Sequence[bytes]]
    stats: Mapping[str, Statistics]
    seconds: float

    @property
    def length(self) -> int:
        """Number of frames."""
        return len(self.columns["index"])


class DatasetFiles(ABC):
    """Writes into a folder: the tables of episodes by `add_episode`, then once `finish`."""

    version: Version

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        (folder / "meta").mkdir(parents=True)

    @abstractmethod
    def video_path(self, number: int, key: str) -> Path:
        """The video file of an episode's camera."""

    @abstractmethod
    def add_episode(self, episode: EncodedEpisode, features: Features) -> None:
        """Write an episode's tables; its videos have been written."""

    @abstractmethod
    def finish(self, info: dict[str, Any], tasks: Sequence[str], stats: Mapping[str, Statistics]) -> None:
        """Write what is known of all episodes. info: contents of meta/info.json but for the layout's own fields."""

    def _write_info(self, info: dict[str, Any]) -> None:
        (self.folder / "meta" / "info.json").write_text(json.dumps(info, indent=4))

    def _write_tasks(self, tasks: Sequence[str]) -> None:
        """As text in both versions: 3.0 has them in a table too, which neither people nor readers of 2.x read."""
        for number, task in enumerate(tasks):
            self._append("tasks.jsonl", {"task_index": number, "task": task})

    def _append(self, name: str, row: dict[str, Any]) -> None:
        with (self.folder / "meta" / name).open("a") as out:
            out.write(json.dumps(row) + "\n")


class FilesVersion21(DatasetFiles):
    """Version 2.1: a table and a video of each episode, and lists in JSON lines."""

    version = "2.1"

    def video_path(self, number: int, key: str) -> Path:
        """See DatasetFiles."""
        return self.folder / VIDEO[self.version].format(video_key=key, **self._place(number))

    def _place(self, number: int) -> dict[str, int]:
        return {"episode_chunk": number // CHUNKS_SIZE, "episode_index": number}

    def add_episode(self, episode: EncodedEpisode, features: Features) -> None:
        """See DatasetFiles."""
        file = self.folder / DATA[self.version].format(**self._place(episode.number))
        file.parent.mkdir(parents=True, exist_ok=True)
        import_parquet().write_table(frame_table(episode, features), file)
        row = {"episode_index": episode.number, "tasks": list(episode.tasks), "length": episode.length}
        self._append("episodes.jsonl", row)
        self._append("episodes_stats.jsonl", {"episode_index": episode.number, "stats": episode.stats})

    def finish(self, info: dict[str, Any], tasks: Sequence[str], stats: Mapping[str, Statistics]) -> None:
        """See DatasetFiles."""
        self._write_tasks(tasks)
        videos = sum(feature["dtype"] == "video" for feature in info["features"].values())
        count = info["total_episodes"]
        self._write_info(
            {
                "codebase_version": "v2.1", **info, "total_videos": count * videos,
                "total_chunks": -(-count // CHUNKS_SIZE), "data_path": DATA[self.version],
                "video_path": VIDEO[self.version] if videos else None,
            }
        )  # fmt: skip


class FilesVersion30(DatasetFiles):
    """Version 3.0: several episodes in a table, lists in tables; here each episode has videos of its own."""

    version = "3.0"

    def __init__(self, folder: Path, data_mb: float = DATA_MB) -> None:
        """data_mb: size of a table from which on another file begins, MB."""
        super().__init__(folder)
        self._data_mb = data_mb
        self._rows: list[dict[str, Any]] = []
        self._writer: Any = None
        self._file, self._bytes = -1, 0

    def video_path(self, number: int, key: str) -> Path:
        """See DatasetFiles."""
        return self.folder / VIDEO[self.version].format(video_key=key, **file_place(number))

    def add_episode(self, episode: EncodedEpisode, features: Features) -> None:
        """See DatasetFiles."""
        table = frame_table(episode, features)
        self._next_file(table)
        self._writer.write_table(table)
        self._bytes += table.nbytes
        first = int(self._rows[-1]["dataset_to_index"]) if self._rows else 0
        row: dict[str, Any] = {
            "episode_index": episode.number, "tasks": list(episode.tasks), "length": episode.length,
            **_located("data", self._file), "dataset_from_index": first, "dataset_to_index": first + episode.length,
        }  # fmt: skip
        for key in (key for key, feature in features.items() if feature["dtype"] == "video"):
            row |= _located(f"videos/{key}", episode.number)
            row |= {f"videos/{key}/from_timestamp": 0.0, f"videos/{key}/to_timestamp": episode.seconds}
        row |= {f"stats/{key}/{name}": value for key, of in episode.stats.items() for name, value in of.items()}
        self._rows.append(row | _located("meta/episodes", 0))

    def _next_file(self, table: Any) -> None:
        """Begin another file where the table would make the present one too large."""
        if self._writer is not None and self._bytes + table.nbytes <= self._data_mb * 2**20:
            return
        self.close()
        self._file, self._bytes = self._file + 1, 0
        file = self.folder / DATA[self.version].format(**file_place(self._file))
        file.parent.mkdir(parents=True, exist_ok=True)
        self._writer = import_parquet().ParquetWriter(file, table.schema)

    def close(self) -> None:
        """Complete the table in progress."""
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def finish(self, info: dict[str, Any], tasks: Sequence[str], stats: Mapping[str, Statistics]) -> None:
        """See DatasetFiles."""
        self.close()
        arrow, parquet, meta = import_pyarrow(), import_parquet(), self.folder / "meta"
        episodes = self.folder / EPISODES.format(**file_place(0))
        episodes.parent.mkdir(parents=True)
        parquet.write_table(arrow.Table.from_pylist(self._rows), episodes)
        # pandas' index is a column that its own note in the schema names.
        named = {
            "index_columns": ["task"], "column_indexes": [], "pandas_version": "2.0.0",
            "columns": [_pandas_column("task_index", "int64"), _pandas_column("task", "unicode")],
        }  # fmt: skip
        table = arrow.table({"task_index": arrow.array(range(len(tasks)), arrow.int64()), "task": list(tasks)})
        parquet.write_table(table.replace_schema_metadata({"pandas": json.dumps(named)}), self.folder / TASKS)
        (meta / "stats.json").write_text(json.dumps(stats, indent=4))
        self._write_tasks(tasks)
        videos = any(feature["dtype"] == "video" for feature in info["features"].values())
        self._write_info(
            {
                "codebase_version": "v3.0", **info, "data_files_size_in_mb": DATA_MB, "video_files_size_in_mb": 200,
                "data_path": DATA[self.version], "video_path": VIDEO[self.version] if videos else None,
            }
        )  # fmt: skip


def _pandas_column(name: str, kind: str) -> dict[str, Any]:
    numpy_type = "object" if kind == "unicode" else kind
    return {"name": name, "field_name": name, "pandas_type": kind, "numpy_type": numpy_type, "metadata": None}


def _located(kind: str, number: int) -> dict[str, int]:
    """The columns of an episode that say in which file its `kind` is."""
    return {f"{kind}/{name}": place for name, place in file_place(number).items()}


def frame_table(episode: EncodedEpisode, features: Features) -> Any:
    """An episode's frames as a pyarrow table, with the hints that Hugging Face's datasets read."""
    arrow = import_pyarrow()
    data, hints = {}, {}
    for key, encoded in episode.images.items():
        rows = [{"bytes": png, "path": f"frame_{k:06d}.png"} for k, png in enumerate(encoded)]
        data[key] = arrow.array(rows, arrow.struct([("bytes", arrow.binary()), ("path", arrow.string())]))
        hints[key] = {"_type": "Image"}
    for name, values in episode.columns.items():
        kind = getattr(arrow, "bool_" if features[name]["dtype"] == "bool" else features[name]["dtype"])()
        hint: dict[str, Any] = {"dtype": features[name]["dtype"], "_type": "Value"}
        if isinstance(values, np.ndarray) and values.ndim == 2:
            width = values.shape[1]
            data[name] = arrow.array(list(values), arrow.list_(kind, width))
            hint = {"feature": hint, "length": width, "_type": "Sequence"}
        else:
            data[name] = arrow.array(values, kind)
        hints[name] = hint
    about = {"huggingface": json.dumps({"info": {"features": hints}})}
    return arrow.table(data).replace_schema_metadata(about)
