"""Where the traces of an episode come from: calibration, clicked points that are tracked, or a checkpoint."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, Protocol

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

GRIPPER_MIDDLE: Final = 0.5
"""Commands of the gripper, 1 open .. 0 closed, below this close it."""


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


class TracePoints(Enum):
    """Which points of the gripper's path to the end of an episode are a frame's trace.

    EVEN: five at even distances in time, as in MolmoAct's own data. GRIPPER: three: where the gripper is, where it
    closes next (half way, where it does not or is closed), and where it opens at last or stands at the end.
    """

    EVEN = "even"
    GRIPPER = "gripper"


class PathTraces:
    """The traces along a path, by the gripper's commands of the same frames."""

    def __init__(self, points: TracePoints, demonstration: Demonstration) -> None:
        """Raises ValueError for what is not for two arms."""
        if points is TracePoints.GRIPPER and len(demonstration.arms) > 1:
            raise ValueError("--trace-points gripper is for one arm; use even")
        self._by_gripper = points is TracePoints.GRIPPER
        self._closed = demonstration.actions[:, -1] < GRIPPER_MIDDLE

    def labels(self, path: ImagePath) -> TraceLabels:
        """The labels of a path."""
        traces = [self._trace(path, k) for k in range(len(path.points))]
        return TraceLabels(traces, path.reasons, list(check_path(path)))

    def _trace(self, path: ImagePath, frame: int) -> np.ndarray | None:
        if not self._by_gripper:
            return path.trace(frame)
        last = len(self._closed) - 1
        closed = frame + np.flatnonzero(self._closed[frame:])
        end = min(int(closed[-1]) + 1, last) if len(closed) else last
        grasps = len(closed) > 0 and not self._closed[frame]
        return path.trace_through([frame, int(closed[0]) if grasps else path.halfway(frame, end), end])


class ProjectedTraces:
    """By kinematics and calibration; points outside of the image, or behind what the camera measures, are left out."""

    def __init__(self, demonstration: Demonstration, frames: slice, points: TracePoints = TracePoints.EVEN) -> None:
        """frames: those of the whole episode that are labelled. Raises ValueError without calibration."""
        part = trimmed(demonstration, frames)
        self._points, (self._path, self._distances) = PathTraces(points, part), projected_path(part)
        self._seen = 0

    @classmethod
    def maker(cls, points: TracePoints) -> MakeLabeller:
        """Labellers with some points of the path."""
        return lambda demonstration, frames: cls(demonstration, frames, points)

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
        return self._points.labels(self._path)


class TrackedTraces:
    """By clicks of a person in some frames, between which the gripper is tracked."""

    def __init__(self, clicks: Sequence[Click], points: PathTraces) -> None:
        """clicks: with frames counted as they are observed."""
        self._clicks, self._points, self._images = clicks, points, list[np.ndarray]()

    @classmethod
    def maker(cls, clicks: Mapping[str, Sequence[Click]], points: TracePoints = TracePoints.EVEN) -> MakeLabeller:
        """Labellers with the clicks of each episode, by its name, and some points of the path."""

        def make(demonstration: Demonstration, frames: slice) -> TrackedTraces:
            if not (found := clicks_of(demonstration.name, clicks)):
                raise ValueError(f"there are no clicks for {short_name(demonstration.name)}; make them by --click-page")
            within = clicks_within(found, frames, len(demonstration.states))
            return cls(within, PathTraces(points, trimmed(demonstration, frames)))

        return make

    def observe_frame(self, images: Sequence[np.ndarray], depth: np.ndarray | None) -> None:
        """Process a frame: images uint8 [H, W, 3] RGB, and depth [H, W] m."""
        self._images.append(cv2.cvtColor(images[0], cv2.COLOR_RGB2GRAY))

    def labels(self) -> TraceLabels:
        """See `TraceLabeller`."""
        return self._points.labels(tracked_path(self._images, self._clicks))


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
