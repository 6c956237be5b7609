"""How far the arm is from leaving its box, from the table and from itself, on the robot's MJCF model."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from pydantic import BaseModel

from molmoact_ros.robots.franka import JOINTS, SINGLE, Arm

NAMES = ("workspace", "table", "self_collision")
_UPPER, _LOWER, _TABLE = 1, 2, 4  # collision groups: shoulder side, hand side, table


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
    """Measures by how much joints break the surroundings' rules. MuJoCo finds the pairs of shapes within a margin."""

    def __init__(self, robot: Path, surroundings: Surroundings, arm: Arm = SINGLE) -> None:
        """`robot`: the MJCF file."""
        self._model = _model(robot, surroundings, arm)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.tcp_frame).id
        self._is_table = self._model.geom_contype == _TABLE
        self._margin = np.array([surroundings.self_distance, surroundings.table_distance])
        self._low, self._high = np.array(surroundings.workspace.low), np.array(surroundings.workspace.high)

    def breach(self, q: np.ndarray) -> np.ndarray:
        """By how many m the joints `q` [7] rad break the rules of NAMES, float64 [3]; 0 where one is kept."""
        data, out = self._data, np.zeros(3)
        data.qpos[:JOINTS] = q
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_collision(self._model, data)
        position = data.site_xpos[self._site]
        out[0] = max(0.0, float((self._low - position).max()), float((position - self._high).max()))
        for contact in data.contact[: data.ncon] if data.ncon else ():
            table = int(self._is_table[contact.geom1] or self._is_table[contact.geom2])
            out[2 - table] = max(out[2 - table], self._margin[table] - contact.dist)
        return out


def _model(robot: Path, surroundings: Surroundings, arm: Arm) -> mujoco.MjModel:
    """The robot with shapes that collide where it matters: hand side against shoulder side, and against the table."""
    spec = mujoco.MjSpec.from_file(str(robot))
    for key in list(spec.keys):
        spec.delete(key)
    link = f"{arm.prefix}{arm.robot}_link"
    upper = {f"{link}{i}" for i in range(4)}
    for body in spec.bodies:
        for geom in body.geoms:
            if body.name in upper:
                geom.contype, geom.conaffinity, geom.margin = _UPPER, 0, surroundings.self_distance
            else:
                geom.contype, geom.conaffinity, geom.margin = _LOWER, _UPPER | _TABLE, 0.0
    # Neighbours touch by construction, and the joint limits keep the folded forearm off the upper arm.
    for one, other in (("2", "4"), ("3", "4"), ("3", "5")):
        spec.add_exclude(bodyname1=link + one, bodyname2=link + other)
    if surroundings.table is not None:
        spec.worldbody.add_geom(
            name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], pos=[0, 0, surroundings.table],
            contype=_TABLE, conaffinity=0, margin=surroundings.table_distance,
        )  # fmt: skip
    return spec.compile()
