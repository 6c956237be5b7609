"""The arms' MuJoCo model: one file describes an arm, and each arm of a workcell is attached at the pose of its base."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from molmoact_ros.robots.franka import Arm


def arms_spec(robot: Path, arms: Sequence[Arm], frame: Arm | None = None) -> mujoco.MjSpec:
    """A spec with each of `arms` from the MJCF file `robot`, names prefixed, in the base frame of `frame`.

    Without `frame`, in the frame in which the arms' bases are given. Raises FileNotFoundError when the file is missing.
    """
    if not robot.is_file():
        raise FileNotFoundError(f"robot model {robot} is missing; reinstall molmoact_ros or give its path")
    if len(arms) == 1 and not arms[0].prefix and frame in (None, arms[0]):
        return _one(robot)
    spec, like = mujoco.MjSpec(), _one(robot)
    for option in ("integrator", "cone", "impratio"):  # global to the model; attaching drops those of the attached one
        setattr(spec.option, option, getattr(like.option, option))
    for arm in arms:
        x, y, z, yaw = arm.base if frame is None else _seen_from(frame.base, arm.base)
        at = spec.worldbody.add_frame(pos=[x, y, z], quat=[np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)])
        spec.attach(_one(robot), prefix=arm.prefix, frame=at)
    return spec


def _one(robot: Path) -> mujoco.MjSpec:
    spec = mujoco.MjSpec.from_file(str(robot))
    for key in list(spec.keys):
        spec.delete(key)
    return spec


def _seen_from(frame: tuple[float, ...], base: tuple[float, ...]) -> tuple[float, ...]:
    (dx, dy, dz, turn), yaw = np.subtract(base, frame), frame[3]
    c, s = np.cos(yaw), np.sin(yaw)
    return float(c * dx + s * dy), float(c * dy - s * dx), float(dz), float(turn)
