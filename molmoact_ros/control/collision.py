"""How far an arm violates its workspace and its clearance to table, itself and other arms, on the MJCF model."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np
from pydantic import BaseModel, ConfigDict, Field, model_validator

from molmoact_ros.robots.franka import SINGLE, Arm
from molmoact_ros.robots.mjcf import arms_spec

NAMES = ("workspace", "table", "self_collision", "arm_distance")
_BOX, _TABLE, _SELF, _ARMS = range(len(NAMES))


class Workspace(BaseModel):
    """The box in the base frame, m, that the tool centre point never leaves. The finger tips end 0.0095 m below it."""

    model_config = ConfigDict(allow_inf_nan=False)

    low: tuple[float, float, float] = (0.25, -0.45, 0.012)
    high: tuple[float, float, float] = (0.75, 0.45, 0.70)

    @model_validator(mode="after")
    def _is_a_box(self) -> Workspace:
        if any(low >= high for low, high in zip(self.low, self.high, strict=True)):
            raise ValueError(
                f"the workspace is no box: its low corner {self.low} is not below the high one {self.high}"
            )
        return self

    def outside(self, hand: np.ndarray) -> float:
        """Distance of `hand` [3] m outside of the box along the worst axis, m; 0 inside."""
        return float(np.max([np.subtract(self.low, hand), np.subtract(hand, self.high), np.zeros(3)]))


class Surroundings(BaseModel):
    """The workspace and the clearances that the arm keeps. Distances in m."""

    model_config = ConfigDict(allow_inf_nan=False)

    workspace: Workspace = Workspace()
    table: float | None = 0.0  # height of the table's top in the base frame; None: there is no table
    table_distance: float = Field(0.002, ge=0, le=1)  # hand side to table: finger tips must come near it
    self_distance: float = Field(0.02, ge=0, le=1)  # clearance between hand side and shoulder side
    arm_distance: float = Field(0.04, ge=0, le=1)  # clearance between any two arms


class CollisionChecker:
    """Measures by how much joint positions violate workspace and clearances.

    MuJoCo's contacts serve for the table. Contacts between two boxes that do not touch yet are wrong or missing, so
    self-collision and other arms use geometric distances: exact, and computed only for pairs whose bounding spheres
    are near.

        guard = CollisionChecker(Path("models/fr3/fr3.xml"), Surroundings())
        workspace, table, self_collision, arm_distance = guard.breach(q[None])[0]  # m, for joints [7] rad
    """

    def __init__(self, robot: Path, surroundings: Surroundings, arm: Arm = SINGLE, others: Sequence[Arm] = ()) -> None:
        """Load the model.

        Args:
            robot: an arm's MJCF file. Raises FileNotFoundError when it is missing.
            surroundings: workspace, table and clearances.
            arm: the arm to check.
            others: the arms beside it.
        """
        self._model = _model(robot, surroundings, arm, others)
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.tcp_frame).id
        self._own_addresses = _joints(self._model, arm)
        self._other_addresses = [address for other in others for address in _joints(self._model, other)]
        self._low, self._high = np.array(surroundings.workspace.low), np.array(surroundings.workspace.high)
        self._table, apart = surroundings.table_distance, {_SELF: surroundings.self_distance}
        apart[_ARMS] = surroundings.arm_distance
        pairs = {_SELF: _within(self._model, arm), _ARMS: _between(self._model, arm, others)}
        self._pairs = np.array([*pairs[_SELF], *pairs[_ARMS]])
        self._rules = [rule for rule, found in pairs.items() for _ in found]
        self._apart = [apart[rule] for rule in self._rules]
        self._near = self._model.geom_rbound[self._pairs].sum(axis=1) + self._apart

    def hand(self, q: np.ndarray) -> np.ndarray:
        """Position [3] m of the tool centre point in the base frame for joints `q` [7] rad."""
        self._place(0, q[None], None)
        return np.array(self._data.site_xpos[self._site])

    def breach(self, q: np.ndarray, beside: np.ndarray | None = None) -> np.ndarray:
        """Violation of each constraint of NAMES in m, for each row of joints `q` [k, 7] rad: float64 [k, 4]; 0: none.

        beside: joints of the other arms, one after the other, [k, 7 n] rad; None where there are none.
        """
        return self.survey(q, beside)[0]

    def survey(self, q: np.ndarray, beside: np.ndarray | None = None) -> tuple[np.ndarray, np.ndarray]:
        """`breach`, and the position [k, 3] m of the tool centre point in the base frame for each row of joints."""
        model, data, out = self._model, self._data, np.zeros((len(q), len(NAMES)))
        hands, places = np.empty((len(q), 3)), np.empty((len(q), model.ngeom, 3))
        for k in range(len(q)):
            self._place(k, q, beside)
            mujoco.mj_collision(model, data)
            hands[k], places[k] = data.site_xpos[self._site], data.geom_xpos
            if data.ncon:
                out[k, _TABLE] = max(0.0, self._table - float(data.contact.dist.min()))
        outside = np.maximum(self._low - hands, hands - self._high)
        out[:, _BOX] = np.maximum(0.0, outside.max(axis=1))
        between = places[:, self._pairs[:, 0]] - places[:, self._pairs[:, 1]]
        near = np.einsum("kij,kij->ki", between, between) < self._near**2
        for k in np.flatnonzero(near.any(axis=1)).tolist():
            self._place(k, q, beside)
            for pair in np.flatnonzero(near[k]).tolist():
                rule, kept = self._rules[pair], self._apart[pair]
                distance = mujoco.mj_geomDistance(model, data, *self._pairs[pair], kept, None)
                out[k, rule] = max(out[k, rule], kept - distance)
        return out, hands

    def _place(self, k: int, q: np.ndarray, beside: np.ndarray | None) -> None:
        self._data.qpos[self._own_addresses] = q[k]
        if beside is not None:
            self._data.qpos[self._other_addresses] = beside[k]
        mujoco.mj_kinematics(self._model, self._data)


def _joints(model: mujoco.MjModel, arm: Arm) -> list[int]:
    return [int(model.joint(joint).qposadr[0]) for joint in arm.joints]


def _shapes(model: mujoco.MjModel, arm: Arm) -> list[tuple[int, str]]:
    """The arm's geoms, each with the name of its body."""
    named = ((g, model.body(body).name) for g, body in enumerate(model.geom_bodyid))
    return [(g, name) for g, name in named if name.startswith(f"{arm.prefix}{arm.robot}_")]


