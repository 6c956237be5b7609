"""The workcell with two arms: both lift a tray level, with a handle at each end and cubes on it.

Frame: `world`, between the two bases, x forward, y left, z up, table top at z = 0. Units: SI, radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.franka import HOME_Q, OPENING_MAX, PAIR
from molmoact_ros.robots.mjcf import arms_spec
from molmoact_ros.sim.base_workcell import TABLE_FRICTION, Cell, Progress, furnish
from molmoact_ros.sim.camera_renderer import D405_WRIST, D435_FRONT
from molmoact_ros.sim.scene import COLORS

INSTRUCTION = "lift the tray"
FRONT_POSITION, FRONT_LOOK_AT = np.array([1.35, 0.0, 0.75]), np.array([0.42, 0.0, 0.10])
PARKED = np.array([-3.0, 0.0, -1.5])  # under the floor

SIZE = np.array([0.09, 0.14, 0.004])  # half extents of the tray's plate, m
HANDLE = np.array([0.030, 0.009, 0.030])  # half extents of a handle, m: an upright plate across the tray's end
HANDLE_AT = np.array([0.0, 0.165, 0.030])  # centre of the left handle in the tray's frame (centre of its bottom), m
GRASP_HEIGHT = 0.046  # height of the tool centre point over the tray's bottom, m
MASS, CUBE, CUBE_MASS = 0.7, 0.02, 0.06  # kg; half extent of a cube, m; kg
CUBES = tuple(f"{color} cube" for color in COLORS)
MOST_CUBES = 3

LIFTED, LEVEL, LONG = 0.10, np.radians(6.0), 1.0  # m over the table, tilt in rad, and s for which both must hold
OFF_TABLE = 0.02  # m over the table: counts as touched


@dataclass(frozen=True)
class TrayScene:
    """Pose of the tray (m, rad), and its cubes: name, and x, y on the tray (m)."""

    x: float
    y: float
    yaw: float
    cubes: tuple[tuple[str, float, float], ...]


def sample_tray(seed: int, distractors: int | None = None, instruction: str | None = None) -> TrayScene:
    """Sample the scene of `seed`. distractors: number of cubes beside the first one.

    Raises ValueError for another instruction, or for more cubes than fit on the tray.
    """
    if instruction and instruction.strip().lower() != INSTRUCTION:
        raise ValueError(f"cannot judge the instruction {instruction!r}: this workcell knows {INSTRUCTION!r}")
    if distractors is not None and distractors >= MOST_CUBES:
        raise ValueError(f"{distractors} more cubes do not fit on the tray; give 0..{MOST_CUBES - 1}, or -1")
    rng = np.random.default_rng(seed)
    drawn = int(rng.integers(1, MOST_CUBES + 1))
    x, y, yaw = rng.uniform([0.46, -0.05, -0.25], [0.56, 0.05, 0.25])
    count = drawn if distractors is None else 1 + distractors
    names = [str(name) for name in rng.permutation(CUBES)[:count]]
    # Each cube has a third of the tray, so that they do not overlap.
    places = [(float(rng.uniform(-0.05, 0.05)), float(rng.uniform(-0.02, 0.02) + 0.085 * (k - 1))) for k in range(3)]
    return TrayScene(float(x), float(y), float(yaw), tuple((n, *at) for n, at in zip(names, places, strict=False)))


def _spec(robot: Path, cameras: dict[str, CameraIntrinsics]) -> mujoco.MjSpec:
    spec = arms_spec(robot, PAIR)
    furnish(spec, cameras, FRONT_POSITION, FRONT_LOOK_AT)
    tray = spec.worldbody.add_body(name="tray", pos=PARKED)
    tray.add_freejoint()

    def box(pos: np.ndarray | list[float], size: np.ndarray | list[float], mass: float, rgba: list[float]) -> None:
        tray.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=size, mass=mass, rgba=rgba, condim=6, friction=TABLE_FRICTION
        )

    oak, dark = [0.78, 0.64, 0.42, 1], [0.30, 0.22, 0.16, 1]
    box([0, 0, SIZE[2]], SIZE, MASS * 0.8, oak)
    for side in (-1.0, 1.0):
        box(HANDLE_AT * [1, side, 1], HANDLE, MASS * 0.1, dark)
        box([side * (SIZE[0] - 0.003), 0, 0.012], [0.003, SIZE[1], 0.006], 0.0, oak)
        box([0, side * (SIZE[1] + 0.008), SIZE[2]], [0.03, 0.010, SIZE[2]], 0.0, oak)  # the handle's neck
    for name in CUBES:
        body = spec.worldbody.add_body(name=name, pos=PARKED)
        body.add_freejoint()
        body.add_geom(
            name=name, type=mujoco.mjtGeom.mjGEOM_BOX, size=[CUBE] * 3, mass=CUBE_MASS, condim=6,
            rgba=[*COLORS[name.split()[0]], 1], friction=[0.4, 0.005, 0.0001],
        )  # fmt: skip
    return spec


class TrayCell(Cell):
    """Two FR3s at one table and the tray between them."""

    frame = "world"

    def __init__(self, robot: Path, front: CameraIntrinsics = D435_FRONT, wrist: CameraIntrinsics = D405_WRIST) -> None:
        """`robot`: an arm's MJCF file. Raises FileNotFoundError when it is missing."""
        cameras = {"front": front, **{f"{arm.prefix}wrist": wrist for arm in PAIR}}
        super().__init__(_spec(robot, cameras), PAIR, cameras)
        self.scene = sample_tray(0)
        self._lifted, self._up = False, 0.0  # whether it left the table; since when it is carried as required, s

    def begin(self, seed: int, distractors: int | None = None, instruction: str | None = None) -> None:
        """Reset to the scene of `seed`, with both arms at home. Raises ValueError for an unknown task."""
        self.scene = scene = sample_tray(seed, distractors, instruction)
        mujoco.mj_resetData(self.model, self.data)
        for arm in self.arms:
            arm.place(HOME_Q, OPENING_MAX)
        self.place("tray", np.array([scene.x, scene.y, 0.0]), scene.yaw)
        on_tray = {name: (x, y) for name, x, y in scene.cubes}
        c, s = np.cos(scene.yaw), np.sin(scene.yaw)
        for i, name in enumerate(CUBES):
            self.model.geom(name).contype = self.model.geom(name).conaffinity = int(name in on_tray)
            self.model.body_gravcomp[self.model.body(name).id] = float(name not in on_tray)
            if name in on_tray:
                x, y = on_tray[name]
                where = np.array([scene.x + c * x - s * y, scene.y + s * x + c * y, 2 * SIZE[2] + CUBE])
                self.place(name, where, scene.yaw)
            else:
                self.place(name, PARKED + [0, 0.3 * i, 0])
        mujoco.mj_forward(self.model, self.data)
        self._lifted, self._up = False, np.inf

    @property
    def instruction(self) -> str:
        """The task as a language instruction."""
        return INSTRUCTION

    @property
    def names(self) -> list[str]:
        """The tray, then its cubes."""
        return ["tray", *(name for name, _, _ in self.scene.cubes)]

    def _in_tray(self, point: np.ndarray) -> np.ndarray:
        tray = self.data.body("tray")
        return np.asarray(tray.xmat.reshape(3, 3).T @ (point - tray.xpos))

    def tilt(self) -> float:
        """Angle of the tray from level, rad."""
        return float(np.arccos(np.clip(self.data.body("tray").xmat[8], -1.0, 1.0)))

    def _carried(self) -> bool:
        """Whether the tray is high and level, with all cubes on it and a hand at each handle."""
        cubes = [self._in_tray(self.object_position(name)) for name, _, _ in self.scene.cubes]
        loaded = all((np.abs(at[:2]) < SIZE[:2]).all() and 0 < at[2] < 3 * CUBE for at in cubes)
        hands = [
            self._in_tray(arm.tcp_position) - HANDLE_AT * [1, side, 1]
            for arm, side in zip(self.arms, (1, -1), strict=True)
        ]
        held = all(np.abs(off).max() < 0.03 for off in hands)
        return bool(self.object_position("tray")[2] > LIFTED and self.tilt() < LEVEL and loaded and held)

    def _watch(self) -> None:
        self._lifted = self._lifted or bool(self.object_position("tray")[2] > OFF_TABLE)
        self._up = min(self._up, self.data.time) if self._carried() else np.inf

    def progress(self) -> Progress:
        """Success once the tray has been carried for a second."""
        return Progress("tray" if self._lifted else None, bool(self.data.time - self._up >= LONG))
