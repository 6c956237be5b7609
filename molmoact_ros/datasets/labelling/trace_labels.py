"""Where the traces of an episode come from: calibration, clicked points that are tracked, or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

import cv2
import numpy as np

from molmoact_ros.cameras.image_path import ImagePath
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.labelling.episode_trim import trimmed
from molmoact_ros.datasets.labelling.image_path import HIDDEN, is_hidden, projected_path
from molmoact_ros.datasets.labelling.nonsense import check_path, check_traces
from molmoact_ros.datasets.labelling.tracking import Click, clicks_of, clicks_within, short_name, tracked_path
from molmoact_ros.engine.torch_engine import Engine
from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.observation import Observation


@dataclass(frozen=True)
class TraceLabels:
    """traces: int64 [k, 2] in 0..255 of each frame, or None. reasons: why the gripper's own point is not in a frame's
    trace, empty where it is. problems: what looks wrong, one line each."""

    traces: list[np.ndarray | None]
    reasons: list[str]
    problems: list[str]


class TraceLabeller(Protocol):
    """Makes the traces of one episode: it is given all frames in order, and then asked."""

    def observe_frame(self, images: Sequence[np.ndarray], depth: np.ndarray | None) -> None:
        """Process a frame: of each camera uint8 [H, W, 3] RGB, and the first one's depth [H, W] m, if measured."""

    def labels(self) -> TraceLabels:
        """The traces. Raises ValueError, in one line, where there can be none."""


MakeLabeller = Callable[[Demonstration, slice], TraceLabeller]
"""Makes the labeller of some frames of a whole episode. Raises ValueError, in one line, where its kind cannot do it."""


class ProjectedTraces:
    """By kinematics and calibration; points outside of the image, or behind what the camera measures, are left out."""

    def __init__(self, demonstration: Demonstration, frames: slice) -> None:
        """frames: those of the whole episode that are labelled. Raises ValueError without calibration."""
        self._path, self._distances = projected_path(trimmed(demonstration, frames))
        self._seen = 0

    def observe_frame(self, images: Sequence[np.ndarray], depth: np.ndarray | None) -> None:
        """Process a frame: images uint8 [H, W, 3] RGB, and depth [H, W] m."""
        path, k = self._path, self._seen
        self._seen += 1
        if depth is None or path.reasons[k]:
            return
        if is_hidden(depth, path.points[k] / (path.width, path.height), self._distances[k]):
            path.points[k], path.reasons[k] = np.nan, HIDDEN

    def labels(self) -> TraceLabels:
        """See `TraceLabeller`."""
        return _of_path(self._path)


class TrackedTraces:
    """By clicks of a person in some frames, between which the gripper is tracked."""

    def __init__(self, clicks: Sequence[Click]) -> None:
        """clicks: with frames counted as they are observed."""
        self._clicks, self._images = clicks, list[np.ndarray]()

    @classmethod
    def maker(cls, clicks: Mapping[str, Sequence[Click]]) -> MakeLabeller:
        """Labellers with the clicks of each episode, by its name."""

        def make(demonstration: Demonstration, frames: slice) -> TrackedTraces:
            if not (found := clicks_of(demonstration.name, clicks)):
                raise ValueError(f"there are no clicks for {short_name(demonstration.name)}; make them by --click-page")
            return cls(clicks_within(found, frames, len(demonstration.states)))

        return make

    def observe_frame(self, images: Sequence[np.ndarray], depth: np.ndarray | None) -> None:
        """Process a frame: images uint8 [H, W, 3] RGB, and depth [H, W] m."""
        self._images.append(cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY))

    def labels(self) -> TraceLabels:
        """See `TraceLabeller`."""
        return _of_path(tracked_path(self._images, self._clicks))


class InferredTraces:
    """By a checkpoint, which reasons about each frame as the policy would."""

    def __init__(self, engine: Engine, tasks: Sequence[str]) -> None:
        """tasks: the instruction of each frame."""
        self._engine, self._tasks = engine, tasks
        self._traces, self._reasons = list[np.ndarray | None](), list[str]()

    @classmethod
    def maker(cls, engine: Engine) -> MakeLabeller:
        """Labellers by an engine."""
        return lambda demonstration, frames: cls(engine, demonstration.tasks[frames])

    def observe_frame(self, images: Sequence[np.ndarray], depth: np.ndarray | None) -> None:
        """Process a frame: images uint8 [H, W, 3] RGB, and depth [H, W] m."""
        task = self._tasks[len(self._traces)]
        try:
            trace, reason = self._infer(Observation(tuple(images), task, 0.0)), ""
        except RefusedStep as refusal:
            trace, reason = None, str(refusal)
        self._traces.append(trace)
        self._reasons.append(reason)

    def _infer(self, observation: Observation) -> np.ndarray:
        for said in self._engine.reason(observation):
            if said.trace is not None:
                return said.trace  # the actions that would follow are not needed
        raise RefusedStep("the checkpoint's answer has no trace")

    def labels(self) -> TraceLabels:
        """See `TraceLabeller`."""
        return TraceLabels(self._traces, self._reasons, list(check_traces(self._traces)))


def first_that_fits(makers: Sequence[MakeLabeller]) -> MakeLabeller:
    """Labellers of the first kind that can label an episode; the error is that of all of them."""

    def make(demonstration: Demonstration, frames: slice) -> TraceLabeller:
        reasons = []
        for maker in makers:
            try:
                return maker(demonstration, frames)
            except ValueError as error:
                reasons.append(str(error))
        raise ValueError("; ".join(reasons))

    return make


def _of_path(path: ImagePath) -> TraceLabels:
    traces = [path.trace(k) for k in range(len(path.points))]
    return TraceLabels(traces, path.reasons, list(check_path(path)))
