"""Action chunks: what one is, and what is checked of it before it is played."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import IntEnum

import numpy as np
from scipy.spatial.transform import Rotation

MAX_SPEED_M, MAX_SPEED_RAD = 0.5, 2.5  # m/s and rad/s: the fastest motion that is believed, whatever a step's time is
ARM = 7


class ActionSpace(IntEnum):
    """What the numbers of a chunk mean, as in msg/ActionChunk.msg. The last value of each action is the gripper.

    DELTA_EE: dx, dy, dz (m), droll, dpitch, dyaw (rad) in the base frame, relative to the pose before. EE: the pose
    itself, x, y, z (m), roll, pitch, yaw (rad, fixed axes). JOINT: seven joint positions (rad).
    """

    DELTA_EE = 0
    EE = 1
    JOINT = 2

    @property
    def dimensions(self) -> int:
        """Count of values in an action for one arm."""
        return ARM + 1 if self is ActionSpace.JOINT else 7


ROUNDING = 1e-9  # relative

MAX_TURN = 2.8  # rad from the anchor within one chunk; beyond pi a rotation has no unambiguous way


class RefusedChunk(ValueError):
    """A chunk that must not move the arm; its message says why in one line. `insane`: no sound engine plans this."""

    def __init__(self, message: str, insane: bool = False) -> None:
        super().__init__(message)
        self.insane = insane


@dataclass(frozen=True)
class ActionChunk:
    """`actions` float [N, D], D = 7 (`space` JOINT: 8); for two arms twice that, ordered as `join` does.

    dt: seconds a step; stamp: when the picture was taken, s; plan_id: which plan it belongs to.
    """

    actions: np.ndarray
    dt: float
    stamp: float
    plan_id: int = 0
    space: ActionSpace = ActionSpace.DELTA_EE

    @property
    def end(self) -> float:
        """When it is over if it is begun at its stamp, s."""
        return self.stamp + self.dt * len(self.actions)


def _columns(arms: int, space: ActionSpace) -> list[np.ndarray]:
    """The columns of each arm's values: those of one kind stand together, the left arm's first.

    Translations, rotations, grippers; or joints, grippers.
    """
    kinds = (ARM, 1) if space is ActionSpace.JOINT else (3, 3, 1)
    first = np.cumsum([0, *(arms * kind for kind in kinds[:-1])])
    blocks = list(zip(first, kinds, strict=True))
    return [np.concatenate([at + arm * kind + np.arange(kind) for at, kind in blocks]) for arm in range(arms)]


def join(actions: Sequence[np.ndarray], space: ActionSpace) -> np.ndarray:
    """The actions of all arms, each [N, D], in one row a step, as msg/ActionChunk.msg has them: [N, D n]."""
    out = np.empty((len(actions[0]), sum(part.shape[1] for part in actions)))
    for part, columns in zip(actions, _columns(len(actions), space), strict=True):
        out[:, columns] = part
    return out


def still(actions: np.ndarray) -> np.ndarray:
    """As many actions that move no arm, DELTA_EE [N, D], the fingers as they are at the end of `actions` [N, D]."""
    out, fingers = np.zeros_like(actions), actions.shape[1] // ActionSpace.DELTA_EE.dimensions
    out[:, -fingers:] = actions[-1, -fingers:]
    return out


def split(chunk: ActionChunk, arms: int) -> tuple[ActionChunk, ...]:
    """One chunk for each of `arms` arms. Raises RefusedChunk when the actions cannot be shared out."""
    actions = np.asarray(chunk.actions, np.float64)
    if actions.ndim != 2 or actions.shape[1] != arms * chunk.space.dimensions or not len(actions):
        raise RefusedChunk(
            f"chunk {chunk.plan_id} has shape {list(actions.shape)}, expected [N, {arms * chunk.space.dimensions}]; "
            "check the checkpoint", insane=True,
        )  # fmt: skip
    return tuple(replace(chunk, actions=actions[:, columns]) for columns in _columns(arms, chunk.space))


def check_chunk(chunk: ActionChunk, now: float) -> np.ndarray:
    """The actions float64 [N, D] of one arm's chunk that may be played at `now`, s. RefusedChunk: it may not."""
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
    if chunk.end <= now:
        raise RefusedChunk(f"{name} ended {now - chunk.end:.2f} s ago; the engine is too slow")
    return actions


def _check_steps(name: str, actions: np.ndarray, space: ActionSpace, dt: float) -> None:
    """Raises RefusedChunk where a step of `dt` s is faster than is believed."""
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
