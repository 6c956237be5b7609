"""A person's trace: what may be drawn, whose drawing counts, what is left of it, and how it ended."""

from __future__ import annotations

from typing import Final

import numpy as np

from molmoact_ros.reasoning.answer import RefusedStep
from molmoact_ros.reasoning.trace import MAX_COORDINATE, MAX_POINTS
from molmoact_ros.reasoning.trace_progress import remaining

LONGEST: Final = 1000
"""Points of a stroke as it comes from a mouse or a finger."""
TOLERANCES: Final = (3.0, 6.0, 12.0)
"""How far a stroke may be from what is made of it, in 0..255: the first that leaves five points counts (12 is 5 %)."""
SHORTEST: Final = 5.0
"""Length in 0..255 under which a stroke is a point."""
WIDTH, HEIGHT = 640, 480
"""Pixels in which the gripper's way along a drawing is measured, whatever the camera."""
DONE: Final = "done"
"""Why a drawing ended whose end the gripper has reached."""
AHEAD: Final = 0.1
"""s by which a drawing's picture may be from the future: clocks differ a little."""


def simplified(stroke: np.ndarray) -> np.ndarray:
    """The trace, int64 [n, 2] in 0..255 with n 2..5, of a stroke, float [m, 2] in fractions of the picture.

    Up to five points stay as they are. Of more, those are kept that the stroke cannot do without (Douglas and Peucker).
    Raises RefusedStep for points outside the picture, for a point where a line is needed, and for too many bends.
    """
    stroke = np.asarray(stroke, np.float64)
    if stroke.ndim != 2 or stroke.shape[1:] != (2,) or not 2 <= len(stroke) <= LONGEST:
        raise RefusedStep(f"a drawing has 2 to {LONGEST} points, each with x and y; got {len(stroke)}: draw a line")
    if not np.isfinite(stroke).all() or stroke.min() < 0.0 or stroke.max() > 1.0:
        raise RefusedStep("a point of the drawing lies outside the picture; points are fractions of it, 0..1")
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
    """Ends, and whatever point is farthest from the line between two kept ones, while that is beyond the tolerance.

    Ours, since OpenCV's drops the end of an open line that comes back to its beginning.
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
    """The drawing in use. Not for several threads at once.

    Times are s: how long a drawing is followed is measured by the steady clock (`take`, `advance`, `end`, `age`), the
    age of its picture by the pictures' clock (`check`).

    trace: what is left of the drawing, int64 [n, 2] in 0..255, None without one; message: how the last one ended.
    """

    def __init__(self, max_age: float, timeout: float) -> None:
        """max_age: of the picture that was drawn on, s; timeout: s after which a drawing ends."""
        self._max_age, self._timeout = max_age, timeout
        self._picture, self._since = 0.0, 0.0  # when the picture was taken, and the drawing taken up: of two clocks
        self.trace: np.ndarray | None = None
        self.message = ""

    def check(self, stroke: np.ndarray, picture: float, now: float, shown: float | None = None) -> np.ndarray:
        """The trace that may be followed, of a stroke [m, 2] drawn on the picture of that time, s; else RefusedStep.

        shown: time of the picture of a plan that waits for approval, which is not stale however long it waits. Of two
        drawings the one on the newer picture counts, of two on the same picture the later one.
        """
        if picture <= 0.0:
            raise RefusedStep("the drawing does not say on which picture it was drawn; give the picture's stamp")
        if picture > now + AHEAD:
            raise RefusedStep(f"the drawing's picture is {picture - now:.1f} s from the future; synchronise the clocks")
        if now - picture > self._max_age and (shown is None or picture < shown - 1e-6):
            raise RefusedStep(f"the drawing's picture is {now - picture:.1f} s old; draw on the picture of now")
        if self.trace is not None and picture < self._picture - 1e-6:
            raise RefusedStep("somebody drew on a newer picture meanwhile; look at their line, and draw again")
        return simplified(stroke)

    def take_trace(self, trace: np.ndarray, picture: float, now: float) -> None:
        """Follow a checked trace, in place of any other."""
        replaced = self.end("replaced by a newer drawing", now)
        self.trace, self._picture, self._since = trace, picture, now
        if not replaced:
            self.message = ""

    def end(self, why: str, now: float) -> bool:
        """Follow no drawing any more; False when there was none."""
        if self.trace is None:
            return False
        left = self.left
        self.message = f"{why} after {self.age(now):.1f} s" + (f", {left} points left" if left else "")
        self.trace = None
        return True

    def advance(self, hand: np.ndarray | None, now: float) -> bool:
        """Drop the points that the gripper has passed; True when the drawing ended by that, or by its time.

        hand: where the gripper is in the picture [2], in fractions; None where nobody knows: nothing is passed then.
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
        """Since the drawing was taken up, s; 0 without one."""
        return 0.0 if self.trace is None else now - self._since

    @property
    def left(self) -> int:
        """Points that the gripper has not passed."""
        return 0 if self.trace is None else len(self.trace)
