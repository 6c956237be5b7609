"""Overlays the plan on the front image for operators: its direction, source and age."""

from __future__ import annotations

from itertools import pairwise
from typing import Final

import cv2
import numpy as np

from molmoact_ros.reasoning.trace import TRAINING_COLOUR, checked_trace, pixels_from_trace

HUMAN_COLOUR: Final = (255, 170, 0)
"""Orange in RGB, for the operator's trace. The model's trace is cyan, as in the released overlay."""
ACTIONS_COLOUR: Final = (255, 90, 220)
"""Pink in RGB, for the way of the hand by its actions, where the model plans no trace."""
WHOSE: Final = {
    "model": ("the model's trace", TRAINING_COLOUR),
    "person": ("an operator's trace", HUMAN_COLOUR),
    "actions": ("the hand's path by the actions", ACTIONS_COLOUR),
}
"""Of each source of a trace: what its caption says, and its colour."""
OLD: Final = 2.0
"""Age after which a trace is drawn at half brightness, s: the scene may have changed."""
_EDGE: Final = (0, 0, 0)


def draw_for_people(
    image: np.ndarray, trace: np.ndarray, colour: tuple[int, ...] = TRAINING_COLOUR
) -> np.ndarray:  # fmt: skip
    """A copy of `image`, uint8 [H, W, 3] RGB, with `trace`, int [n, 2] in 0..255, as a dark-edged line of `colour`.

    A dot marks the start, a ring the end, and an arrow the middle of every segment that is long enough.
    """
    canvas = np.ascontiguousarray(image).copy()
    points = pixels_from_trace(checked_trace(trace), canvas.shape[1], canvas.shape[0])
    unit = max(1, round(canvas.shape[0] / 240))
    for paint, extra in ((_EDGE, 2 * unit), (colour, 0)):
        cv2.polylines(canvas, [points.astype(np.int32)], False, paint, 2 * unit + extra, cv2.LINE_AA)
        for begin, end in pairwise(points):
            _arrow(canvas, begin, end, paint, 2 * unit + extra, 6 * unit)
        cv2.circle(canvas, points[0].tolist(), 4 * unit + extra // 2, paint, -1, cv2.LINE_AA)
        cv2.circle(canvas, points[-1].tolist(), 6 * unit, paint, 2 * unit + extra, cv2.LINE_AA)
    return canvas


def draw_plan(image: np.ndarray, trace: np.ndarray, source: str, age: float, lines: tuple[str, ...] = ()) -> np.ndarray:
    """A copy of `image`, uint8 [H, W, 3] RGB, with `trace`, int [n, 2] in 0..255, and a caption.

    source: of the trace, one of WHOSE. age: time since its image was captured, s. lines: further caption lines.
    """
    whose, bright = WHOSE[source]
    colour = bright if age <= OLD else tuple(value // 2 for value in bright)
    canvas = draw_for_people(image, trace, colour)
    write(canvas, (f"{whose}, image {age:.1f} s old", *lines), bright)
    return canvas


def _arrow(
    canvas: np.ndarray, begin: np.ndarray, end: np.ndarray, colour: tuple[int, ...], width: int, size: int
) -> None:  # fmt: skip
    length = float(np.linalg.norm(end - begin))
    if length < 3 * size:
        return  # too short to point anywhere
    along = (end - begin) / length
    across, tip = np.array([-along[1], along[0]]), (begin + end) / 2 + along * size / 2
    wings = [tip - size * along + side * size * across for side in (-0.7, 0.7)]
    head = np.round([wings[0], tip, wings[1]]).astype(np.int32)
    cv2.polylines(canvas, [head], False, colour, width, cv2.LINE_AA)


def write(canvas: np.ndarray, lines: tuple[str, ...], colour: tuple[int, ...] = (255, 255, 255)) -> None:
    """Write lines into the upper left corner of `canvas`, uint8 [H, W, 3] RGB, on a dark background."""
    scale, font = canvas.shape[0] / 900, cv2.FONT_HERSHEY_SIMPLEX
    width, step, margin = max(1, round(1.6 * scale)), round(36 * scale), round(12 * scale)
    plain = [line.encode("ascii", "replace").decode() for line in lines]  # OpenCV 4's font is ASCII only
    longest = max(cv2.getTextSize(line, font, scale, width)[0][0] for line in plain)
    cv2.rectangle(canvas, (0, 0), (longest + 2 * margin, step * len(plain) + margin), _EDGE, -1)
    for number, line in enumerate(plain):
        cv2.putText(canvas, line, (margin, step * (number + 1)), font, scale, colour, width, cv2.LINE_AA)


def beside(front: np.ndarray, depth: np.ndarray | None) -> np.ndarray:
    """The front image, uint8 [H, W, 3] RGB, with the depth, float [h, w] in 0..1, on its right: uint8 [H, W + H, 3]."""
    height = front.shape[0]
    if depth is not None:
        return np.hstack([front, colour_depth(depth, height)])
    blank = np.full((height, height, 3), 24, np.uint8)
    write(blank, ("no depth yet",))
    return np.hstack([front, blank])


def colour_depth(depth: np.ndarray, side: int) -> np.ndarray:
    """`depth`, float [h, w] in 0..1, nearer is larger, as uint8 [side, side, 3] RGB from blue (far) to red (near)."""
    levels = np.round(np.clip(np.nan_to_num(depth, posinf=0.0), 0, 1) * 255).astype(np.uint8)
    coloured = cv2.cvtColor(cv2.applyColorMap(levels, cv2.COLORMAP_TURBO), cv2.COLOR_BGR2RGB)
    square: np.ndarray = cv2.resize(coloured, (side, side), interpolation=cv2.INTER_LINEAR)
    return square


def jpeg(pixels: np.ndarray, quality: int) -> bytes:
    """Encode `pixels`, uint8 [H, W, 3] RGB, as JPEG. quality: 1..100."""
    _, data = cv2.imencode(".jpg", cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR), [cv2.IMWRITE_JPEG_QUALITY, quality])
    return bytes(data)
