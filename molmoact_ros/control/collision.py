"""How far the arm is from leaving its box, from the table and from itself, on the robot's MJCF model."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from pydantic import BaseModel

from molmoact_ros.robots.franka import JOINTS, SINGLE, Arm

NAMES = ("workspace", "table", "self_collision")


class Workspace(BaseModel):
    """The box in the base frame, m, that the tool centre point never leaves. The finger tips end 0.0095 m below it."""

    low: tuple[float, float, float] = (0.25, -0.45, 0.012)
    high: tuple[float, float, float] = (0.75, 0.45, 0.70)


class Surroundings(BaseModel):
    """Where the arm may be. Distances in m."""

    workspace: Workspace = Workspace()
    table: float | None = 0.0  # height of the table's top in the base frame; None: there is no table
    table_distance: float = 0.002  # kept between hand side and table: finger tips must come near it
    self_distance: float = 0.02  # kept between hand side and shoulder side


class Guard:
    """Measures by how much joints break the surroundings' rules.

    MuJoCo's contacts judge the table. Those between two boxes that do not touch yet are often not found, so the arm
    itself is judged by geometric distances: exact, and taken only of pairs whose bounding spheres are near.
    """

    def __init__(self, robot: Path, surroundings: Surroundings, arm: Arm = SINGLE) -> None:
        """`robot`: the MJCF file."""
        self._model = _model(robot, surroundings)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.tcp_frame).id
        self._table, self._self = surroundings.table_distance, surroundings.self_distance
        self._low, self._high = np.array(surroundings.workspace.low), np.array(surroundings.workspace.high)
        self._pairs = _pairs(self._model, arm)
        self._near = self._model.geom_rbound[self._pairs].sum(axis=1) + self._self

    def breach(self, q: np.ndarray) -> np.ndarray:
        """By how many m the joints `q` [7] rad break the rules of NAMES, float64 [3]; 0 where one is kept."""
        data, out = self._data, np.zeros(3)
        data.qpos[:JOINTS] = q
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_collision(self._model, data)
        position = data.site_xpos[self._site]
        out[0] = max(0.0, float((self._low - position).max()), float((position - self._high).max()))
        if data.ncon:
            out[1] = max(0.0, self._table - float(data.contact.dist.min()))
        between = data.geom_xpos[self._pairs[:, 0]] - data.geom_xpos[self._pairs[:, 1]]
        for one, other in self._pairs[np.einsum("ij,ij->i", between, between) < self._near**2]:
            apart = mujoco.mj_geomDistance(self._model, data, one, other, self._self, None)
            out[2] = max(out[2], self._self - apart)
        return out


def _pairs(model: mujoco.MjModel, arm: Arm) -> np.ndarray:
    """Shapes [n, 2] that must keep apart: of the shoulder side (links 0 to 3) and of the hand side (links 4 on).

    Neighbours touch by construction, and the joint limits keep the folded forearm off the upper arm.
    """
    link = [f"{arm.prefix}{arm.robot}_link{i}" for i in range(8)]
    neighbours = {(link[2], link[4]), (link[3], link[4]), (link[3], link[5])}
    body = [model.body(i).name for i in model.geom_bodyid]
    shapes = [g for g, name in enumerate(body) if name.startswith(f"{arm.prefix}{arm.robot}_")]
    shoulder, hand = ([g for g in shapes if (body[g] in link[:4]) is side] for side in (True, False))
    return np.array([(a, b) for a in shoulder for b in hand if (body[a], body[b]) not in neighbours])


def _model(robot: Path, surroundings: Surroundings) -> mujoco.MjModel:
    """The robot over its table; only the two can touch, and only what moves: the shoulder stands on it."""
    spec = mujoco.MjSpec.from_file(str(robot))
    for key in list(spec.keys):
        spec.delete(key)
    for body in spec.bodies:
        fixed = body.name == "world" or any(body.name.endswith(f"_link{i}") for i in range(4))
        for geom in body.geoms:
            geom.contype, geom.conaffinity, geom.margin = 0, 0 if fixed else 1, 0.0
    if surroundings.table is not None:
        spec.worldbody.add_geom(
            name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], pos=[0, 0, surroundings.table],
            contype=1, conaffinity=0, margin=surroundings.table_distance,
        )  # fmt: skip
    return spec.compile()
