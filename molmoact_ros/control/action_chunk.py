"""Action chunks: their layout, and the checks that a chunk passes before it is played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from scipy.spatial.transform import Rotation

MAX_SPEED_M, MAX_SPEED_RAD = 0.5, 2.5  # m/s and rad/s: the fastest plausible motion, whatever the step time
ARM = 7


class ActionSpace(IntEnum):
    """What the values of a chunk mean, as in msg/ActionChunk.msg. The last value of each action is the gripper.

    DELTA_EE: dx, dy, dz (m), droll, dpitch, dyaw (rad) in the base frame, relative to the previous pose. EE: the
    absolute pose, x, y, z (m), roll, pitch, yaw (rad, fixed axes). JOINT: seven joint positions (rad).
    """

    DELTA_EE = 0
    EE = 1
    JOINT = 2

    @property
    def dimensions(self) -> int:
        """Number of values in one action of one arm."""
        return ARM + 1 if self is ActionSpace.JOINT else 7


ROUNDING = 1e-9  # relative

MAX_TURN = 2.8  # rad from the anchor within one chunk; beyond pi the direction of a rotation is ambiguous


class RefusedChunk(ValueError):
    """A chunk that must not move the arm. The message gives the reason in one line.

    insane: the chunk is malformed, so the engine that sent it is faulty.
    """

    def __init__(self, message: str, insane: bool = False) -> None:
        super().__init__(message)
        self.insane = insane


@dataclass(frozen=True)
class ActionChunk:
    """A sequence of actions that the policy plans from one observation.

    Args:
        actions: float [N, D], D = 7 (8 for JOINT); twice that for two arms, in the order of `join`.
        dt: duration of a step, s.
        stamp: capture time of the image that the chunk was planned from, s.
        plan_id: number of the plan that the chunk belongs to.
        space: what the values mean.

    >>> chunk = ActionChunk(np.zeros((8, 7)), dt=0.1, stamp=20.0)
    >>> round(chunk.end, 3)
    20.8
    """

    actions: np.ndarray
    dt: float
    stamp: float
    plan_id: int = 0
    space: ActionSpace = ActionSpace.DELTA_EE

    @property
    def end(self) -> float:
        """End time of the chunk if it starts at its stamp, s."""
        return self.stamp + self.dt * len(self.actions)


def _columns(arms: int, space: ActionSpace) -> list[np.ndarray]:
    """The columns of each arm's values. Values of one kind are adjacent, the left arm's first.

    The kinds are translations, rotations, grippers; or joints, grippers.
    """
    kinds = (ARM, 1) if space is ActionSpace.JOINT else (3, 3, 1)
    first = np.cumsum([0, *(arms * kind for kind in kinds[:-1])])
    blocks = list(zip(first, kinds, strict=True))
    return [np.concatenate([at + arm * kind + np.arange(kind) for at, kind in blocks]) for arm in range(arms)]


def join(actions: Sequence[np.ndarray], space: ActionSpace) -> np.ndarray:
    """Merge the actions of n arms, [N, D] each, into one row per step, ordered as in msg/ActionChunk.msg: [N, D n]."""
    out = np.empty((len(actions[0]), sum(part.shape[1] for part in actions)))
    for part, columns in zip(actions, _columns(len(actions), space), strict=True):
        out[:, columns] = part
    return out


def still(actions: np.ndarray) -> np.ndarray:
    """Actions that move no arm, DELTA_EE [N, 7 a], for `actions` of a arms in any space; grippers keep their values."""
    fingers = actions.shape[1] // ActionSpace.DELTA_EE.dimensions
    out = np.zeros((len(actions), fingers * ActionSpace.DELTA_EE.dimensions), actions.dtype)
    out[:, -fingers:] = actions[-1, -fingers:]
    return out


def split(chunk: ActionChunk, arms: int) -> tuple[ActionChunk, ...]:
    """Split a chunk into one for each of `arms` arms. Raises RefusedChunk if the shape of the actions does not fit."""
    actions = np.asarray(chunk.actions, np.float64)
    if actions.ndim != 2 or actions.shape[1] != arms * chunk.space.dimensions or not len(actions):
        raise RefusedChunk(
            f"chunk {chunk.plan_id} has shape {list(actions.shape)}, expected [N, {arms * chunk.space.dimensions}]; "
            "check the checkpoint", insane=True,
        )  # fmt: skip
    return tuple(replace(chunk, actions=actions[:, columns]) for columns in _columns(arms, chunk.space))


def check_chunk(chunk: ActionChunk, now: float, standing: bool = False) -> np.ndarray:
    """The actions float64 [N, D] of one arm's chunk. Raises RefusedChunk if it must not be played at `now`, s.

    standing: the arm has stood since its image, so that it may be of any age.
    """
    (whole,) = split(chunk, 1)
    name, actions = f"chunk {chunk.plan_id}", whole.actions
    if not (np.isfinite(actions).all() and np.isfinite([chunk.dt, chunk.stamp]).all()):
        reason = f"{name} holds NaN or infinity; check the checkpoint with `molmoact-ros doctor`"
        raise RefusedChunk(reason, insane=True)
    if not 0.005 <= chunk.dt <= 1.0:
        raise RefusedChunk(f"{name} has steps of {chunk.dt} s, expected 0.005 to 1 s", insane=True)
    _check_steps(name, actions, chunk.space, chunk.dt)
    if actions[:, -1].min() < -0.1 or actions[:, -1].max() > 1.1:
        raise RefusedChunk(f"{name} has a gripper value outside 0..1; check the checkpoint")
    if chunk.stamp > now + 0.05:
        raise RefusedChunk(f"{name} is stamped {chunk.stamp - now:.2f} s in the future; synchronise the clocks")
    if chunk.end <= now and not standing:
        raise RefusedChunk(f"{name} ended {now - chunk.end:.2f} s ago; the engine is too slow")
    return actions


def _check_steps(name: str, actions: np.ndarray, space: ActionSpace, dt: float) -> None:
    """Raise RefusedChunk where a step of `dt` s is implausibly fast."""
    metres, radians = MAX_SPEED_M * dt * (1 + ROUNDING), MAX_SPEED_RAD * dt * (1 + ROUNDING)
    if space is ActionSpace.DELTA_EE:
        turns = Rotation.from_euler("xyz", actions[:, 3:6]).magnitude()
        far = np.linalg.norm(actions[:, :3], axis=1).max() > metres or turns.max() > radians
        turned = np.abs(actions[:, 3:6]).sum(axis=0).max() > MAX_TURN
    elif space is ActionSpace.EE:
        turns = Rotation.from_euler("xyz", actions[:, 3:6])
        moved = np.linalg.norm(np.diff(actions[:, :3], axis=0), axis=1).max(initial=0.0)
        far = moved > metres or (turns[:-1].inv() * turns[1:]).magnitude().max(initial=0.0) > radians
        turned = False
    else:
        far, turned = np.abs(np.diff(actions[:, :ARM], axis=0)).max(initial=0.0) > radians, False
    if far:
        limits = f"{MAX_SPEED_M} m/s or {MAX_SPEED_RAD} rad/s"
        raise RefusedChunk(f"{name} is faster than {limits}; check the normalisation key and the time of a step")
    if turned:
        raise RefusedChunk(f"{name} turns the hand by more than {MAX_TURN} rad; check the normalisation key")
