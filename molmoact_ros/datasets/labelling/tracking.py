"""The gripper's path from points that a person clicked in a few frames: a tracker follows them in between."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Final

import cv2
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from molmoact_ros.cameras.image_path import ImagePath
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
LEAST: Final = 20
"""Points, of 81, that must have been followed: a few agree by chance where something else is seen."""
LOST: Final = "the tracker lost the gripper; click it in more frames"


class Click(BaseModel):
    """Where a person saw the gripper: frame of the episode, from 0 on, and pixel (column, row) of the first camera."""

    model_config = ConfigDict(extra="forbid")

    frame: int = Field(ge=0)
    point: tuple[float, float]


def read_clicks(file: Path) -> dict[str, list[Click]]:
    """The clicks of each episode by its name, as `short_name` gives it, in the order of frames.

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


def clicks_within(clicks: Sequence[Click], frames: slice, count: int) -> list[Click]:
    """The clicks with frames counted from the start of `frames`, a part of an episode of `count` frames.

    The hand stands still outside of that part, so that a click there is one of its first or last frame. Raises
    ValueError for a frame that the episode does not have.
    """
    if late := [click.frame for click in clicks if click.frame >= count]:
        raise ValueError(f"it has {count} frames, and a click in frame {late[0]}; they count from 0")
    last = frames.stop - frames.start - 1
    return [Click(frame=min(max(c.frame - frames.start, 0), last), point=c.point) for c in clicks]


def tracked_path(images: Sequence[np.ndarray], clicks: Sequence[Click]) -> ImagePath:
    """The gripper's path in grey `images`, each uint8 [H, W], by clicks in some of them.

    Between two clicks the point is followed from both, and what is nearer in time counts more. Raises ValueError, in
    one line, for a click outside of the images.
    """
    height, width = images[0].shape
    for click in clicks:
        if not (0 <= click.point[0] < width and 0 <= click.point[1] < height):
            raise ValueError(f"the click {click.point} lies outside of its images of {width}x{height} pixels")
    by_frame = {click.frame: np.array(click.point, np.float64) for click in clicks}
    frames, points = sorted(by_frame), np.full((len(images), 2), np.nan)
    for begin, end in pairwise([None, *frames, None]):
        first, last = begin if begin is not None else 0, end if end is not None else len(images) - 1
        ahead = _follow(images, by_frame[begin], range(begin, last + 1)) if begin is not None else {}
        back = _follow(images, by_frame[end], range(end, first - 1, -1)) if end is not None else {}
        for k in range(first, last + 1):
            points[k] = _blend(ahead.get(k), back.get(k), (k - first) / max(last - first, 1))
    known = np.all((points >= 0) & (points <= (width - 1, height - 1)), axis=1)  # False for NaN
    points[~known] = np.nan
    return ImagePath(points, ["" if there else LOST for there in known.tolist()], width, height)


def _blend(ahead: np.ndarray | None, back: np.ndarray | None, share: float) -> np.ndarray | float:
    """A point [2] between two clicks, followed from the one before and back from the one behind."""
    if ahead is not None and back is not None:
        return (1 - share) * ahead + share * back
    return ahead if ahead is not None else back if back is not None else np.nan


def _follow(grey: Sequence[np.ndarray], point: np.ndarray, frames: range) -> dict[int, np.ndarray]:
    """The point [2] in each of `frames`, given in the first, as far as the tracker follows it."""
    out = {frames[0]: point}
    for here, there in pairwise(frames):
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
    points, size = grid.reshape(-1, 1, 2), (15, 15)
    ahead, found, _ = cv2.calcOpticalFlowPyrLK(here, there, points, None, winSize=size, maxLevel=3)
    back, found_back, _ = cv2.calcOpticalFlowPyrLK(there, here, ahead, None, winSize=size, maxLevel=3)
    off = np.linalg.norm((back - points).reshape(-1, 2), axis=1)
    good = (found.ravel() == 1) & (found_back.ravel() == 1) & (off < BACK_ERROR)
    moves = (ahead - points).reshape(-1, 2)[good]
    if len(moves) < LEAST:
        return None
    moving = np.linalg.norm(moves, axis=1) > STILL
    if moving.mean() >= MOVING:
        moves = moves[moving]
    return np.asarray(np.median(moves, axis=0), np.float64)
