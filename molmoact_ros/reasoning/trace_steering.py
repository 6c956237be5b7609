"""Trace steering by an operator: which drawings are valid, which one is active, what remains of it, how it ended."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS
from molmoact_ros.reasoning.trace_progress import remaining

LONGEST: Final = 1000
"""Maximum number of points of a raw stroke from a mouse or a finger."""
TOLERANCES: Final = (3.0, 6.0, 12.0)
"""Tolerances of the simplification, in 0..255; the first that leaves at most five points applies (12 is 5 %)."""
SHORTEST: Final = 5.0
"""Minimum length of a stroke, in 0..255; a shorter one counts as a point."""
WIDTH, HEIGHT = 640, 480
"""Image size in pixels for measuring progress along a drawing, whatever the camera."""
DONE: Final = "done"
"""The end reason of a drawing whose end the gripper has reached."""
AHEAD: Final = 0.1
"""Tolerance for image stamps in the future, s: clocks differ slightly."""


def simplified(stroke: np.ndarray) -> np.ndarray:
    """Simplify a stroke, float [m, 2] in fractions of the image, to a trace, int64 [n, 2] in 0..255 with n 2..5.

    Up to five points stay as they are; more are reduced by the Douglas-Peucker algorithm. Raises RefusedStep for points
    outside the image, for a stroke that is only a point, and for too many bends.
    """
    stroke = np.asarray(stroke, np.float64)
    if stroke.ndim != 2 or stroke.shape[1:] != (2,) or not 2 <= len(stroke) <= LONGEST:
        raise RefusedStep(f"a drawing has 2 to {LONGEST} points, each with x and y; got {len(stroke)}: draw a line")
    if not np.isfinite(stroke).all() or stroke.min() < 0.0 or stroke.max() > 1.0:
        raise RefusedStep("a point of the drawing lies outside the image; points are fractions of it, 0..1")
    points = np.round(stroke * MAX_COORDINATE).astype(np.int64)
    points = points[np.r_[True, np.any(np.diff(points, axis=0) != 0, axis=1)]]
    whole = points
    for tolerance in TOLERANCES:
        if len(points) <= MAX_POINTS:
            break
        points = _corners(whole, tolerance)
    if len(points) > MAX_POINTS:
        raise RefusedStep(f"the drawing bends too often: it needs {len(points)} points, not {MAX_POINTS} at most")
    if np.linalg.norm(np.diff(points, axis=0), axis=1).sum() < SHORTEST:
        raise RefusedStep("the drawing is only a point; draw a line from the gripper to where it is to go")
    return points


def _corners(points: np.ndarray, tolerance: float) -> np.ndarray:
    """The Douglas-Peucker simplification of `points` [n, 2]: both ends, and each point farther than `tolerance` off.

    OpenCV's version drops the end of an open line that returns to its start, so it is not used here.
    """
    kept, spans = {0, len(points) - 1}, [(0, len(points) - 1)]
    while spans:
        begin, end = spans.pop()
        if end - begin < 2:
            continue
        line, others = points[end] - points[begin], points[begin + 1 : end] - points[begin]
        along = np.clip(others @ line / max(int(line @ line), 1), 0.0, 1.0)
        off = np.linalg.norm(others - along[:, None] * line, axis=1)
        if off.max() > tolerance:
            corner = begin + 1 + int(off.argmax())
            kept.add(corner)
            spans += [(begin, corner), (corner, end)]
    return points[sorted(kept)]


class Steering:
    """The operator's active drawing. Not thread-safe.

    Times are in s. The monotonic clock measures how long a drawing is followed (`take_trace`, `advance`, `end`, `age`),
    the clock of the image stamps the age of its image (`check`).

    trace: the remainder of the drawing, int64 [n, 2] in 0..255, or None without one. message: how the last one ended.
    """

    def __init__(self, max_age: float, timeout: float) -> None:
        """max_age: maximum age of the image that was drawn on, s. timeout: time after which a drawing ends, s."""
        self._max_age, self._timeout = max_age, timeout
        self._picture, self._since = 0.0, 0.0  # the image's stamp, and the drawing's start on the monotonic clock
        self.trace: np.ndarray | None = None
        self.message = ""

    def check(self, stroke: np.ndarray, picture: float, now: float, shown: float | None = None) -> np.ndarray:
        """Validate a stroke [m, 2] drawn on the image with stamp `image`, s; return its trace, int64 [n, 2].

        shown: stamp of the image of a plan that waits for approval; that image is not stale however long it waits. Of
        two drawings the one on the newer image wins; of two on the same image the later one. Raises RefusedStep for an
        invalid stroke, and for an image that is missing, stale, in the future or older than the active drawing's.
        """
        if picture <= 0.0:
            raise RefusedStep("the drawing does not say on which image it was drawn; give the image's stamp")
        if picture > now + AHEAD:
            raise RefusedStep(f"the drawing's image is {picture - now:.1f} s from the future; synchronise the clocks")
        if now - picture > self._max_age and (shown is None or picture < shown - 1e-6):
            raise RefusedStep(f"the drawing's image is {now - picture:.1f} s old; draw on the image of now")
        if self.trace is not None and picture < self._picture - 1e-6:
            raise RefusedStep("somebody drew on a newer image meanwhile; look at their line, and draw again")
        return simplified(stroke)

    def take_trace(self, trace: np.ndarray, picture: float, now: float) -> None:
        """Follow a validated trace, int64 [n, 2] in 0..255, in place of any other."""
        replaced = self.end("replaced by a newer drawing", now)
        self.trace, self._picture, self._since = trace, picture, now
        if not replaced:
            self.message = ""

    def end(self, why: str, now: float) -> bool:
        """Stop following the drawing; False if there was none."""
        if self.trace is None:
            return False
        left = self.left
        self.message = f"{why} after {self.age(now):.1f} s" + (f", {left} points left" if left else "")
        self.trace = None
        return True

    def advance(self, hand: np.ndarray | None, now: float) -> bool:
        """Drop the points that the gripper has passed; True if the drawing is done or has timed out.

        hand: the gripper's position in the image [2], in fractions; None if unknown, which drops nothing.
        """
        if self.trace is None:
            return False
        if hand is not None:
            rest = remaining(self.trace, hand * (WIDTH - 1, HEIGHT - 1), WIDTH, HEIGHT)
            if rest is None:
                self.trace = self.trace[:0]  # no points left
                return self.end(DONE, now)
            self.trace = rest
        return now - self._since > self._timeout and self.end("timed out", now)

    def age(self, now: float) -> float:
        """Time since the drawing became active, s; 0 without one."""
        return 0.0 if self.trace is None else now - self._since

    @property
    def left(self) -> int:
        """Number of points that the gripper has not passed."""
        return 0 if self.trace is None else len(self.trace)