def _within(model: mujoco.MjModel, arm: Arm) -> list[tuple[int, int]]:
    """Pairs of geoms that must keep apart: of the shoulder side (links 0 to 3) and of the hand side (links 4 on).

    Neighbours touch by construction, and the joint limits keep the folded forearm off the upper arm.
    """
    link = [f"{arm.prefix}{arm.robot}_link{i}" for i in range(8)]
    neighbours = {(link[2], link[4]), (link[3], link[4]), (link[3], link[5])}
    shapes = _shapes(model, arm)
    shoulder, hand = ([(g, name) for g, name in shapes if (name in link[:4]) is side] for side in (True, False))
    return [(a, b) for a, one in shoulder for b, other in hand if (one, other) not in neighbours]


def _between(model: mujoco.MjModel, arm: Arm, others: Sequence[Arm]) -> list[tuple[int, int]]:
    """Every geom of the arm paired with every geom of the others, except two bases, which never move."""
    theirs = [g for other in others for g, _ in _shapes(model, other)]
    pairs = [(a, b) for a, _ in _shapes(model, arm) for b in theirs]
    return [pair for pair in pairs if model.body_weldid[model.geom_bodyid[list(pair)]].any()]


def _model(robot: Path, surroundings: Surroundings, arm: Arm, others: Sequence[Arm]) -> mujoco.MjModel:
    """The arms over their table. Only the moving links of this arm collide with it: the shoulder stands on it."""
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
