"""Labelled samples, and the folder that they are read from: the Arrow layout of Ai2's fine-tuning code."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pyarrow as pa
import pytest

from molmoact_ros.engine.model.config import DatasetStats
from molmoact_ros.reasoning.action_tokens import ACTION_SYMBOLS, NormStats, bins_from_values
from molmoact_ros.reasoning.depth_tokens import DEPTH_END, DEPTH_START
from molmoact_ros.training.finetuning.samples import TrainingSample

STATISTICS = NormStats(q01=(-0.02,) * 6 + (0.0,), q99=(0.02,) * 6 + (1.0,), mask=(True,) * 6 + (False,))
INSTRUCTIONS = ("pick up the red cube", "put the blue ball in the bowl")
Size = tuple[int, int]


@dataclass
class Labelled:
    """Samples in memory, as `TrainingData`."""

    samples: Sequence[TrainingSample]
    name: str = "lab"
    statistics: DatasetStats = field(default_factory=lambda: DatasetStats(action=STATISTICS))
    run: dict[str, Any] = field(default_factory=dict)
    notes: Sequence[str] = ()
    identity: dict[str, Any] = field(default_factory=lambda: {"digest": "0"})

    def __post_init__(self) -> None:
        self.episodes = np.arange(len(self.samples)) // 4

    def __len__(self) -> int:
        return len(self.samples)

    def sample(self, row: int) -> TrainingSample:
        return self.samples[row]


def make_samples(count: int, size: Size = (96, 128), cameras: int = 2, seed: int = 0) -> list[TrainingSample]:
    """Random samples of one camera size (rows, columns); the gripper is open and closed in turn."""
    rng = np.random.default_rng(seed)
    found = []
    for number in range(count):
        actions = rng.uniform(-1, 1, (8, 7)).round(3)
        actions[:, 6] = number % 2
        small = [rng.integers(0, 256, (6, 8, 3), np.uint8) for _ in range(cameras)]
        images = tuple(np.asarray(cv2.resize(image, size[::-1], interpolation=cv2.INTER_CUBIC)) for image in small)
        codes, trace = rng.integers(0, 128, (10, 10)), rng.integers(0, 256, (2 + number % 4, 2))
        found.append(TrainingSample(images, INSTRUCTIONS[number % 2], codes, trace, actions))
    return found


def write_arrow(folder: Path, samples: Sequence[TrainingSample], **columns: Sequence[Any]) -> Path:
    """Write samples as `datasets.save_to_disk` does, four to an episode; columns: given ones replace made ones."""
    folder.mkdir()
    cameras = ("image", "wrist_image", "other_image")[: len(samples[0].images)]
    table: dict[str, Any] = {
        name: pa.array(
            [{"bytes": _png(sample.images[at]), "path": None} for sample in samples],
            pa.struct([("bytes", pa.binary()), ("path", pa.string())]),
        )
        for at, name in enumerate(cameras)
    }
    table |= {
        "language_instruction": [sample.instruction for sample in samples],
        "depth": [_depth(sample) for sample in samples],
        "trace": [str([] if sample.trace is None else sample.trace.tolist()) for sample in samples],
        "processed_action": [json.dumps({"chunked_action": _chunk(sample)}) for sample in samples],
        "episode_index": [row // 4 for row in range(len(samples))],
    }
    table |= columns
    whole = pa.table({name: values for name, values in table.items() if values is not None})
    with (
        pa.OSFile(str(folder / "data-00000-of-00001.arrow"), "wb") as file,
        pa.ipc.new_stream(file, whole.schema) as out,
    ):
        out.write_table(whole)
    (folder / "state.json").write_text(json.dumps({"_data_files": [{"filename": "data-00000-of-00001.arrow"}]}))
    stats = {folder.name: {"action": STATISTICS.model_dump(), "num_transitions": len(samples)}}
    (folder / "dataset_statistics.json").write_text(json.dumps(stats))
    return folder


def _png(image: np.ndarray) -> bytes:
    return bytes(cv2.imencode(".png", image[..., ::-1])[1])


def _depth(sample: TrainingSample) -> str:
    if sample.depth_codes is None:
        return ""
    return f"{DEPTH_START}{''.join(f'<DEPTH_{code}>' for code in sample.depth_codes.flat)}{DEPTH_END}"


def _chunk(sample: TrainingSample) -> str:
    rows = [", ".join(ACTION_SYMBOLS[k] for k in row) for row in bins_from_values(sample.actions)]
    return f"[[{'], ['.join(rows)}]]"


@pytest.fixture(scope="session")
def lab(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data set of five episodes in the nano's vocabulary and image size. Not to change."""
    return write_arrow(tmp_path_factory.mktemp("data") / "lab", make_samples(20))


@pytest.fixture
def arrow(tmp_path: Path) -> Callable[..., Path]:
    """Writes a data set of its own: samples, and columns that replace what is made of them."""
    return lambda samples, **columns: write_arrow(tmp_path / "data", samples, **columns)


def joint_motion(row: int, arms: int = 1) -> str:
    """A frame's state and action: joints that move with the row, the gripper open for two frames and closed for two."""
    angles = 0.1 * row + np.arange(7) / 10
    state, action = ([*(angles + ahead).tolist(), float(row % 4 < 2)] * arms for ahead in (0.0, 0.1))
    return json.dumps({"state": state, "action": action})


@pytest.fixture(scope="session")
def joints(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A labelled data set of three episodes of four frames in joints; depth and traces are unknown. Not to change."""
    samples, rows = make_samples(12), range(12)
    return write_arrow(
        tmp_path_factory.mktemp("data") / "kitchen", samples, depth=[""] * 12, trace=["[]"] * 12,
        joint_motion=[joint_motion(row) for row in rows], frame_index=[row % 4 for row in rows],
    )  # fmt: skip
