"""What looks wrong in an episode and its labels, for a person to look at: nothing is left out for it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Final

import numpy as np

from molmoact_ros.cameras.image_path import ImagePath
from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, split
from molmoact_ros.datasets.episode import Demonstration
from molmoact_ros.datasets.labelling.image_path import hand_positions
from molmoact_ros.datasets.statistics import thinned

JUMP: Final = 0.15
"""Share of the image's diagonal from one frame to the next from which on a path jumps."""
GRIPPER_MOVES: Final = 0.1
"""Change of a gripper's command, of its range, below which it never moves."""
LAG_S: Final = 0.3
"""s between the motion in the images and that of the joints from which on their clocks are apart."""
_LONGEST_LAG: Final = 2.0  # s
_CLEAR: Final = 0.15
"""By how much the correlation at a lag must exceed that without one."""


def check_motion(demonstration: Demonstration) -> Iterator[str]:
    """What looks wrong in an episode's actions and words, one line each."""
    if len(tasks := list(dict.fromkeys(demonstration.tasks))) > 1:
        yield f"{len(tasks)} tasks in one episode: {'; '.join(tasks)}"
    chunk = ActionChunk(demonstration.actions, dt=1.0, stamp=0.0, space=ActionSpace.DELTA_EE)
    for prefix, part in zip(demonstration.arms, split(chunk, len(demonstration.arms)), strict=True):
        if np.ptp(part.actions[:, 6]) < GRIPPER_MOVES:
            yield f"the {prefix.rstrip('_')} gripper never moves".replace("  ", " ")


def check_path(path: ImagePath) -> Iterator[str]:
    """Where a path jumps, one line."""
    steps = np.linalg.norm(np.diff(path.points, axis=0), axis=1) / np.hypot(path.width, path.height)
    far = np.flatnonzero(np.nan_to_num(steps) > JUMP)
    if len(far):
        yield f"the trace jumps by {steps[far[0]]:.0%} of the image's diagonal after frame {far[0]}" + (
            f", and in {len(far) - 1} other places" if len(far) > 1 else ""
        )


def check_traces(traces: Sequence[np.ndarray | None]) -> Iterator[str]:
    """Where the first points of traces, int [k, 2] in 0..255, jump: each comes from its frame alone. One line."""
    first = np.array([[np.nan, np.nan] if trace is None else trace[0] for trace in traces]).reshape(-1, 2)
    yield from check_path(ImagePath(first, [""] * len(first), 256, 256))


class ClockCheck:
    """Compares the motion in images with that of the hand: the same motion at another time means other clocks."""

    def __init__(self) -> None:
        self._last: np.ndarray | None = None
        self._energy: list[float] = []

    def observe_image(self, image: np.ndarray) -> None:
        """Process the next frame's image of the first camera, uint8 [H, W, 3]."""
        grey = thinned(image).astype(np.float32).mean(axis=2)
        if self._last is not None and self._last.shape == grey.shape:
            self._energy.append(float(np.abs(grey - self._last).mean()))
        self._last = grey

    def problems(self, demonstration: Demonstration) -> Iterator[str]:
        """Whether images and hand are apart, one line."""
        hands = hand_positions(demonstration)
        speed = np.linalg.norm(np.diff(hands, axis=1), axis=2).sum(axis=0)
        lag = _lag(np.array(self._energy), speed, round(_LONGEST_LAG * demonstration.fps)) / demonstration.fps
        if abs(lag) > LAG_S:
            late = "after" if lag > 0 else "before"
            yield f"clocks apart: images show the motion {abs(lag):.1f} s {late} the joints do"


def _lag(seen: np.ndarray, moved: np.ndarray, most: int) -> int:
    """Frames by which `seen` [n] comes after `moved` [n]; 0 unless a lag fits clearly better than none."""
    count = min(len(seen), len(moved))
    if count < 4 * most or not np.ptp(seen[:count]) or not np.ptp(moved[:count]):
        return 0

    def fit(lag: int) -> float:
        one, other = seen[max(lag, 0) : count + min(lag, 0)], moved[max(-lag, 0) : count + min(-lag, 0)]
        return float(np.corrcoef(one, other)[0, 1]) if np.ptp(one) and np.ptp(other) else -1.0

    best = max(range(-most, most + 1), key=lambda lag: (fit(lag), -abs(lag)))
    return best if fit(best) > fit(0) + _CLEAR else 0
