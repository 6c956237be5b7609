"""How far an arm is from leaving its box, from table, itself and other arms, on the robot's MJCF model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
from pydantic import BaseModel

from molmoact_ros.robots.franka import SINGLE, Arm
from molmoact_ros.robots.mjcf import arms_spec

NAMES = ("workspace", "table", "self_collision", "arm_distance")
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
    arm_distance: float = 0.04  # kept between any two arms


class Guard:
    """Measures by how much joints break the surroundings' rules.

    MuJoCo's collision finds the pairs of shapes within a margin. Between arms exact distances are asked for instead:
    those of its contacts between two boxes, as the hands are, are off by up to 3 cm.
    """

    def __init__(self, robot: Path, surroundings: Surroundings, arm: Arm = SINGLE, others: Sequence[Arm] = ()) -> None:
        """`robot`: the MJCF file; others: the arms beside this one."""
        self._model = _model(robot, surroundings, arm, others)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.tcp_frame).id
        self._mine = _joints(self._model, arm)
        self._theirs = [address for other in others for address in _joints(self._model, other)]
        self._is_table = self._model.geom_contype == _TABLE
        self._margin = np.array([surroundings.self_distance, surroundings.table_distance])
        self._apart, self._pairs = surroundings.arm_distance, _pairs(self._model, others)
        self._reach = self._model.geom_rbound[self._pairs].sum(axis=0) + self._apart
        self._low, self._high = np.array(surroundings.workspace.low), np.array(surroundings.workspace.high)

    def breach(self, q: np.ndarray, beside: np.ndarray | None = None) -> np.ndarray:
        """By how many m the joints `q` [7] rad break the rules of NAMES, float64 [4]; 0 where one is kept.

        beside: joints of the other arms, one after the other, [7 n] rad; None where there are none.
        """
        data, out = self._data, np.zeros(len(NAMES))
        data.qpos[self._mine] = q
        if beside is not None:
            data.qpos[self._theirs] = beside
        mujoco.mj_kinematics(self._model, data)
        mujoco.mj_collision(self._model, data)
        position = data.site_xpos[self._site]
        out[0] = max(0.0, float((self._low - position).max()), float((position - self._high).max()))
        for contact in data.contact[: data.ncon] if data.ncon else ():
            table = int(self._is_table[contact.geom1] or self._is_table[contact.geom2])
            out[2 - table] = max(out[2 - table], self._margin[table] - contact.dist)
        out[3] = 0.0 if beside is None else self._too_near()
        return out

    def _too_near(self) -> float:
        """By how many m another arm is too near."""
        (mine, theirs), where = self._pairs, self._data.geom_xpos
        apart = np.linalg.norm(where[mine] - where[theirs], axis=1)
        near = np.flatnonzero(apart < self._reach)  # by their bounding spheres
        found = (mujoco.mj_geomDistance(self._model, self._data, *self._pairs[:, k], self._apart, None) for k in near)
        return self._apart - min(found, default=self._apart)


def _pairs(model: mujoco.MjModel, others: Sequence[Arm]) -> np.ndarray:
    """Every shape of the arm against every shape of the others, [2, n]; not the bases, which never move."""
    prefixes = tuple(f"{other.prefix}{other.robot}_" for other in others)
    theirs = np.array([bool(prefixes) and model.body(i).name.startswith(prefixes) for i in model.geom_bodyid])
    arms, moves = model.geom_contype != _TABLE, model.body_weldid[model.geom_bodyid] > 0
    return np.array(np.nonzero(np.outer(arms & ~theirs, theirs) & (moves[:, None] | moves[None])))


def _joints(model: mujoco.MjModel, arm: Arm) -> list[int]:
    return [int(model.jnt_qposadr[model.joint(joint).id]) for joint in arm.joints]


def _model(robot: Path, surroundings: Surroundings, arm: Arm, others: Sequence[Arm]) -> mujoco.MjModel:
    """The robot with shapes that collide where it matters: hand side against shoulder side, and against the table."""
    spec = arms_spec(robot, [arm, *others], arm)
    link = f"{arm.prefix}{arm.robot}_link"
    upper = {f"{link}{i}" for i in range(4)}
    for body in spec.bodies:
        for geom in body.geoms:
            if not body.name.startswith(f"{arm.prefix}{arm.robot}_"):
                geom.contype = geom.conaffinity = 0
            elif body.name in upper:
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
