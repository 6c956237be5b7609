"""A drawn trace while the gripper follows it: what it has passed is dropped, and at the end nothing is left."""

from __future__ import annotations

import numpy as np

from molmoact_ros.reasoning.trace import MAX_COORDINATE, checked_trace

AHEAD = 60.0
"""Pixels of the trace's length within which the gripper is looked for. A trace that crosses itself further on, or comes
back, is not cut short. The gripper advances by less between two looks where there are at least four a second."""
DONE = 12.0
"""Pixels: the gripper is at the end when it is as near, and no more of the trace is left."""
BESIDE = 5.0
"""Pixels: where no more of the trace is left, a gripper that is not at the end is led straight to it."""
NEAR = 15.0
"""Pixels of 640x480 from a stroke's end at which a hand counts as having reached it."""
NEARLY = 2.0
"""Pixels: about what rounding to the trace's coordinates moves a point by."""


def remaining(trace: np.ndarray, gripper: np.ndarray, width: int = 640, height: int = 480) -> np.ndarray | None:
    """What is left to follow of `trace`, int64 [n, 2] in 0..255, n 2..5, once the gripper is at `gripper`; None: done.

    gripper: its pixel (column, row) [2] in an image of `width` x `height`. The rest begins at the trace's point nearest
    to it, looked for `AHEAD` pixels along the trace, so that a gripper off the line is led back to it; beside the very
    end it is a line from gripper to end. Lengths are pixels of a 640x480 image, scaled to `width`. Call it again with
    what it gave. Raises RefusedStep for what is no trace.
    """
    trace = checked_trace(trace)
    unit, scale = width / 640, np.array([width - 1, height - 1]) / MAX_COORDINATE
    points, gripper = trace * scale, np.asarray(gripper, float)
    where = _nearest(points, gripper, AHEAD * unit)
    lengths = lengths_of(points)
    left = lengths[-1] - where
    if max(left, np.linalg.norm(gripper - points[-1])) <= DONE * unit:
        return None
    if left > BESIDE * unit:
        rest = np.vstack([point_at(points, where), points[lengths > where]])
    else:
        rest = np.vstack([gripper, points[-1]])
    return np.clip(np.round(rest / scale), 0, MAX_COORDINATE).astype(np.int64)


def point_at(points: np.ndarray, where: float) -> np.ndarray:
    """The point [2] that lies `where` along a line through `points` float [n, 2]; its ends beyond them."""
    lengths = lengths_of(points)
    return np.array([np.interp(where, lengths, points[:, axis]) for axis in (0, 1)])


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The larger of the median distances of two lines through points [n, 2] and [m, 2] from each other, so that neither
    a cut corner nor standing still is near."""
    one, other = _evenly(one), _evenly(other)
    distances = np.linalg.norm(one[:, None] - other, axis=2)
    return float(max(np.median(distances.min(axis=0)), np.median(distances.min(axis=1))))


def _evenly(line: np.ndarray) -> np.ndarray:
    """Points [k, 2] about a pixel apart along a line [n, 2]: where a hand lingered does not count for more."""
    length = lengths_of(line)[-1]
    return np.array([point_at(line, where) for where in np.linspace(0, length, max(2, int(length)))])


def lengths_of(points: np.ndarray) -> np.ndarray:
    """How far along the line through `points` [n, 2] each of them lies, [n]."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def _nearest(points: np.ndarray, place: np.ndarray, most: float) -> float:
    """How far along a line [n, 2] its point nearest to `place` [2] lies, at most `most`.

    Of points as near to within `NEARLY` the last one: a trace that turns back on itself is gone on with, not stuck to.
    """
    lengths = lengths_of(points)
    best, distance = 0.0, float(np.linalg.norm(points[0] - place))
    for begin, end, first, last in zip(points[:-1], points[1:], lengths[:-1], lengths[1:], strict=True):
        if first > most or last == first:
            continue
        along = (end - begin) / (last - first)
        where = float(np.clip(along @ (place - begin), 0.0, min(last, most) - first))
        off = float(np.linalg.norm(begin + where * along - place))
        if off <= distance + NEARLY:
            best, distance = first + where, off
    return best
