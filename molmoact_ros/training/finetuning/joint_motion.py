"""Reads demonstrations in joints out of labelled data: what a MolmoAct 2 learns."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np

from molmoact_ros.training.finetuning.arrow_data import ArrowRows
from molmoact_ros.training.finetuning.samples import DataError, MotionSample

MOTION = "joint_motion"


class JointRows(ArrowRows[MotionSample]):
    """Labelled data in a folder with the column `joint_motion`; depth and traces are not needed.

    A chunk has the actions of a frame and of those after it; behind an episode's end the last one is repeated.

        data = JointRows(Path("cup-in-sink"), chunk=15)
        data.sample(0).actions  # float64 [15, 8]
    """

    TEXTS = ("language_instruction", MOTION)

    def __init__(self, folder: Path, chunk: int) -> None:
        """chunk: actions of a sample. Raises DataError that names the file or column that does not fit."""
        self.chunk = chunk
        super().__init__(folder)

    @property
    def motion(self) -> tuple[np.ndarray, np.ndarray]:
        """States and actions of all samples, float64 [n, D] each, in the order and units of `MotionSample`."""
        both = np.array([self._moved[int(row)] for row in self._rows])
        return both[:, 0], both[:, 1]

    def sample(self, row: int) -> MotionSample:
        """Decode one sample. Raises DataError where an image cannot be decoded."""
        at = int(self._rows[row])
        return MotionSample(self._images(at), *self._labels(at))

    def _prepare(self) -> None:
        """Every row's state and action, float64 [2, D], and where each frame of each episode is."""
        texts = self._table[MOTION].to_pylist()
        self._moved = {row: _parsed(text) for row, text in enumerate(texts) if text}
        if not self._moved:
            raise DataError(f"{self.folder} holds no joints, which a MolmoAct 2 learns; record them with the episodes")
        if len({moved.shape for moved in self._moved.values()}) > 1:
            raise DataError(f"{self.folder}: {MOTION} is of one arm in some rows and of two in others")
        self._episode = self._column("episode_index")
        named = "frame_index" in self._table.column_names
        self._frame = self._column("frame_index") if named else np.arange(len(self._episode))
        self._row = {(int(e), int(f)): row for row, (e, f) in enumerate(zip(self._episode, self._frame, strict=True))}
        self._last = {int(e): int(self._frame[self._episode == e].max()) for e in np.unique(self._episode)}

    def _labels(self, row: int) -> tuple[str, np.ndarray, np.ndarray]:
        """Instruction, state [D] and actions [chunk, D]. Raises DataError."""
        if row not in self._moved:
            raise DataError("no joints")
        episode = int(self._episode[row])
        frames = np.minimum(self._frame[row] + np.arange(self.chunk), self._last[episode])
        rows = [self._row.get((episode, int(frame))) for frame in frames]
        known = [self._moved[each][1] for each in rows if each in self._moved]
        if len(known) < self.chunk:
            raise DataError("frames missing within the chunk")
        return self._table["language_instruction"][row].as_py(), self._moved[row][0], np.stack(known)


def _parsed(text: str) -> np.ndarray:
    """State and action float64 [2, D]. Raises DataError."""
    try:
        found = json.loads(text)
        moved = np.array([found["state"], found["action"]], np.float64)
    except (ValueError, KeyError, TypeError):
        raise DataError(f"malformed {MOTION} {text[:40]!r}; label the data set again") from None
    if moved.ndim != 2 or moved.shape[1] not in (8, 16) or not np.isfinite(moved).all():
        raise DataError(f"{MOTION} has shape {list(moved.shape)}, expected 8 finite values an arm; label it again")
    return moved
