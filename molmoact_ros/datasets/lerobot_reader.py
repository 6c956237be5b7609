"""Reads episodes of a LeRobot dataset."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.lerobot_format import CHUNKS_SIZE, import_parquet


@dataclass(frozen=True)
class Dataset:
    """A LeRobot dataset of version 2.0, 2.1 or 3.0: its folder and the contents of its meta/info.json.

    Open one with `open`:

        dataset = Dataset.open(Path("dataset"))
        demonstration = dataset.episode(0)
        print(demonstration.task, demonstration.actions.shape)  # [n, 7]
    """

    folder: Path
    info: dict[str, Any]

    @staticmethod
    def open(folder: Path) -> Dataset:
        """Open a dataset. Raises FileNotFoundError if there is none, ValueError for an unsupported version."""
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
        """Number of episodes."""
        return int(self.info["total_episodes"])

    @property
    def cameras(self) -> list[str]:
        """Names of the image and video features, in their order."""
        features = self.info["features"]
        return [name for name, feature in features.items() if feature["dtype"] in ("image", "video")]

    def episode(self, number: int) -> Demonstration:
        """Read one episode. Raises ValueError, in one line, if it is missing or its features do not fit MolmoAct."""
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
        import_table = import_parquet()
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
            columns = import_parquet()(self.folder / "meta" / "tasks.parquet").to_pydict()
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
        """The video file of an episode, and the index of the episode's first frame in it."""
        if self.info["codebase_version"] != "v3.0":
            return self.folder / self.info["video_path"].format(video_key=name, **self._place(number)), 0
        for file in sorted((self.folder / "meta" / "episodes").glob("chunk-*/file-*.parquet")):
            columns = import_parquet()(file).to_pydict()
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
