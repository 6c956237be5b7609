"""The gripper's path from points that a person clicked in a few frames: a tracker follows them in between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from molmoact_ros.datasets.labelling.image_path import ImagePath
from molmoact_ros.utils.errors import unfit

RADIUS: Final = 12
"""Pixels around the point in which the tracker follows a grid of points: two fingers, at 640x480."""
SPACING: Final = 3
BACK_ERROR: Final = 1.0
"""Pixels that a point may be off after it was followed to the next frame and back."""
STILL: Final = 0.5
"""Pixels from one frame to the next below which a point stands still, as a fixed camera's background does."""
MOVING: Final = 0.25
"""Share of the points that must move for them alone to count: behind the fingers, the background is in the grid."""
LEAST: Final = 8
"""Points that must have been followed."""
LOST: Final = "the tracker lost the gripper: click it in more frames"


class Click(BaseModel):
    """Where a person saw the gripper: frame, from 0 on, and pixel (column, row) of the first camera's image."""

    model_config = ConfigDict(extra="forbid")

    frame: int = Field(ge=0)
    point: tuple[float, float]


def read_clicks(file: Path) -> dict[str, list[Click]]:
    """The clicks of each episode by its name (the bag's folder, or `episode 3`), in the order of frames.

    The file is JSON: `{"episode_000": [{"frame": 0, "point": [320, 200]}, ...]}`. Raises ValueError, in one line, for
    another form, FileNotFoundError if it is missing.
    """
    try:
        found = TypeAdapter(dict[str, list[Click]]).validate_python(json.loads(file.read_text()))
    except ValidationError as error:
        raise ValueError(f"{file} holds no clicks: {unfit(error.errors()[0])}") from None
    except ValueError as error:
        raise ValueError(f"{file} is no JSON: {error}") from None
    return {name: sorted(clicks, key=lambda click: click.frame) for name, clicks in found.items()}


def short_name(name: str) -> str:
    """The name of an episode by which clicks are found.

    >>> short_name("runs/collect/episode_004"), short_name("episode 3 of data/cups")
    ('episode_004', 'episode 3')
    """
    return name.split(" of ")[0] if name.startswith("episode ") else Path(name).name


def clicks_of(name: str, clicks: Mapping[str, Sequence[Click]]) -> Sequence[Click]:
    """The clicks of an episode, by its whole or its short name; none without any."""
    return clicks.get(name) or clicks.get(short_name(name)) or []


def tracked_path(images: Sequence[np.ndarray], clicks: Sequence[Click]) -> ImagePath | str:
    """The gripper's path in `images`, each uint8 [H, W, 3] RGB, or why there is none, in one line.

    Between two clicks the point is followed from both, and what is nearer in time counts more.
    """
    if not clicks:
        return "it has no clicks"
    height, width = images[0].shape[:2]
    outside = [c for c in clicks if c.frame >= len(images) or not (0 <= c.point[0] < width and 0 <= c.point[1] < height)]
    if outside:
        return f"its click in frame {outside[0].frame} is outside of its {len(images)} frames of {width}x{height} pixels"
    grey = [cv2.cvtColor(image, cv2.COLOR_RGB2GRAY) for image in images]
    frames = [click.frame for click in clicks]
    points = np.full((len(images), 2), np.nan)
    ahead = {c.frame: _follow(grey, c, range(c.frame, _after(frames, c.frame, len(grey)))) for c in clicks}
    back = {c.frame: _follow(grey, c, range(c.frame, _before(frames, c.frame), -1)) for c in clicks}
    for k in range(len(images)):
        begin, end = max((f for f in frames if f <= k), default=None), min((f for f in frames if f >= k), default=None)
        one = None if begin is None else ahead[begin].get(k)
        other = None if end is None else back[end].get(k)
        if one is not None and other is not None and begin is not None and end is not None:
            share = (k - begin) / max(end - begin, 1)
            points[k] = (1 - share) * one + share * other
        elif one is not None or other is not None:
            points[k] = one if one is not None else other
    known = np.isfinite(points).all(axis=1) & ((points >= 0) & (points <= (width - 1, height - 1))).all(axis=1)
    points[~known] = np.nan
    return ImagePath(points, ["" if there else LOST for there in known], width, height)


def _after(frames: Sequence[int], frame: int, count: int) -> int:
    """The frame behind the last one that is followed forward from a click."""
    return min((f + 1 for f in frames if f > frame), default=count)


def _before(frames: Sequence[int], frame: int) -> int:
    return max((f - 1 for f in frames if f < frame), default=-1)


def _follow(grey: Sequence[np.ndarray], click: Click, frames: range) -> dict[int, np.ndarray]:
    """The point [2] in each of `frames`, the click's own first, as far as the tracker follows it."""
    point = np.array(click.point, np.float64)
    out = {click.frame: point}
    for here, there in zip(frames, frames[1:], strict=False):
        moved = _step(grey[here], grey[there], point)
        if moved is None:
            break
        point = point + moved
        out[there] = point
    return out


def _step(here: np.ndarray, there: np.ndarray, point: np.ndarray) -> np.ndarray | None:
    """How the surroundings of a point [2] move from one grey image [H, W] to another, pixels [2]; None: lost."""
    along = np.arange(-RADIUS, RADIUS + 1, SPACING)
    grid = (point + np.stack(np.meshgrid(along, along), axis=-1).reshape(-1, 2)).astype(np.float32)
    size, levels = {"winSize": (15, 15), "maxLevel": 3}, grid.reshape(-1, 1, 2)
    ahead, found, _ = cv2.calcOpticalFlowPyrLK(here, there, levels, None, **size)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(there, here, ahead, None, **size)
    off = np.linalg.norm((back - levels).reshape(-1, 2), axis=1)
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & (off < BACK_ERROR)
    moves = (ahead - levels).reshape(-1, 2)[good]
    if len(moves) < LEAST:
        return None
    moving = np.linalg.norm(moves, axis=1) > STILL
    if moving.mean() >= MOVING:
        moves = moves[moving]
    return np.asarray(np.median(moves, axis=0), np.float64)
