"""The workcell in MuJoCo: an FR3 on a table, objects, targets, a front and a wrist camera.

Frame: `fr3_link0`, z up, table top at z = 0. Units: SI, radians.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import mujoco
import numpy as np

from molmoact_ros.robots.franka import HOME_Q
from molmoact_ros.sim.cameras import D405_WRIST, D435_FRONT, CameraIntrinsics, CameraRenderer, project
from molmoact_ros.sim.scene import COLORS, GRASP_WIDTH, OBJECTS, TARGETS, Scene, Task, rest_height

ARM_JOINTS = 7
TIMESTEP = 0.002
FRONT_POSITION = np.array([1.13, 0.0, 0.62])
FRONT_LOOK_AT = np.array([0.47, 0.0, 0.04])
PARKED = np.array([-3.0, 0.0, -0.5])
LIFTED = 0.10  # m above the table: an object this high counts as picked up
INSIDE = 0.065  # m from a target's centre: an object released here counts as delivered


@dataclass(frozen=True)
class Progress:
    """What has happened to the task so far, judged from the simulator's own state."""

    first_touched: str | None  # the first object that was lifted off the table between the fingers
    success: bool


def _look_at(position: np.ndarray, target: np.ndarray) -> list[float]:
    """x and y axes of a MuJoCo camera at `position` that looks at `target`, image up = world up."""
    z = (position - target) / np.linalg.norm(position - target)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    return [*x, *np.cross(z, x)]


def _add_object(spec: mujoco.MjSpec, name: str) -> None:
    color, shape = name.split()
    body = spec.worldbody.add_body(name=name, pos=PARKED)
    body.add_freejoint()
    kind, size = {
        "cube": (mujoco.mjtGeom.mjGEOM_BOX, [0.022, 0.022, 0.022]),
        "ball": (mujoco.mjtGeom.mjGEOM_SPHERE, [0.025, 0.0, 0.0]),
        "cylinder": (mujoco.mjtGeom.mjGEOM_CYLINDER, [0.021, 0.035, 0.0]),
    }[shape]
    # condim 6 with rolling friction: a ball stays where it is put, as a soft toy ball on a mat does.
    body.add_geom(
        name=name, type=kind, size=size, mass=0.06, rgba=[*COLORS[color], 1], condim=6, friction=[1.0, 0.02, 0.004]
    )


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


def build_model(robot: Path, front: CameraIntrinsics, wrist: CameraIntrinsics) -> mujoco.MjModel:
    """Compile the workcell around the robot's MJCF file. Raises FileNotFoundError when that is missing."""
    if not robot.is_file():
        raise FileNotFoundError(f"robot model {robot} is missing; reinstall molmoact_ros or give its path")
    spec = mujoco.MjSpec.from_file(str(robot))
    spec.option.timestep = TIMESTEP
    for key in list(spec.keys):
        spec.delete(key)
    world = spec.worldbody
    spec.visual.headlight.ambient = [0.45, 0.45, 0.45]
    spec.visual.headlight.diffuse = [0.35, 0.35, 0.35]
    spec.visual.headlight.specular = [0.05, 0.05, 0.05]
    spec.visual.quality.offsamples = 0
    spec.visual.quality.numslices, spec.visual.quality.numstacks = 16, 8
    spec.visual.global_.offwidth = max(front.width, wrist.width)
    spec.visual.global_.offheight = max(front.height, wrist.height)
    spec.stat.extent, spec.visual.map.znear, spec.visual.map.zfar = 1.0, 0.02, 10.0
    world.add_light(pos=[0.6, 0.6, 2.0], dir=[-0.1, -0.3, -1], diffuse=[0.45, 0.45, 0.45], specular=[0, 0, 0])
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0.35, 0, -0.02], size=[0.6, 0.75, 0.02],
        rgba=[0.62, 0.56, 0.49, 1], condim=6, friction=[1.0, 0.02, 0.004],
    )  # fmt: skip
    world.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, -0.75], size=[4, 4, 0.1], rgba=[0.36, 0.38, 0.42, 1]
    )
    camera = world.add_camera(name="front", pos=FRONT_POSITION, fovy=front.fovy_deg)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = _look_at(FRONT_POSITION, FRONT_LOOK_AT)
    spec.camera("wrist").fovy = wrist.fovy_deg
    for name in OBJECTS:
        _add_object(spec, name)
    for name in TARGETS:
        _add_target(spec, name)
    return spec.compile()


