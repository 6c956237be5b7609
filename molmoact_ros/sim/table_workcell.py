"""The workcell with one arm: an FR3 on a table, objects, targets, a front and a wrist camera.

Frame: `fr3_link0`, z up, table top at z = 0. Units: SI, radians.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import mujoco
import numpy as np

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.franka import BASE_FRAME, HOME_Q, OPENING_MAX, SINGLE
from molmoact_ros.robots.mjcf import arms_spec
from molmoact_ros.sim.appearance import Appearance, Wardrobe, add_appearances
from molmoact_ros.sim.base_workcell import Cell, Progress, camera_axes, furnish
from molmoact_ros.sim.camera_renderer import D405_WRIST, D435_FRONT
from molmoact_ros.sim.scene import (
    COLORS,
    GRASP_WIDTH,
    HALF_LENGTH,
    LONG_SHAPES,
    SHAPES,
    TARGETS,
    Scene,
    Task,
    objects_of,
    rest_height,
    sample_scene,
)

ARM_JOINTS = 7
FRONT_POSITION = np.array([1.13, 0.0, 0.62])
FRONT_LOOK_AT = np.array([0.47, 0.0, 0.04])
PARKED = np.array([-3.0, 0.0, -0.5])
LIFTED = 0.10  # m above the table: an object this high counts as picked up
INSIDE = 0.065  # m from a target's centre: an object released here counts as delivered
ON_TOP = 0.02  # m from the centre of the object below: one that stands nearer to it is stacked


def front_pose() -> tuple[np.ndarray, np.ndarray]:
    """Position [3] m and rotation [3, 3] of the front camera in MuJoCo's convention (looks along -z, y up)."""
    x, y = np.array(camera_axes(FRONT_POSITION, FRONT_LOOK_AT)).reshape(2, 3)
    return FRONT_POSITION, np.stack([x, y, np.cross(x, y)], axis=1)


def _add_object(spec: mujoco.MjSpec, name: str) -> None:
    color, shape = name.split()
    body = spec.worldbody.add_body(name=name, pos=PARKED)
    body.add_freejoint()
    kind, size = {
        "cube": (mujoco.mjtGeom.mjGEOM_BOX, [0.022, 0.022, 0.022]),
        "ball": (mujoco.mjtGeom.mjGEOM_SPHERE, [0.025, 0.0, 0.0]),
        "cylinder": (mujoco.mjtGeom.mjGEOM_CYLINDER, [0.021, 0.035, 0.0]),
        "bar": (mujoco.mjtGeom.mjGEOM_BOX, [0.050, 0.015, 0.0175]),
        "rod": (mujoco.mjtGeom.mjGEOM_CYLINDER, [0.016, 0.050, 0.0]),
    }[shape]
    along_x = [np.sqrt(0.5), 0, np.sqrt(0.5), 0] if shape == "rod" else [1, 0, 0, 0]
    # condim 6 with rolling friction: a ball stays where it is placed, like a soft toy ball on a mat.
    body.add_geom(
        name=name, type=kind, size=size, quat=along_x, mass=0.06, rgba=[*COLORS[color], 1], condim=6,
        friction=[1.0, 0.02, 0.004],
    )  # fmt: skip


def _add_target(spec: mujoco.MjSpec, name: str) -> None:
    body = spec.worldbody.add_body(name=name, mocap=True, pos=PARKED)

    def box(pos: list[float], size: list[float], rgba: list[float], yaw: float = 0.0) -> None:
        quat = [np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_BOX, pos=pos, size=size, quat=quat, rgba=rgba)

    def disc(radius: float, height: float, rgba: list[float]) -> None:
        size = [radius, height, 0]
        body.add_geom(type=mujoco.mjtGeom.mjGEOM_CYLINDER, pos=[0, 0, height], size=size, rgba=rgba)

    if name == "plate":
        disc(0.078, 0.004, [0.96, 0.96, 0.97, 1])
    elif name == "bowl":
        teal = [0.15, 0.55, 0.58, 1]
        disc(0.066, 0.003, teal)
        for angle in np.arange(12) * np.pi / 6:
            box([0.070 * np.cos(angle), 0.070 * np.sin(angle), 0.018], [0.004, 0.0195, 0.018], teal, angle)
    else:
        brown = [0.55, 0.35, 0.18, 1]
        box([0, 0, 0.003], [0.072, 0.072, 0.003], brown)
        for angle in np.arange(4) * np.pi / 2:
            box([0.070 * np.cos(angle), 0.070 * np.sin(angle), 0.016], [0.003, 0.073, 0.016], brown, angle)


def _spec(robot: Path, cameras: dict[str, CameraIntrinsics], objects: tuple[str, ...]) -> mujoco.MjSpec:
    spec = arms_spec(robot, [SINGLE])
    furnish(spec, cameras, FRONT_POSITION, FRONT_LOOK_AT)
    add_appearances(spec)
    for name in objects:
        _add_object(spec, name)
    for name in TARGETS:
        _add_target(spec, name)
    return spec


