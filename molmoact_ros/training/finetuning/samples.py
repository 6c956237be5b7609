"""The training data's interface: labelled samples by row, and which episodes are held out for validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Protocol, TypeVar

import numpy as np

from molmoact_ros.engine.model.config import DatasetStats


class DataError(ValueError):
    """Unusable training data. The message is one line that says what to do."""


@dataclass(frozen=True)
class TrainingSample:
    """One labelled time step of a demonstration.

    images: uint8 [H, W, 3] RGB for each camera, the front camera first. depth_codes: integers [10, 10] in 0..127; None
    where they are unknown. trace: int64 [n, 2] in 0..255 of the first image, n 1..5; None where it is unknown. actions:
    float64 [N, D] in [-1, 1], normalised by the data's statistics, gripper 1 open .. 0 closed.
    """

    images: tuple[np.ndarray, ...]
    instruction: str
    depth_codes: np.ndarray | None
    trace: np.ndarray | None
    actions: np.ndarray

    @property
    def can_reason(self) -> bool:
        """Whether it has all parts of an answer with reasoning."""
        return self.depth_codes is not None and self.trace is not None

    @property
    def can_steer(self) -> bool:
        """Whether its trace is visible when it is drawn: a single point draws nothing."""
        return self.trace is not None and len(self.trace) > 1


@dataclass(frozen=True)
class MotionSample:
    """One time step of a demonstration in joints, as MolmoAct 2 learns it.

    images: uint8 [H, W, 3] RGB for each camera, the front camera first. state: float64 [D], actions: float64 [H, D]: of
    each arm seven joints in rad and the gripper, 1 open .. 0 closed, one arm after the other.
    """

    images: tuple[np.ndarray, ...]
    instruction: str
    state: np.ndarray
    actions: np.ndarray


Sample_co = TypeVar("Sample_co", covariant=True)


class TrainingData(Protocol[Sample_co]):
    """Labelled samples of whole episodes."""

    @property
    def name(self) -> str:
        """The un-normalisation key, or norm_tag, of its statistics."""

    @property
    def episodes(self) -> np.ndarray:
        """The episode of each sample, int64 [n]."""

    @property
    def run(self) -> Mapping[str, Any]:
        """The fields of run.json that the data determine, such as what the actions' numbers mean."""

    @property
    def notes(self) -> Sequence[str]:
        """What was left out, one line each."""

    @property
    def identity(self) -> Mapping[str, Any]:
        """path, digest, samples and episodes: for the model card, and to compare when a run is resumed."""

    def __len__(self) -> int:
        """The number of samples."""
        ...

    def sample(self, row: int) -> Sample_co:
        """Decode one sample."""
        ...


class AnswerData(TrainingData[TrainingSample], Protocol):
    """What a MolmoAct learns."""

    @property
    def statistics(self) -> DatasetStats:
        """Statistics of the actions, by which they are normalised."""


class JointData(TrainingData[MotionSample], Protocol):
    """What a MolmoAct 2 learns. chunk: actions of a sample."""

    chunk: int

    @property
    def motion(self) -> tuple[np.ndarray, np.ndarray]:
        """States and actions of all samples, float64 [n, D] each, in the order and units of `MotionSample`."""


def hold_out(episodes: np.ndarray, share: float, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Rows int64 [n], [m] of `episodes` [n + m] for training and for validation, split by whole episodes.

    share: fraction of the episodes to hold out, at least one of them; 0 holds out none. Raises DataError where no
    episode would be left to train on.
    """
    known = np.unique(episodes)
    count = max(1, round(share * len(known))) if share else 0
    if count >= len(known):
        raise DataError(f"{len(known)} episodes cannot be split for validation; record more, or give --validation 0")
    held = np.random.default_rng((seed, len(known))).permutation(known)[:count]
    out = np.isin(episodes, held)
    return np.flatnonzero(~out), np.flatnonzero(out)
