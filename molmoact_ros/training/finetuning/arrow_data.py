"""Reads labelled data in the Arrow layout that Ai2's fine-tuning code loads (`datasets.load_from_disk`).

A folder holds `state.json`, which names the Arrow streams, and `dataset_statistics.json`. Columns: an image for each
camera (`image` first), `language_instruction`, `depth`, `trace` and `processed_action`, all of them text, and
`episode_index`. Rows with labels that cannot be read are left out and counted; Ai2's code trains on them.
"""

from __future__ import annotations

import hashlib
import json
import re
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, ClassVar, Final, Generic, TypeVar

import cv2
import numpy as np

from molmoact_ros.engine.model.config import DatasetStats
from molmoact_ros.reasoning.action_tokens import N_BINS, bin_from_symbol, values_from_bins
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START, DEPTH_TOKENS, GRID
from molmoact_ros.reasoning.trace import checked_trace
from molmoact_ros.training.finetuning.samples import DataError, TrainingSample

STATE, STATISTICS, RUN = "state.json", "dataset_statistics.json", "run.json"
FRONT: Final = "image"
Sample = TypeVar("Sample")
_CODES: Final = {token: code for code, token in enumerate(DEPTH_TOKENS)}


class ArrowRows(ABC, Generic[Sample]):
    """Rows of a folder that can be trained on; they are memory-mapped, and images are decoded when they are needed.

    TEXTS: columns of text beside the images.
    """

    TEXTS: ClassVar[tuple[str, ...]]

    def __init__(self, folder: Path) -> None:
        """Read all labels. Raises DataError that names the file or column that does not fit."""
        self.folder, self._table = folder, _read_table(folder)
        self.cameras = _cameras(self._table)
        if lacking := [name for name in self.TEXTS if name not in self._table.column_names]:
            raise DataError(f"{folder} has no column {lacking[0]!r}; label it first: molmoact-ros label {folder}")
        self.name, self._described = _described(folder)
        self.run: Mapping[str, Any] = _json(folder / RUN) if (folder / RUN).is_file() else {}
        self._prepare()
        self._rows, reasons = self._usable()
        if not len(self._rows):
            raise DataError(f"{folder} has no row to train on: {_counted(reasons)}; label it again")
        self.episodes = self._column("episode_index")[self._rows]
        lost = self._table.num_rows - len(self._rows)
        self.notes: Sequence[str] = [f"{lost} of {self._table.num_rows} rows left out: {_counted(reasons)}"] * bool(
            lost
        )

    def __len__(self) -> int:
        return len(self._rows)

    @abstractmethod
    def sample(self, row: int) -> Sample:
        """Decode one sample. Raises DataError where an image cannot be decoded."""

    @abstractmethod
    def _prepare(self) -> None:
        """Read what all rows need."""

    @abstractmethod
    def _labels(self, row: int) -> Any:
        """The labels of a row of the table. Raises ValueError, KeyError, TypeError where they are unusable."""

    @cached_property
    def identity(self) -> Mapping[str, Any]:
        """Path, digest of the labels and statistics, and how many samples and episodes."""
        total = hashlib.sha256((self.folder / STATISTICS).read_bytes())
        for name in self.TEXTS:
            for text in self._table[name].to_pylist():
                total.update(str(text).encode())
        return {
            "path": str(self.folder), "digest": total.hexdigest()[:12], "samples": len(self),
            "episodes": len(np.unique(self.episodes)),
        }  # fmt: skip

    def _column(self, name: str) -> np.ndarray:
        if name not in self._table.column_names:
            return np.zeros(self._table.num_rows, np.int64)
        return np.asarray(self._table[name].to_numpy(), np.int64)

    def _usable(self) -> tuple[np.ndarray, Counter[str]]:
        rows, reasons = [], Counter[str]()
        for row in range(self._table.num_rows):
            try:
                self._labels(row)
                rows.append(row)
            except (RefusedStep, ValueError, KeyError, TypeError) as error:
                reasons[error.args[0] if isinstance(error, DataError) else "malformed label"] += 1
        return np.array(rows, np.int64), reasons

    def _images(self, row: int) -> tuple[np.ndarray, ...]:
        return tuple(self._image(name, row) for name in self.cameras)

    def _image(self, column: str, row: int) -> np.ndarray:
        image = cv2.imdecode(np.frombuffer(self._table[column][row].as_py()["bytes"], np.uint8), cv2.IMREAD_COLOR)
        if image is None:
            raise DataError(f"{self.folder}: row {row} of {column} is no image; write the data set again")
        return image[..., ::-1]


