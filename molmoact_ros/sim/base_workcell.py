"""Base of all MuJoCo workcells: a table, arms on it, a front camera and a wrist camera on each hand.

Units: SI, radians. The table top is z = 0.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass

import mujoco
import numpy as np

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.franka import Arm
from molmoact_ros.sim.camera_renderer import CameraRenderer, project

TIMESTEP = 0.002
TABLE_FRICTION = [1.0, 0.02, 0.004]


@dataclass(frozen=True)
class Progress:
    """Progress of the task so far, from the simulator's ground truth."""

    first_touched: str | None  # the first object that the gripper lifted off the table
    success: bool


class SimArm:
    """One arm of a compiled workcell."""

    def __init__(self, model: mujoco.MjModel, data: mujoco.MjData, arm: Arm) -> None:
        self.arm, self._model, self._data = arm, model, data
        joints = [model.joint(name) for name in (*arm.joints, *arm.fingers)]
        self._qpos, self._qvel = [j.qposadr[0] for j in joints], [j.dofadr[0] for j in joints]
        self._servos = [model.actuator(name).id for name in arm.joints]
        self._grip = model.actuator(f"{arm.prefix}{arm.robot}_gripper").id
        self._tcp = model.site(arm.tcp_frame).id

    def place(self, q: np.ndarray, opening: float) -> None:
        """Set the arm to `q` [7] rad and the fingers `opening` m apart, and command the actuators to hold this."""
        self._data.qpos[self._qpos] = [*q, opening / 2, opening / 2]
        self.command(q)
        self.grip(opening)

    def command(self, q: np.ndarray) -> None:
        """Command joint positions `q` [7] rad."""
        self._data.ctrl[self._servos] = q

    def grip(self, opening: float) -> None:
        """Command the gripper to `opening` m between the fingers (0..0.08)."""
        self._data.ctrl[self._grip] = np.clip(opening, 0.0, 0.08) / 2

    @property
    def positions(self) -> np.ndarray:
        """Arm joints and both fingers [9]: rad, then m."""
        return np.asarray(self._data.qpos[self._qpos])

    @property
    def velocities(self) -> np.ndarray:
        """Arm joints and both fingers [9]: rad/s, then m/s."""
        return np.asarray(self._data.qvel[self._qvel])

    @property
    def opening(self) -> float:
        """Distance between the finger tips, m."""
        return float(self.positions[-2:].sum())

    @property
    def tcp_position(self) -> np.ndarray:
        """Position [3] m of the tool centre point in the workcell's frame."""
        return self._data.site_xpos[self._tcp].copy()

    @property
    def tcp_rotation(self) -> np.ndarray:
        """Rotation [3, 3] of the tool centre point in the workcell's frame."""
        return self._data.site_xmat[self._tcp].reshape(3, 3).copy()