class Workcell:
    """One FR3 at a table, with `reset`, `step`, commands, joint states and cameras."""

    def __init__(self, robot: Path, front: CameraIntrinsics = D435_FRONT, wrist: CameraIntrinsics = D405_WRIST) -> None:
        self.model = build_model(robot, front, wrist)
        self.data = mujoco.MjData(self.model)
        self.intrinsics = {"front": front, "wrist": wrist}
        self._renderers: dict[str, CameraRenderer] = {}
        self._tcp = self.model.site("fr3_hand_tcp").id
        self._grip = self.model.actuator("fr3_gripper").id
        self._first: str | None = None
        self.scene: Scene | None = None
        self.task: Task | None = None

    def reset(self, scene: Scene, q: np.ndarray = HOME_Q, opening: float = 0.08) -> None:
        """Set the table and the arm: `q` [7] rad, `opening` of the gripper in m; everything at rest."""
        self.scene, self.task, self._first = scene, scene.task, None
        mujoco.mj_resetData(self.model, self.data)
        self._set_arm(q, opening)
        present = {o.name: o for o in scene.objects}
        for i, name in enumerate(OBJECTS):
            placed = present.get(name)
            # Absent objects float far away, untouchable and weightless, so that one compiled model serves every scene.
            self.model.geom(name).contype = self.model.geom(name).conaffinity = int(placed is not None)
            self.model.body_gravcomp[self.model.body(name).id] = float(placed is None)
            if placed is None:
                self.place(name, PARKED + [0, 0.3 * i, 0])
            else:
                self.place(name, np.array([placed.x, placed.y, rest_height(name)]), placed.yaw)
        for target in scene.targets:
            self.data.mocap_pos[self.model.body(target.name).mocapid[0]] = [target.x, target.y, 0.0]
        mujoco.mj_forward(self.model, self.data)

    def _set_arm(self, q: np.ndarray, opening: float) -> None:
        self.data.qpos[:ARM_JOINTS] = self.data.ctrl[:ARM_JOINTS] = q
        self.data.qpos[ARM_JOINTS : ARM_JOINTS + 2] = self.data.ctrl[self._grip] = opening / 2

    def pose_kinematically(self, q: np.ndarray, opening: float) -> None:
        """Put the arm at `q` [7] rad without physics: for drawing labelled views of a moment."""
        self._set_arm(q, opening)
        mujoco.mj_kinematics(self.model, self.data)
        mujoco.mj_camlight(self.model, self.data)

    def place(self, name: str, position: np.ndarray, yaw: float = 0.0) -> None:
        """Put an object's centre at `position` [3] m, at rest."""
        joint = self.model.jnt_qposadr[self.model.body(name).jntadr[0]]
        self.data.qpos[joint : joint + 7] = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def command_arm(self, q: np.ndarray) -> None:
        """Servo the arm to joint positions `q` [7] rad."""
        self.data.ctrl[:ARM_JOINTS] = q

    def command_gripper(self, opening: float) -> None:
        """Servo the fingers to `opening` in m between them (0..0.08)."""
        self.data.ctrl[self._grip] = np.clip(opening, 0.0, 0.08) / 2

    def step(self, seconds: float) -> None:
        """Advance the physics by `seconds` (a multiple of TIMESTEP)."""
        mujoco.mj_step(self.model, self.data, nstep=round(seconds / TIMESTEP))
        self._watch()

    def _watch(self) -> None:
        if self._first is None and self.scene is not None:
            for placed in self.scene.objects:
                if self._held(placed.name) and self.object_position(placed.name)[2] > rest_height(placed.name) + 0.02:
                    self._first = placed.name

    def _held(self, name: str) -> bool:
        near = np.linalg.norm(self.object_position(name) - self.tcp_position) < 0.045
        return bool(near and self.opening < GRASP_WIDTH[name.split()[1]] + 0.012)

    @property
    def joint_positions(self) -> np.ndarray:
        """Arm joints and both fingers [9]: rad, then m."""
        return self.data.qpos[: ARM_JOINTS + 2].copy()

    @property
    def joint_velocities(self) -> np.ndarray:
        """Arm joints and both fingers [9]: rad/s, then m/s."""
        return self.data.qvel[: ARM_JOINTS + 2].copy()

    @property
    def opening(self) -> float:
        """Distance between the finger tips, m."""
        return float(self.data.qpos[ARM_JOINTS : ARM_JOINTS + 2].sum())

    @property
    def tcp_position(self) -> np.ndarray:
        """Position [3] m of `fr3_hand_tcp` in `fr3_link0`."""
        return self.data.site_xpos[self._tcp].copy()

    @property
    def tcp_rotation(self) -> np.ndarray:
        """Rotation [3, 3] of `fr3_hand_tcp` in `fr3_link0`."""
        return self.data.site_xmat[self._tcp].reshape(3, 3).copy()

    def object_position(self, name: str) -> np.ndarray:
        """Centre [3] m of an object or target."""
        return self.data.body(name).xpos.copy()

    def progress(self) -> Progress:
        """Which object was lifted first, and whether the task is done now."""
        if self.task is None:
            raise RuntimeError("the workcell has no scene yet: call reset first")
        position = self.object_position(self.task.object)
        if self.task.target is None:
            return Progress(self._first, bool(self._held(self.task.object) and position[2] > LIFTED))
        offset = np.linalg.norm(position[:2] - self.object_position(self.task.target)[:2])
        resting = position[2] < rest_height(self.task.object) + 0.03
        return Progress(self._first, bool(offset < INSIDE and resting and self.opening > 0.06))

    def render(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Colour uint8 [H, W, 3] RGB and depth float32 [H, W] in m (0 = invalid) of `front` or `wrist`."""
        if camera not in self._renderers:
            self._renderers[camera] = CameraRenderer(self.model, camera, self.intrinsics[camera])
        return self._renderers[camera].render(self.data)

    def camera_pose(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and rotation [3, 3] of a camera in MuJoCo's convention (looks along -z, y up)."""
        view = self.data.cam(camera)
        return view.xpos.copy(), view.xmat.reshape(3, 3).copy()

    def project(self, points: np.ndarray, camera: str = "front") -> np.ndarray:
        """Pixels [n, 2] of base-frame points [n, 3] m in a camera's image."""
        return project(points, *self.camera_pose(camera), self.intrinsics[camera])

    def close(self) -> None:
        """Free the renderers."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()
