"""Moments of unseen tasks as the cameras see them, with and without the things on the table."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import cv2
import mujoco
import numpy as np

from molmoact_ros.engine.model.depth_vq import INPUT
from molmoact_ros.reasoning.observation import Observation
from molmoact_ros.sim.camera_renderer import sight
from molmoact_ros.sim.table_workcell import PARKED, Workcell
from molmoact_ros.training.demonstrations import Sampler

MOST_NOISE: Final = 0.0005
"""m: depth differs by more where a thing was taken away; the renderer's own depth is exact to micrometres."""


@dataclass(frozen=True)
class DepthMoment:
    """One moment; arrays have the depth decoder's size.

    observation: images and instruction. depth: float32 [320, 320] m, as the front camera measures it (0: not known).
    bare: the same without objects and targets. held: bool [320, 320], where the held object is seen. heights: float32
    [2, 320, 320], by which a pixel's point at depth d, m, lies heights[0] + heights[1] * d, m, above the table.
    """

    observation: Observation
    depth: np.ndarray
    bare: np.ndarray
    held: np.ndarray
    heights: np.ndarray

    def above_table(self, depth: np.ndarray) -> np.ndarray:
        """Height above the table, float32 [320, 320] m, of what lies at `depth`, float [320, 320] m."""
        return self.heights[0] + self.heights[1] * depth


def sample_moments(robot: Path, count: int, seed: int) -> Iterator[DepthMoment]:
    """`count` moments along and around the expert's way, of the scenes from `seed` on."""
    sampler = Sampler(robot)
    for number in range(seed, seed + count):
        yield _moment(sampler, number)


def _moment(sampler: Sampler, seed: int) -> DepthMoment:
    cell, (scene, state, q, _) = sampler.cell, sampler.moment(seed)
    sampler.pose(scene, state, q)
    front, depth = cell.render("front")
    seen = Observation((front, cell.render("wrist")[0]), scene.task.instruction, 0.0, depth=depth)
    held = np.zeros(depth.shape, bool)
    if state.held:
        held = np.abs(_depth_without(cell, [scene.task.object]) - depth) > MOST_NOISE
    bare = _depth_without(cell, cell.names)
    return DepthMoment(seen, _resized(depth), _resized(bare), _resized(held.astype(np.uint8)) > 0, _heights(cell))


def _depth_without(cell: Workcell, names: list[str]) -> np.ndarray:
    """The front camera's depth, float32 [H, W] m, once `names` are out of its sight, where they stay."""
    for name in names:
        body = cell.model.body(name)
        if body.mocapid[0] >= 0:
            cell.data.mocap_pos[body.mocapid[0]] = PARKED
        else:
            cell.place(name, PARKED)
    mujoco.mj_kinematics(cell.model, cell.data)
    return cell.render("front")[1]


def _resized(pixels: np.ndarray) -> np.ndarray:
    return cv2.resize(pixels, (INPUT, INPUT), interpolation=cv2.INTER_NEAREST)


def _heights(cell: Workcell) -> np.ndarray:
    position, rotation = cell.camera_pose("front")
    k = cell.cameras["front"]
    rows, columns = np.mgrid[: k.height, : k.width].astype(np.float32)
    rays = sight(np.stack([_resized(columns).ravel(), _resized(rows).ravel()], axis=1), rotation, k)
    rise = rays[:, 2].reshape(INPUT, INPUT)
    return np.stack([np.full_like(rise, position[2]), rise]).astype(np.float32)
