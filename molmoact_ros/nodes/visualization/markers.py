"""Markers of the plan in space, for rviz and Foxglove."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import numpy as np
from geometry_msgs.msg import Point, Vector3
from std_msgs.msg import ColorRGBA, Header
from visualization_msgs.msg import Marker, MarkerArray

from molmoact_ros.control.trajectory import Target
from molmoact_ros.reasoning.trace import TRAINING_COLOUR
from molmoact_ros.visualization.overlay import HUMAN_COLOUR

Colour = tuple[float, ...]
"""Red, green, blue and opacity, 0..1."""
MODEL: Final = tuple(value / 255 for value in (*TRAINING_COLOUR, 255))
HUMAN: Final = tuple(value / 255 for value in (*HUMAN_COLOUR, 255))
OPEN: Final = (0.2, 0.9, 0.3, 1.0)
CLOSED: Final = (0.9, 0.2, 0.3, 1.0)
PENDING: Final = 0.4
"""Opacity of a plan that waits for approval."""
BOX: Final = (0.7, 0.7, 0.7, 0.5)
WORDS: Final = (1.0, 1.0, 1.0, 1.0)
APPROACH: Final = 0.03
"""Length of the line that shows a hand's pointing direction, m."""


def fresh(markers: Sequence[Marker]) -> MarkerArray:
    """A MarkerArray that replaces all markers shown before."""
    return MarkerArray(markers=[Marker(action=Marker.DELETEALL), *markers])


def trace_markers(points: np.ndarray, human: bool, head: Header) -> list[Marker]:
    """A trace in space, [m, 3] m: a line, with a sphere at its start and an arrow at its end."""
    if len(points) < 2:
        return []
    colour = HUMAN if human else MODEL
    line = _marker("trace", 0, Marker.LINE_STRIP, head, colour, (0.006, 0.0, 0.0), points)
    begin = _marker("trace", 1, Marker.SPHERE_LIST, head, colour, (0.02,) * 3, points[:1])
    back = points[-1] - points[:-1]
    far = np.flatnonzero(np.linalg.norm(back, axis=1) > APPROACH)
    tail = points[far[-1]] if len(far) else points[0]
    end = _marker("trace", 2, Marker.ARROW, head, colour, (0.01, 0.02, 0.02), np.array([tail, points[-1]]))
    return [line, begin, end]


def chunk_markers(arm: int, targets: Sequence[Target], pending: bool, head: Header) -> list[Marker]:
    """An arm's hand after each action: a sphere, green where it is open, and a line along its pointing direction."""
    poses = [(target.pose, target.gripper) for target in targets if target.pose is not None]
    if not poses:
        return []
    alpha = PENDING if pending else 1.0
    places = np.array([pose.position for pose, _ in poses])
    balls = _marker("chunk", 10 * arm, Marker.SPHERE_LIST, head, WORDS, (0.012,) * 3, places)
    grips = [(OPEN if gripper is None or gripper > 0.5 else CLOSED) for _, gripper in poses]
    balls.colors = [_colour((*grip[:3], alpha)) for grip in grips]
    ahead = np.array([pose.position + pose.rotation.apply([0, 0, APPROACH]) for pose, _ in poses])
    ends = np.stack([places, ahead], axis=1).reshape(-1, 3)
    hands = _marker("chunk", 10 * arm + 1, Marker.LINE_LIST, head, (*WORDS[:3], alpha), (0.003, 0.0, 0.0), ends)
    way = _marker("chunk", 10 * arm + 2, Marker.LINE_STRIP, head, (*WORDS[:3], alpha), (0.002, 0.0, 0.0), places)
    return [balls, hands] + [way] * (len(places) > 1)


def box_marker(arm: int, low: Sequence[float], high: Sequence[float], head: Header) -> Marker:
    """The edges of the box from corner `low` to corner `high`, [3] m each, which an arm's hand does not leave."""
    corners = np.array([[x, y, z] for x in (low[0], high[0]) for y in (low[1], high[1]) for z in (low[2], high[2])])
    edges = [(a, b) for a in range(8) for b in range(a + 1, 8) if bin(a ^ b).count("1") == 1]
    points = corners[np.array(edges).ravel()]
    return _marker("workspace", arm, Marker.LINE_LIST, head, BOX, (0.003, 0.0, 0.0), points)


def text_marker(text: str, at: Sequence[float], head: Header) -> Marker:
    """Text that faces the viewer, at `at` [3] m."""
    marker = _marker("status", 0, Marker.TEXT_VIEW_FACING, head, WORDS, (0.0, 0.0, 0.04), np.zeros((0, 3)))
    marker.text = text
    marker.pose.position = Point(x=float(at[0]), y=float(at[1]), z=float(at[2]))
    return marker


def _marker(
    name: str, number: int, kind: int, head: Header, colour: Colour, scale: tuple[float, float, float],
    points: np.ndarray,
) -> Marker:  # fmt: skip
    marker = Marker(header=head, ns=name, id=number, type=kind, action=Marker.ADD, color=_colour(colour))
    marker.pose.orientation.w = 1.0
    marker.scale = Vector3(x=scale[0], y=scale[1], z=scale[2])
    marker.points = [Point(x=x, y=y, z=z) for x, y, z in np.asarray(points, float).tolist()]
    return marker


def _colour(colour: Colour) -> ColorRGBA:
    r, g, b, a = colour
    return ColorRGBA(r=r, g=g, b=b, a=a)