class ArrowData(ArrowRows[TrainingSample]):
    """Labelled data in a folder for a MolmoAct.

    data = ArrowData(Path("cup-in-sink"))
    data.sample(0).instruction
    """

    TEXTS = ("language_instruction", "depth", "trace", "processed_action")

    def sample(self, row: int) -> TrainingSample:
        """Decode one sample. Raises DataError where an image cannot be decoded."""
        at = int(self._rows[row])
        return TrainingSample(self._images(at), *self._labels(at))

    def _prepare(self) -> None:
        try:
            self.statistics = DatasetStats.model_validate(self._described)
        except ValueError as error:
            path = self.folder / STATISTICS
            raise DataError(f"{path}: {self.name}: {str(error).splitlines()[-1].strip()}") from None

    def _labels(self, row: int) -> tuple[str, np.ndarray | None, np.ndarray | None, np.ndarray]:
        """Instruction, depth codes [10, 10], trace [n, 2], actions [N, D]. Raises ValueError, KeyError, TypeError."""
        instruction, depth, trace, action = (self._table[name][row].as_py() for name in self.TEXTS)
        codes, points = _depth_codes(depth or ""), _trace(trace or "[]")
        if points is None or (codes is None and len(points) < 2):
            raise DataError("no trace" if points is None else "neither depth nor a trace that can be drawn")
        chunk = json.loads(action or "{}").get("chunked_action")
        if not chunk:
            raise DataError("no actions")
        values = _actions(chunk)
        if values.shape[1] != self.statistics.action.dimensions:
            raise DataError(f"actions of {values.shape[1]} values, statistics of {self.statistics.action.dimensions}")
        return instruction, codes, points, values


def _read_table(folder: Path) -> Any:
    try:
        import pyarrow as pa
    except ImportError as error:
        raise DataError(f"{error}; fine-tuning needs: pip install 'molmoact_ros[finetune]'") from None
    if not (folder / STATE).is_file():
        raise DataError(f"{folder} has no {STATE}; give the folder that `molmoact-ros label` wrote")
    names = [entry["filename"] for entry in _json(folder / STATE)["_data_files"]]
    try:
        return pa.concat_tables([pa.ipc.open_stream(pa.memory_map(str(folder / name))).read_all() for name in names])
    except (pa.ArrowInvalid, OSError) as error:
        raise DataError(f"{folder}: {str(error).splitlines()[0]}; copy the data set again") from None


def _cameras(table: Any) -> list[str]:
    """Columns of images, the front camera's first."""
    import pyarrow as pa

    names = [
        field.name
        for field in table.schema
        if pa.types.is_struct(field.type) and {"bytes", "path"} <= {part.name for part in field.type}
    ]
    if FRONT not in names:
        raise DataError(f"the data set has no column {FRONT!r} with images; write it again, the front camera first")
    return [FRONT, *(name for name in names if name != FRONT)]


def _described(folder: Path) -> tuple[str, Any]:
    """The key of a data set, and what dataset_statistics.json says of it."""
    path = folder / STATISTICS
    if not path.is_file():
        raise DataError(f"{path} is missing; label the data set again")
    found = _json(path)
    name = folder.resolve().name if folder.resolve().name in found else next(iter(found), "")
    if not name or (len(found) > 1 and name != folder.resolve().name):
        raise DataError(f"{path} has the keys {', '.join(found) or '(none)'}; name the folder as the one that is meant")
    return name, found[name]


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return found
    except ValueError as error:
        raise DataError(f"{path}: {error}; copy the data set again") from None


def _depth_codes(text: str) -> np.ndarray | None:
    if not text:
        return None
    tokens = re.findall(r"<DEPTH_\w+>", text)
    if tokens[:1] != [DEPTH_START] or tokens[-1:] != [DEPTH_END] or len(tokens) != GRID[0] * GRID[1] + 2:
        raise DataError("depth tokens that are not 100")
    return np.array([_CODES[token] for token in tokens[1:-1]]).reshape(GRID)


def _trace(text: str) -> np.ndarray | None:
    points = json.loads(text)
    return checked_trace(np.array(points)) if points else None


def _actions(text: str) -> np.ndarray:
    """Normalised values [N, D] of `[[s, s, ...], ...]`, or of one action `[s, s, ...]`."""
    rows = [row.split(", ") for row in text.strip("[]").split("], [")]
    bins = np.array([[bin_from_symbol(symbol) for symbol in row] for row in rows])
    # The last symbol encodes +1 alone but decodes to the last bin's centre: as a label it is +1 again.
    return np.where(bins == N_BINS - 1, 1.0, values_from_bins(bins))


def _counted(reasons: Counter[str]) -> str:
    return ", ".join(f"{count} with {reason}" for reason, count in reasons.most_common())