class Cell(ABC):
    """Base class of simulated workcells: arms, a table and cameras. Subclasses define the objects and the task.

    Args:
        spec: MuJoCo model of the scene, with the cameras of `cameras` by name.
        arms: the arms in the model.
        cameras: intrinsics of each camera by name, "front" among them.

    A rollout of a subclass:

        cell.begin(seed=0, distractors=None, instruction=None)
        cell.arms[0].command(q)  # joints [7] rad
        cell.step(0.1)
        rgb, depth = cell.render("front")  # uint8 [H, W, 3], float32 [H, W] m
        done = cell.progress().success
    """

    frame: str  # reference frame of all positions

    def __init__(self, spec: mujoco.MjSpec, arms: Sequence[Arm], cameras: dict[str, CameraIntrinsics]) -> None:
        self.model = spec.compile()
        self.data = mujoco.MjData(self.model)
        self.arms = tuple(SimArm(self.model, self.data, arm) for arm in arms)
        self.cameras = cameras
        self._renderers: dict[str, CameraRenderer] = {}

    @abstractmethod
    def begin(self, seed: int, distractors: int | None, instruction: str | None) -> None:
        """Reset to the scene of `seed`; None: sampled from the seed. Raises ValueError for an unknown task."""

    @property
    @abstractmethod
    def instruction(self) -> str:
        """The task as a language instruction."""

    @property
    @abstractmethod
    def names(self) -> list[str]:
        """Names of the objects and targets on the table."""

    @abstractmethod
    def progress(self) -> Progress:
        """Progress of the task now."""

    @abstractmethod
    def _watch(self) -> None:
        """Update the progress of the task after each step."""

    def step(self, seconds: float) -> None:
        """Advance the physics by `seconds` (a multiple of TIMESTEP)."""
        mujoco.mj_step(self.model, self.data, nstep=round(seconds / TIMESTEP))
        self._watch()

    def place(self, name: str, position: np.ndarray, yaw: float = 0.0) -> None:
        """Place an object's centre at `position` [3] m with `yaw` rad."""
        joint = self.model.jnt_qposadr[self.model.body(name).jntadr[0]]
        self.data.qpos[joint : joint + 7] = [*position, np.cos(yaw / 2), 0, 0, np.sin(yaw / 2)]

    def object_position(self, name: str) -> np.ndarray:
        """Centre [3] m of an object or target."""
        return self.data.body(name).xpos.copy()

    def render(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Colour uint8 [H, W, 3] RGB and depth float32 [H, W] in m (0 = invalid) of a camera."""
        if camera not in self._renderers:
            self._renderers[camera] = CameraRenderer(self.model, camera, self.cameras[camera])
        return self._renderers[camera].render(self.data)

    def camera_pose(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and rotation [3, 3] of a camera in MuJoCo's convention (looks along -z, y up)."""
        view = self.data.cam(camera)
        return view.xpos.copy(), view.xmat.reshape(3, 3).copy()

    def camera_mount(self, camera: str) -> tuple[str, np.ndarray]:
        """The parent frame of a camera, and the pose [4, 4] of its optical frame (z forward, y down) in it."""
        view = self.model.camera(camera)
        body, rotation, pose = self.model.body(view.bodyid[0]), np.empty(9), np.eye(4)
        mujoco.mju_quat2Mat(rotation, view.quat)
        pose[:3, :3], pose[:3, 3] = rotation.reshape(3, 3) * (1, -1, -1), view.pos
        return (body.name if body.id else self.frame), pose

    def project(self, points: np.ndarray, camera: str = "front") -> np.ndarray:
        """Project points [n, 3] m to pixels [n, 2] of a camera's image."""
        return project(points, *self.camera_pose(camera), self.cameras[camera])

    def close(self) -> None:
        """Free the renderers' GL contexts."""
        for renderer in self._renderers.values():
            renderer.close()
        self._renderers.clear()


def furnish(
    spec: mujoco.MjSpec, cameras: dict[str, CameraIntrinsics], position: np.ndarray, look_at: np.ndarray
) -> None:
    """Add table, floor, light and the front camera to a model; it is at `position` [3] m, aimed at `look_at` [3] m."""
    spec.option.timestep = TIMESTEP
    # From 60 degrees of freedom on MuJoCo takes its sparse solver, which with many contacts of a light object between
    # heavy things does not converge, and then throws the object away; the dense one does in a few iterations.
    spec.option.jacobian = mujoco.mjtJacobian.mjJAC_DENSE
    world, visual = spec.worldbody, spec.visual
    visual.headlight.ambient = [0.45, 0.45, 0.45]
    visual.headlight.diffuse = [0.35, 0.35, 0.35]
    visual.headlight.specular = [0.05, 0.05, 0.05]
    visual.quality.offsamples = 0
    visual.quality.numslices, visual.quality.numstacks = 16, 8
    visual.global_.offwidth = max(k.width for k in cameras.values())
    visual.global_.offheight = max(k.height for k in cameras.values())
    spec.stat.extent, visual.map.znear, visual.map.zfar = 1.0, 0.02, 10.0
    world.add_light(pos=[0.6, 0.6, 2.0], dir=[-0.1, -0.3, -1], diffuse=[0.45, 0.45, 0.45], specular=[0, 0, 0])
    world.add_geom(
        name="table", type=mujoco.mjtGeom.mjGEOM_BOX, pos=[0.35, 0, -0.02], size=[0.6, 0.75, 0.02],
        rgba=[0.62, 0.56, 0.49, 1], condim=6, friction=TABLE_FRICTION,
    )  # fmt: skip
    world.add_geom(
        name="floor", type=mujoco.mjtGeom.mjGEOM_PLANE, pos=[0, 0, -0.75], size=[4, 4, 0.1], rgba=[0.36, 0.38, 0.42, 1]
    )
    camera = world.add_camera(name="front", pos=position, fovy=cameras["front"].fovy_deg)
    camera.alt.type = mujoco.mjtOrientation.mjORIENTATION_XYAXES
    camera.alt.xyaxes = camera_axes(position, look_at)
    for name, intrinsics in cameras.items():
        spec.camera(name).fovy = intrinsics.fovy_deg


def camera_axes(position: np.ndarray, target: np.ndarray) -> list[float]:
    """x and y axes of a MuJoCo camera at `position` [3] m that looks at `target` [3] m, with image up = world up."""
    z = (position - target) / np.linalg.norm(position - target)
    x = np.cross([0.0, 0.0, 1.0], z)
    x /= np.linalg.norm(x)
    return [*x, *np.cross(z, x)]