class Workcell(Cell):
    """One FR3 at a table, with `reset`, `step`, the arm, and cameras. Positions are in the arm's base frame.

    `reset` takes a `Scene`, for tests and data collection; `begin` samples one from a seed:

        cell = Workcell(Path("models/fr3/fr3.xml"))
        cell.begin(seed=0, distractors=None, instruction="put the red cube in the bowl")
        rgb, depth = cell.render("wrist")  # uint8 [240, 424, 3], float32 [240, 424] m
    """

    frame = BASE_FRAME

    def __init__(
        self, robot: Path, front: CameraIntrinsics = D435_FRONT, wrist: CameraIntrinsics = D405_WRIST,
        shapes: Sequence[str] = SHAPES,
    ) -> None:  # fmt: skip
        """robot: the arm's MJCF file. front, wrist: intrinsics. shapes: of the objects that there may be.

        Raises FileNotFoundError if the file is missing.
        """
        cameras = {"front": front, "wrist": wrist}
        self.shapes, self.objects = tuple(shapes), objects_of(shapes)
        super().__init__(_spec(robot, cameras, self.objects), [SINGLE], cameras)
        self.arm = self.arms[0]
        self._wardrobe = Wardrobe(self.model, cameras)
        self._appearance = Appearance()
        self._first: str | None = None
        self.scene: Scene | None = None
        self.task: Task | None = None

    def dress(self, appearance: Appearance | None) -> None:
        """Look like `appearance`; None: as it is built. Objects of another size are set down by the next reset."""
        self.cameras = self._wardrobe.dress(appearance)
        self._appearance = appearance or Appearance()
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def begin(self, seed: int, distractors: int | None, instruction: str | None) -> None:
        """Reset to the scene of `seed`, with the arm at home. Raises ValueError for an unknown task."""
        self.reset(sample_scene(seed, distractors, instruction, self.shapes))

    @property
    def instruction(self) -> str:
        """The task as a language instruction; empty before there is a scene."""
        return self.task.instruction if self.task else ""

    @property
    def names(self) -> list[str]:
        """Names of the objects and targets on the table."""
        return [placed.name for placed in self.scene.objects + self.scene.targets] if self.scene else []

    def reset(self, scene: Scene, q: np.ndarray = HOME_Q, opening: float = OPENING_MAX) -> None:
        """Reset to `scene` with the arm at `q` [7] rad and the gripper at `opening` m; everything at rest.

        Raises ValueError for an object of a shape that this workcell does not have.
        """
        if strange := [placed.name for placed in scene.objects if placed.name not in self.objects]:
            raise ValueError(f"no {strange[0]} in this workcell; its shapes are {', '.join(self.shapes)}")
        self.scene, self.task, self._first = scene, scene.task, None
        mujoco.mj_resetData(self.model, self.data)
        self.arm.place(q, opening)
        present = {o.name: o for o in scene.objects}
        for i, name in enumerate(self.objects):
            placed = present.get(name)
            # Absent objects float far away without contacts and gravity, so that one compiled model serves every scene.
            self.model.geom(name).contype = self.model.geom(name).conaffinity = int(placed is not None)
            self.model.body_gravcomp[self.model.body(name).id] = float(placed is None)
            if placed is None:
                self.place(name, PARKED + [0, 0.3 * i, 0])
            else:
                self.place(name, np.array([placed.x, placed.y, self.rest_height(name)]), placed.yaw)
        for target in scene.targets:
            self.data.mocap_pos[self.model.body(target.name).mocapid[0]] = [target.x, target.y, 0.0]
        mujoco.mj_forward(self.model, self.data)

    def rest_height(self, name: str) -> float:
        """Height of a resting object's centre over the table, m, of the size that it has now."""
        return rest_height(name) * self._appearance.sizes.get(name, 1.0)

    def pose_kinematically(self, q: np.ndarray, opening: float) -> None:
        """Set the arm to `q` [7] rad without physics, to render labelled views."""
        self.arm.place(q, opening)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def _watch(self) -> None:
        if self._first is None and self.scene is not None:
            for placed in self.scene.objects:
                if (
                    self.held(placed.name)
                    and self.object_position(placed.name)[2] > self.rest_height(placed.name) + 0.02
                ):
                    self._first = placed.name

    def held(self, name: str) -> bool:
        """Whether an object is between closed fingers."""
        shape, body = name.split()[1], self.data.body(name)
        offset = body.xmat.reshape(3, 3).T @ (self.arm.tcp_position - body.xpos)
        if shape in LONG_SHAPES:  # anywhere along it
            offset[0] -= np.clip(offset[0], -HALF_LENGTH[shape], HALF_LENGTH[shape])
        return bool(np.linalg.norm(offset) < 0.045 and self.arm.opening < GRASP_WIDTH[shape] + 0.012)

    def progress(self) -> Progress:
        """Which object was lifted first, and whether the task succeeds now."""
        if self.task is None:
            raise RuntimeError("the workcell has no scene yet: call reset first")
        position = self.object_position(self.task.object)
        if self.task.target is None:
            return Progress(self._first, bool(self.held(self.task.object) and position[2] > LIFTED))
        below = self.object_position(self.task.target)
        offset, rest = np.linalg.norm(position[:2] - below[:2]), self.rest_height(self.task.object)
        if self.task.stacks:
            standing = below[2] + self.rest_height(self.task.target) + rest
            there = offset < ON_TOP and abs(position[2] - standing) < 0.006
        else:
            there = offset < INSIDE and position[2] < rest + 0.03
        return Progress(self._first, bool(there and self.arm.opening > 0.06))
