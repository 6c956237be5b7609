"""Progress along a drawn trace: the part that the gripper has passed is dropped, until none remains."""

from __future__ import annotations

import numpy as np

from molmoact_ros.reasoning.trace import MAX_COORDINATE, checked_trace

AHEAD = 60.0
"""Arc length ahead on the trace, pixels, within which the nearest point is searched, so that a trace that crosses
itself or doubles back is not cut short. The gripper advances by less per update at four or more updates a second."""
DONE = 12.0
"""The trace is done when both its remaining length and the gripper's distance to its end are at most this, pixels."""
BESIDE = 5.0
"""With at most this length remaining, pixels, a gripper that is not at the end is led straight to it."""
NEAR = 15.0
"""Distance from a stroke's end, pixels of 640x480, at which a gripper counts as having reached it."""
NEARLY = 2.0
"""Approximate rounding error of trace coordinates, pixels."""


def remaining(trace: np.ndarray, gripper: np.ndarray, width: int = 640, height: int = 480) -> np.ndarray | None:
    """The remainder of `trace`, int64 [n, 2] in 0..255, n 2..5, with the gripper at `gripper`; None when done.

    gripper: its pixel (column, row) [2] in an image of `width` x `height`. The remainder begins at the point of the
    trace nearest to the gripper, searched over the first `AHEAD` pixels of its length, so that a gripper off the line
    is led back to it. Near the very end it is a line from gripper to end. Lengths are pixels of a 640x480 image,
    scaled to `width`. Pass the result to the next call. Raises RefusedStep for an invalid trace.
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
    """The point [2] at arc length `where` on the polyline `points`, float [n, 2], clamped to its ends."""
    lengths = lengths_of(points)
    return np.array([np.interp(where, lengths, points[:, axis]) for axis in (0, 1)])


def apart(one: np.ndarray, other: np.ndarray) -> float:
    """The larger of the two median distances between polylines [n, 2] and [m, 2], one in each direction.

    Taking the larger one rates neither a cut corner nor standing still as near.
    """
    one, other = _evenly(one), _evenly(other)
    distances = np.linalg.norm(one[:, None] - other, axis=2)
    return float(max(np.median(distances.min(axis=0)), np.median(distances.min(axis=1))))


def _evenly(line: np.ndarray) -> np.ndarray:
    """Resample a polyline [n, 2] to points [k, 2] about a pixel apart, so that slow parts do not weigh more."""
    length = lengths_of(line)[-1]
    return np.array([point_at(line, where) for where in np.linspace(0, length, max(2, int(length)))])


def lengths_of(points: np.ndarray) -> np.ndarray:
    """The arc length [n] at each point of the polyline `points` [n, 2]."""
    return np.concatenate([[0.0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])


def _nearest(points: np.ndarray, place: np.ndarray, most: float) -> float:
    """The arc length, at most `most`, of the point on a polyline [n, 2] nearest to `place` [2].

    Of points that are equally near within `NEARLY` it takes the last, so that progress does not stall where a trace
    doubles back.
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
