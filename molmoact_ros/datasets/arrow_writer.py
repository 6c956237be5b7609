"""Writes labelled episodes as MolmoAct's released fine-tuning code loads them: by `datasets.load_from_disk`."""

from __future__ import annotations

import json
import shutil
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import cv2
import numpy as np

from molmoact_ros.datasets.episode import DamagedEpisode, Demonstration
from molmoact_ros.datasets.labelled_episode import FrameTexts, LabelledEpisode, frame_texts
from molmoact_ros.datasets.lerobot_format import INTERVENTION, OUTCOME, image_keys
from molmoact_ros.datasets.staging import built_beside
from molmoact_ros.reasoning.action_convention import ActionConvention, GripperPolarity
from molmoact_ros.reasoning.action_tokens import NormStats

STATISTICS: Final = "dataset_statistics.json"
RUN: Final = "run.json"
TEXTS: Final = ("depth", "trace", "processed_action", "language_instruction", "joint_motion")
_NUMBERS: Final = {
    "episode_index": "int64", "frame_index": "int64", "timestamp": "float32", INTERVENTION: "bool", OUTCOME: "string"
}  # fmt: skip
"""Columns beside images and texts, and their types. Of vectors, datasets before version 4 cannot read what later ones
write, and the released code needs one before."""

_BATCH: Final = 100
"""Rows of the table in memory."""


@dataclass
class ArrowReport:
    """What was written. dropped: frames without labels, by the reason. left_out: why, by the episode's name."""

    episodes: int = 0
    frames: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: dict[str, str] = field(default_factory=dict)


def convention_of(demonstration: Demonstration) -> ActionConvention:
    """What the actions of our demonstrations mean, in training answers as in the demonstrations."""
    dt = 1 / demonstration.fps
    return ActionConvention(
        robot="franka", space="delta_ee_pose", frame="base", rotation="roll_pitch_yaw",
        gripper=GripperPolarity(open=1, closed=0), dt=dt if 0.01 <= dt <= 1 else None,
        cameras=tuple(demonstration.pictures),
    )  # fmt: skip


def write_arrow(folder: Path, key: str, statistics: NormStats, episodes: Iterable[LabelledEpisode]) -> ArrowReport:
    """Write a dataset; one episode at a time is in memory.

    key: un-normalisation key that its fine-tunes get. statistics: of the actions of all episodes, which are normalised
    by them. A frame that has no label is dropped, and an episode whose images cannot be read is left out whole. Beside
    the tables are `dataset_statistics.json`, and `run.json` with what the numbers mean. The folder appears when the
    dataset is complete. Raises FileExistsError if it exists, ValueError if no frame has labels or the episodes differ
    in arms, cameras or rates, RuntimeError without Hugging Face's datasets.
    """
    library = import_datasets()
    if folder.exists():
        raise FileExistsError(f"{folder} exists already; give a new folder for the dataset")
    report, first, states = ArrowReport(), None, list[np.ndarray]()
    with built_beside(folder) as unfinished, _Table(library, unfinished / ".rows") as table:
        for episode in episodes:
            found = episode.demonstration
            first = first or found
            if (found.arms, list(found.pictures), found.fps) != (first.arms, list(first.pictures), first.fps):
                raise ValueError("the episodes differ in their arms, cameras or rates; make a dataset of each")
            try:
                rows = list(_rows(episode, statistics, report))
            except DamagedEpisode as error:
                report.left_out[found.name] = str(error)
                continue
            if rows:
                table.write(rows, image_keys(len(found.pictures)))
                states.append(found.states)
                report.episodes, report.frames = report.episodes + 1, report.frames + len(rows)
        if first is None or not states:
            why = next(iter([*report.left_out.values(), *report.dropped]), "there are no episodes")
            raise ValueError(f"there is nothing to write: {why}")
        table.save(unfinished)
        about = {
            "action": statistics.model_dump(), "proprio": _proprio(np.concatenate(states)),
            "num_transitions": report.frames, "num_trajectories": report.episodes,
        }  # fmt: skip
        (unfinished / STATISTICS).write_text(json.dumps({key: about}, indent=2))
        meaning = convention_of(first).model_dump(mode="json")
        (unfinished / RUN).write_text(json.dumps({"conventions": {key: meaning}}, indent=1))
    return report


class _Table:
    """A table on disk that grows by rows and is then saved as `load_from_disk` reads it."""

    def __init__(self, library: Any, folder: Path) -> None:
        """folder: for the table while it grows; it is removed at the end."""
        self._library, self._folder = library, folder
        self._writer: Any = None

    def __enter__(self) -> _Table:
        self._folder.mkdir()
        return self

    def __exit__(self, *_: object) -> None:
        if self._writer is not None:
            self._writer.close()
        shutil.rmtree(self._folder)

    @property
    def _file(self) -> Path:
        return self._folder / "rows.arrow"

    def write(self, rows: list[dict[str, Any]], images: list[str]) -> None:
        """Add the rows of an episode. images: the columns that are images."""
        library = self._library
        if self._writer is None:
            from datasets.arrow_writer import ArrowWriter

            kinds = {name: library.Image() for name in images} | {name: library.Value("string") for name in TEXTS}
            kinds |= {name: library.Value(kind) for name, kind in _NUMBERS.items()}
            self._writer = ArrowWriter(path=str(self._file), features=library.Features(kinds), writer_batch_size=_BATCH)
        for row in rows:
            self._writer.write(row)

    def save(self, folder: Path) -> None:
        """Write the dataset into its folder."""
        self._writer.finalize()
        self._library.Dataset.from_file(str(self._file)).save_to_disk(str(folder))


def _rows(episode: LabelledEpisode, statistics: NormStats, report: ArrowReport) -> Iterator[dict[str, Any]]:
    """The rows of the frames that have labels; the report counts the others. Raises DamagedEpisode like its images."""
    d = episode.demonstration
    images = zip(*(read() for read in d.pictures.values()), strict=False)
    keys, count = image_keys(len(d.pictures)), 0
    for shown, texts in zip(images, frame_texts(episode, statistics), strict=False):
        count += 1
        if not isinstance(texts, FrameTexts):
            report.dropped[texts] += 1
            continue
        k = texts.frame
        yield {
            **{key: _png(image, k) for key, image in zip(keys, shown, strict=True)},
            **{name: getattr(texts, name) for name in TEXTS},
            "episode_index": report.episodes, "frame_index": k, "timestamp": k / d.fps,
            INTERVENTION: None if d.interventions is None else bool(d.interventions[k]), OUTCOME: d.outcome,
        }  # fmt: skip
    if count != len(d.states):
        raise DamagedEpisode(f"it has {count} images for {len(d.states)} frames")


def _png(image: np.ndarray, frame: int) -> dict[str, Any]:
    encoded = cv2.imencode(".png", image[:, :, ::-1])[1].tobytes()
    return {"bytes": encoded, "path": f"frame_{frame:06d}.png"}


def _proprio(states: np.ndarray) -> dict[str, Any]:
    """Statistics of the states [n, D], in the form of those of the actions; the model does not use them."""
    return NormStats.from_actions(states).model_dump(exclude={"mask"})


def import_datasets() -> Any:
    """Import Hugging Face's datasets. Raises RuntimeError, with how to install it, if it is missing."""
    try:
        import datasets
    except ImportError:
        raise RuntimeError("this layout needs Hugging Face's datasets: pip install 'molmoact_ros[arrow]'") from None
    datasets.disable_progress_bars()
    return datasets
