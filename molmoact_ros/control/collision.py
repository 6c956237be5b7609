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
_SELF, _ARMS = 2, 3  # of NAMES


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

    MuJoCo's contacts judge the table. Those between two boxes that do not touch yet are wrong or missing, so
    the arm itself and others are judged by geometric distances: exact, and taken only of pairs whose bounding spheres
    are near.
    """

    def __init__(self, robot: Path, surroundings: Surroundings, arm: Arm = SINGLE, others: Sequence[Arm] = ()) -> None:
        """`robot`: the MJCF file; others: the arms beside this one."""
        self._model = _model(robot, surroundings, arm, others)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.tcp_frame).id
        self._mine = _joints(self._model, arm)
        self._theirs = [address for other in others for address in _joints(self._model, other)]
        self._low, self._high = np.array(surroundings.workspace.low), np.array(surroundings.workspace.high)
        self._table, apart = surroundings.table_distance, {_SELF: surroundings.self_distance}
        apart[_ARMS] = surroundings.arm_distance
        pairs = {_SELF: _within(self._model, arm), _ARMS: _between(self._model, arm, others)}
        self._pairs = np.array([*pairs[_SELF], *pairs[_ARMS]])
        self._rules = [rule for rule, found in pairs.items() for _ in found]
        self._apart = [apart[rule] for rule in self._rules]
        self._near = self._model.geom_rbound[self._pairs].sum(axis=1) + self._apart

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
        if data.ncon:
            out[1] = max(0.0, self._table - float(data.contact.dist.min()))
        between = data.geom_xpos[self._pairs[:, 0]] - data.geom_xpos[self._pairs[:, 1]]
        for k in np.flatnonzero(np.einsum("ij,ij->i", between, between) < self._near**2):
            rule, kept = self._rules[k], self._apart[k]
            distance = mujoco.mj_geomDistance(self._model, data, *self._pairs[k], kept, None)
            out[rule] = max(out[rule], kept - distance)
        return out


def _joints(model: mujoco.MjModel, arm: Arm) -> list[int]:
    return [int(model.joint(joint).qposadr[0]) for joint in arm.joints]


def _shapes(model: mujoco.MjModel, arm: Arm) -> list[tuple[int, str]]:
    """The arm's shapes, each with the name of its body."""
    named = ((g, model.body(body).name) for g, body in enumerate(model.geom_bodyid))
    return [(g, name) for g, name in named if name.startswith(f"{arm.prefix}{arm.robot}_")]


def _within(model: mujoco.MjModel, arm: Arm) -> list[tuple[int, int]]:
    """Shapes that must keep apart: of the shoulder side (links 0 to 3) and of the hand side (links 4 on).

    Neighbours touch by construction, and the joint limits keep the folded forearm off the upper arm.
    """
    link = [f"{arm.prefix}{arm.robot}_link{i}" for i in range(8)]
    neighbours = {(link[2], link[4]), (link[3], link[4]), (link[3], link[5])}
    shapes = _shapes(model, arm)
    shoulder, hand = ([(g, name) for g, name in shapes if (name in link[:4]) is side] for side in (True, False))
    return [(a, b) for a, one in shoulder for b, other in hand if (one, other) not in neighbours]


def _between(model: mujoco.MjModel, arm: Arm, others: Sequence[Arm]) -> list[tuple[int, int]]:
    """Every shape of the arm and every one of the others; not two bases, which never move."""
    theirs = [g for other in others for g, _ in _shapes(model, other)]
    pairs = [(a, b) for a, _ in _shapes(model, arm) for b in theirs]
    return [pair for pair in pairs if model.body_weldid[model.geom_bodyid[list(pair)]].any()]


def _model(robot: Path, surroundings: Surroundings, arm: Arm, others: Sequence[Arm]) -> mujoco.MjModel:
    """The arms over their table; only this one can touch it, and only what moves: the shoulder stands on it."""
    spec = arms_spec(robot, [arm, *others], arm)
    fixed = {f"{arm.prefix}{arm.robot}_link{i}" for i in range(4)}
    for body in spec.bodies:
        touches = body.name.startswith(f"{arm.prefix}{arm.robot}_") and body.name not in fixed
        for geom in body.geoms:
            geom.contype, geom.conaffinity, geom.margin = 0, int(touches), 0.0
    if surroundings.table is not None:
        spec.worldbody.add_geom(
            name="table", type=mujoco.mjtGeom.mjGEOM_PLANE, size=[2, 2, 0.1], pos=[0, 0, surroundings.table],
            contype=1, conaffinity=0, margin=surroundings.table_distance,
        )  # fmt: skip
    return spec.compile()
