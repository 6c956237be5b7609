"""Checks every limit of a stream of commands at every cycle, from positions alone, with none of the limiter's code.

Velocities are differences of positions. Distances are MuJoCo's geometric distances between the robot model's own geoms,
pair by pair. An arm that starts outside of a position, workspace or clearance limit may stay or come back, but must not
move farther out.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from itertools import product
from pathlib import Path

import mujoco
import numpy as np

from molmoact_ros.control.collision import Surroundings
from molmoact_ros.control.limiter import LimitScaling
from molmoact_ros.robots.franka import JOINTS, SINGLE, Arm
from molmoact_ros.robots.mjcf import arms_spec

LIMITS = (
    "finite", "position", "velocity", "acceleration", "jerk", "workspace", "table", "self_collision", "cartesian_speed",
)  # fmt: skip
BRAKING = 0.5  # s: while an arm that comes back brakes, it may move out again, as far as it was so long ago
_ROUNDING = 1e-5  # relative, and in m or rad


class LimitChecker:
    """Checks each command of one arm in turn; `broken` counts the cycles in which each limit was violated."""

    def __init__(
        self, robot: Path, dt: float, fractions: LimitScaling, surroundings: Surroundings, arm: Arm = SINGLE
    ) -> None:
        """`robot`: the MJCF file; dt: s between commands."""
        self.broken, self.cycles = dict.fromkeys(LIMITS, 0), 0
        self.peaks = dict.fromkeys(LIMITS[2:5], 0.0)  # the greatest fraction of each limit that was used
        self._dt, self._fractions, self._limits, self._surroundings = dt, fractions, arm.limits, surroundings
        self._model = arms_spec(robot, [arm], arm).compile()
        self._data = mujoco.MjData(self._model)
        self._site = self._model.site(arm.tcp_frame).id
        self._last: deque[np.ndarray] = deque(maxlen=4)
        self._hand_at: np.ndarray | None = None  # position of the hand in the last command, m
        # Violation of each position, workspace and clearance limit in the last cycles, m or rad.
        self._depths: deque[dict[str, float]] = deque(maxlen=max(1, round(BRAKING / dt)))
        body = [self._model.body(i).name for i in self._model.geom_bodyid]
        link = [f"{arm.prefix}{arm.robot}_link{i}" for i in range(8)]
        near = {(link[2], link[4]), (link[3], link[4]), (link[3], link[5])}  # neighbours, as the joint limits allow
        shoulder = [g for g, name in enumerate(body) if name in link[:4]]
        self._hand = [g for g, name in enumerate(body) if name not in link[:4]]
        self._pairs = [(a, b) for a in shoulder for b in self._hand if (body[a], body[b]) not in near]
        self._corners = [_corners(self._model, g) for g in self._hand]

    def command(self, q: np.ndarray, hand_speed: float = np.inf) -> list[str]:
        """The names of the limits that the next command, joints [7] rad, violates. hand_speed: limit, m/s."""
        self.cycles += 1
        if not np.isfinite(q).all():
            return self._note({"finite"})
        self._last.append(np.array(q, np.float64))
        found, before = self._joints(), self._hand_at
        depth = self._places(q)
        for name, deep in depth.items():
            if deep > max((known.get(name, 0.0) for known in self._depths), default=0.0) + _ROUNDING:
                found.add(name)
        self._depths.append(depth)
        assert self._hand_at is not None
        if before is not None and np.linalg.norm(self._hand_at - before) / self._dt > hand_speed * (1 + _ROUNDING):
            found.add("cartesian_speed")
        return self._note(found)

    def rest(self, q: np.ndarray | None = None) -> None:
        """Nothing is commanded: something else may move the arm, and the next command does not follow the last one.

        q: present joints [7] rad; limits that they violate do not count.
        """
        self._last.clear()
        self._hand_at = None
        self._depths.clear()
        if q is not None:
            self._depths.append(self._places(q))
            self._last.append(np.array(q, np.float64))

    def _note(self, names: set[str]) -> list[str]:
        for name in names:
            self.broken[name] += 1
        return sorted(names)

    def _joints(self) -> set[str]:
        limits, f, q, out = self._limits, self._fractions, np.array(self._last), set()
        allowed = (f.speed * limits.velocity_max, f.acceleration * limits.acceleration_max, f.jerk * limits.jerk_max)
        for order, (name, limit) in enumerate(zip(LIMITS[2:5], allowed, strict=True), start=1):
            if len(q) <= order:
                break
            used = float((np.abs(np.diff(q[-order - 1 :], order, axis=0)[0]) / self._dt**order / limit).max())
            self.peaks[name] = max(self.peaks[name], used)
            if used > 1 + _ROUNDING:
                out.add(name)
        if limits.law is not None and len(q) > 1:
            # FCI documentation; the mean velocity of a cycle is checked against the more lenient of its two ends.
            speed, law = (q[-1] - q[-2]) / self._dt, limits.law
            up = [np.sqrt(np.clip(law.gain * (law.q_upper - end), 0, None)) - law.offset for end in q[-2:]]
            down = [np.sqrt(np.clip(law.gain * (end - law.q_lower), 0, None)) - law.offset for end in q[-2:]]
            over = (speed > np.maximum(np.max(up, axis=0), 0) + _ROUNDING).any()
            if over or (-speed > np.maximum(np.max(down, axis=0), 0) + _ROUNDING).any():
                out.add("velocity")
        return out

    def _places(self, q: np.ndarray) -> dict[str, float]:
        """Violations of position, workspace and clearance limits by name, m or rad; limits that hold are absent."""
        model, data, rules, out = self._model, self._data, self._surroundings, {}
        data.qpos[:JOINTS] = q
        mujoco.mj_kinematics(model, data)
        self._hand_at = hand = data.site_xpos[self._site].copy()
        box, kept, margin = rules.workspace, rules.self_distance, self._fractions.margin
        low, high = self._limits.position_min + margin, self._limits.position_max - margin
        out["position"] = float(np.max([low - q, q - high]))
        out["workspace"] = float(np.max([box.low - hand, hand - box.high]))
        if rules.table is not None:
            out["table"] = rules.table + rules.table_distance - self._lowest()
        out["self_collision"] = kept - min(
            mujoco.mj_geomDistance(model, data, a, b, kept, None) for a, b in self._pairs
        )
        return {name: deep for name, deep in out.items() if deep > _ROUNDING}

    def _lowest(self) -> float:
        """Height of the lowest point of the hand side, m."""
        return min(
            float((self._data.geom_xmat[g].reshape(3, 3)[2] @ corners.T).min() + self._data.geom_xpos[g][2] - round_)
            for g, (corners, round_) in zip(self._hand, self._corners, strict=True)
        )


class DistanceChecker:
    """The distance between two arms, all geoms of one against all of the other."""

    def __init__(self, robot: Path, arms: Sequence[Arm]) -> None:
        """`robot`: an arm's MJCF file; arms: the two arms."""
        self._model = arms_spec(robot, arms).compile()
        self._data = mujoco.MjData(self._model)
        body = [self._model.body(i).name for i in self._model.geom_bodyid]
        one, other = (
            [g for g, name in enumerate(body) if name.startswith(f"{arm.prefix}{arm.robot}_")] for arm in arms
        )
        self._pairs = list(product(one, other))
        self._joints = [self._model.joint(joint).qposadr[0] for arm in arms for joint in arm.joints]

    def distance(self, q: np.ndarray, up_to: float) -> float:
        """Distance in m, at most `up_to`, for the joints of both arms, `q` [14] rad."""
        self._data.qpos[self._joints] = q
        mujoco.mj_kinematics(self._model, self._data)
        result: float = min(mujoco.mj_geomDistance(self._model, self._data, a, b, up_to, None) for a, b in self._pairs)
        return result


def _corners(model: mujoco.MjModel, geom: int) -> tuple[np.ndarray, float]:
    """Points [n, 3] m in the geom's frame and a radius around them whose hull is the geom (cylinders: a bit more)."""
    a, b, c = model.geom_size[geom]
    kind = model.geom_type[geom]
    if kind == mujoco.mjtGeom.mjGEOM_BOX:
        return np.array([[x, y, z] for x in (-a, a) for y in (-b, b) for z in (-c, c)]), 0.0
    if kind == mujoco.mjtGeom.mjGEOM_CAPSULE:
        return np.array([[0, 0, -b], [0, 0, b]]), float(a)
    angles = np.linspace(0, 2 * np.pi, 32, endpoint=False)
    return np.array([[a * np.cos(t), a * np.sin(t), z] for t in angles for z in (-b, b)]), 0.0
