"""Cuts what stands still at both ends of an episode."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from itertools import islice
from typing import Any, Final

import numpy as np

from molmoact_ros.control.action_chunk import ActionChunk, ActionSpace, split
from molmoact_ros.datasets.episode import Demonstration

STILL_M: Final = 0.005
"""m/s below which a hand stands still: ten times what the noise of its joints makes of it."""
STILL_RAD: Final = 0.03
"""rad/s, likewise."""
STILL_GRIPPER: Final = 0.02
"""Change of the gripper's command, of its range, below which it is the same."""


def moving_part(demonstration: Demonstration) -> slice:
    """The frames from the first action that moves something to the last one, and one that stands still behind them.

    That one is what chunks at the end repeat: without it an episode would end in motion. Empty where nothing moves.
    """
    chunk = ActionChunk(demonstration.actions, dt=1.0, stamp=0.0, space=ActionSpace.DELTA_EE)
    moves = np.zeros(len(demonstration.actions), bool)
    for part in split(chunk, len(demonstration.arms)):
        arm = part.actions
        moves |= np.linalg.norm(arm[:, :3], axis=1) * demonstration.fps > STILL_M
        moves |= np.linalg.norm(arm[:, 3:6], axis=1) * demonstration.fps > STILL_RAD
        moves[1:] |= np.abs(np.diff(arm[:, 6])) > STILL_GRIPPER
    found = np.flatnonzero(moves)
    return slice(int(found[0]), min(int(found[-1]) + 2, len(moves))) if len(found) else slice(0, 0)


def trimmed(demonstration: Demonstration, frames: slice) -> Demonstration:
    """Those frames of an episode; images and depth are still read when they are asked for."""
    d = demonstration
    return replace(
        d, tasks=d.tasks[frames], states=d.states[frames], actions=d.actions[frames],
        joints=None if d.joints is None else d.joints[frames],
        interventions=None if d.interventions is None else d.interventions[frames],
        pictures={name: _cut(read, frames) for name, read in d.pictures.items()},
        depth=None if d.depth is None else _cut(d.depth, frames),
    )  # fmt: skip


def _cut(read: Callable[[], Iterator[Any]], frames: slice) -> Callable[[], Iterator[Any]]:
    return lambda: islice(read(), frames.start, frames.stop)
