"""One task of LIBERO as a workcell in lock-step: its time moves only by `step` and `follow`.

Positions are in LIBERO's world, m; the arm is a Panda whose base is at `base` there, not turned.
"""

from __future__ import annotations

import contextlib
import io
from collections.abc import Sequence
from typing import Any, Final

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.sim.libero_suite import LiberoTask, import_libero
from molmoact_ros.sim.robosuite_joints import follow_joints

CAMERAS: Final = {"front": "agentview", "wrist": "robot0_eye_in_hand"}
"""LIBERO's name of each of our cameras."""
SIZE: Final = 256
"""Pixels of an image's side."""
WARM_UP: Final = 10
"""Steps without motion at the beginning of an episode, in which things come to rest."""
STEP: Final = 0.05
"""s of one step."""
HIGH: Final = 1.0
"""m above the arm's base: nothing that is of interest is higher."""
_TOUCHING: Final = np.array([1, 0, 0, 0, 0, 0], np.uint8)  # robosuite's group of geoms that are not only for the eye


class LiberoCell:
    """The simulated workcell of one task.

        cell = LiberoCell(read_suite("libero_object")[0])
        cell.reset(trial=0)
        cell.step(np.array([0, 0, -1, 0, 0, 0, -1]))  # an input of OSC_POSE (control/osc_pose.py)
        rgb, depth = cell.render("front")
        done = cell.success

    Args:
        task: which one.
        cameras: whether images are wanted. Raises RuntimeError in `render` without them.
    """

    def __init__(self, task: LiberoTask, cameras: bool = True) -> None:
        """Raises NoLiberoError where LIBERO is not installed."""
        import_libero()
        from libero.libero.envs.env_wrapper import ControlEnv

        self.task, self._cameras = task, cameras
        with contextlib.redirect_stdout(io.StringIO()):
            self._env = ControlEnv(
                bddl_file_name=str(task.bddl), use_camera_obs=False, has_offscreen_renderer=cameras, hard_reset=False
            )
        self._drawn = 0  # resets since the seed was set
        self._env.seed(0)
        self._find_arm()

    def _find_arm(self) -> None:
        robot, model = self._env.robots[0], self.model
        self._q, self._dq = list(robot._ref_joint_pos_indexes), list(robot._ref_joint_vel_indexes)
        self._fingers = list(robot._ref_gripper_joint_pos_indexes)
        self._finger_servos = list(robot._ref_joint_gripper_actuator_indexes)
        self._tcp = model.site(robot.gripper.important_sites["grip_site"]).id
        self._base = model.body("robot0_base").id
        bodies = [model.body(body).name for body in model.geom_bodyid]
        self._arm_geoms = {geom for geom, body in enumerate(bodies) if body.startswith(("robot0", "gripper0"))}
        self._pads = [
            {model.geom(name).id for name in robot.gripper.important_geoms[side]}
            for side in ("left_finger", "right_finger")
        ]

    def reset(self, trial: int) -> None:
        """The official initial state `trial` of the task, after WARM_UP.

        LIBERO draws where its fixtures stand, to within a centimetre, at each reset, and the released evaluation sets
        the seed once for a task. So does this, whatever trials were run before. Raises ValueError for an unknown trial.
        """
        if not 0 <= trial < len(self.task.states):
            raise ValueError(f"{self.task.name} has the trials 0 to {len(self.task.states) - 1}, not {trial}")
        if trial < self._drawn:
            self._env.seed(0)
            self._drawn = 0
        while self._drawn <= trial:
            self._env.reset()
            self._drawn += 1
        self._env.set_init_state(self.task.states[trial])
        self._settle()

    def draw(self, seed: int) -> None:
        """A layout of the task that LIBERO's own samplers draw, by a seed, after WARM_UP.

        The official initial states are files, and none of them is used. They were drawn by the same samplers, from
        the regions that the task's file names.
        """
        self._env.seed(seed)
        self._env.reset()
        self._drawn = len(self.task.states)  # so that `reset` sets its own seed again
        self._settle()

    def _settle(self) -> None:
        for _ in range(WARM_UP):
            self.step(np.array([0, 0, 0, 0, 0, 0, -1.0]))

    def step(self, osc_input: np.ndarray) -> None:
        """Advance by STEP with an input float64 [7] of OSC_POSE."""
        self._env.step(osc_input)

    def follow(self, q: np.ndarray, dq: np.ndarray, closes: bool, seconds: float) -> None:
        """Advance by `seconds` while the joints follow `q` [7] rad, which change by `dq` [7] rad/s.

        closes: whether the fingers close or open.
        """
        follow_joints(self._env.sim, self._env.robots, q[None], dq[None], [closes], seconds)

    def render(self, camera: str) -> tuple[np.ndarray, np.ndarray]:
        """Colour uint8 [256, 256, 3] RGB and depth float32 [256, 256] in m of a camera, turned as LIBERO's users do.

        LIBERO renders upside down, and the images that checkpoints are trained on are turned by 180 degrees: they show
        the scene upright, and mirrored.
        """
        if not self._cameras:
            raise RuntimeError("this LiberoCell was made without cameras")
        sim = self._env.sim
        rgb, depth = sim.render(camera_name=CAMERAS[camera], width=SIZE, height=SIZE, depth=True)
        near, far = np.array([self.model.vis.map.znear, self.model.vis.map.zfar]) * self.model.stat.extent
        metres = near / (1.0 - depth * (1.0 - near / far))
        turned = metres[::-1, ::-1].astype(np.float32)
        return np.ascontiguousarray(rgb[::-1, ::-1]), np.where(turned < 0.99 * far, turned, 0).astype(np.float32)

    def project(self, points: np.ndarray, camera: str) -> np.ndarray:
        """Where points [n, 3] m in the world are in a camera's turned image: float64 [n, 2], (x, y) in 0..1.

        NaN for a point behind the camera; one beside the image is out of 0..1.
        """
        at = self.model.camera(CAMERAS[camera]).id
        seen = (points - self.data.cam_xpos[at]) @ self.data.cam_xmat[at].reshape(3, 3)  # x right, y up, z backwards
        with np.errstate(divide="ignore", invalid="ignore"):
            slopes = np.where(seen[:, 2:] < 0, seen[:, :2] / -seen[:, 2:], np.nan)
        half = np.tan(np.radians(self.model.cam_fovy[at]) / 2)
        return np.asarray(0.5 - slopes / (2 * half))  # mirrored, and downwards

    @property
    def model(self) -> Any:
        """MuJoCo's model."""
        return self._env.sim.model._model

    @property
    def data(self) -> Any:
        """MuJoCo's data."""
        return self._env.sim.data._data

    @property
    def success(self) -> bool:
        """Whether the task is done now, by LIBERO's own predicates."""
        return bool(self._env.check_success())

    @property
    def goals(self) -> list[list[str]]:
        """LIBERO's goal predicates, such as ["on", "akita_black_bowl_1", "plate_1"]."""
        return [list(goal) for goal in self._env.env.parsed_problem["goal_state"]]

    @property
    def base(self) -> np.ndarray:
        """Position [3] m of the arm's base."""
        return np.array(self.data.xpos[self._base])

    @property
    def surface(self) -> float:
        """Height in m of the table that things stand on, or of the floor, on which the arm stands, too."""
        domain = self._env.env
        table = self.top(0.0, 0.0, [*domain.objects_dict, *domain.fixtures_dict])
        return table if np.isfinite(table) else float(self.base[2])

    @property
    def joints(self) -> np.ndarray:
        """Joint positions float64 [7] rad."""
        return np.array(self.data.qpos[self._q])

    @property
    def opening(self) -> float:
        """Distance between the fingers, m."""
        return float(np.abs(self.data.qpos[self._fingers]).sum())

    @property
    def commanded_opening(self) -> float:
        """Distance between the fingers that their servos are at, m; less than `opening` while they press."""
        return float(np.abs(self.data.ctrl[self._finger_servos]).sum())

    @property
    def tcp(self) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and rotation [3, 3] of the tool centre point."""
        return np.array(self.data.site_xpos[self._tcp]), self.data.site_xmat[self._tcp].reshape(3, 3).copy()

    @property
    def twist(self) -> np.ndarray:
        """Velocity [6] of the tool centre point in the world's directions: m/s, then rad/s."""
        out = np.zeros(6)
        mujoco.mj_objectVelocity(self.model, self.data, mujoco.mjtObj.mjOBJ_SITE, self._tcp, out, 0)
        return np.concatenate([out[3:], out[:3]])

    @property
    def state(self) -> np.ndarray:
        """What LIBERO's users give a policy, float64 [8]: position of the tool centre point in the world (m), its
        rotation vector (rad), and both finger joints (m)."""
        position, rotation = self.tcp
        turn = Rotation.from_matrix(rotation).as_rotvec()
        return np.concatenate([position, turn, self.data.qpos[self._fingers]])

    def body_pose(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Position [3] m and rotation [3, 3] of an object or a fixture, by the name that `goals` has."""
        body = self._env.env.obj_body_id[name]
        return np.array(self.data.xpos[body]), self.data.xmat[body].reshape(3, 3).copy()

    def geoms(self, name: str) -> set[int]:
        """Ids of the geoms that an object or a fixture touches others with."""
        thing = self._env.env.get_object(name)
        return {self.model.geom(geom).id for geom in thing.contact_geoms}

    def points(self, name: str) -> np.ndarray:
        """Points [n, 3] m in the world that enclose what an object or a fixture touches others with."""
        return np.concatenate([geom_points(self.model, self.data, geom) for geom in sorted(self.geoms(name))])

    def top(self, x: float, y: float, ignored: Sequence[str] = ()) -> float:
        """Height in m of the highest thing at a place, without the arm and the objects `ignored`."""
        skipped = self._arm_geoms.union(*(self.geoms(name) for name in ignored))
        at, geom, down = np.array([x, y, self.base[2] + HIGH]), np.zeros(1, np.int32), np.array([0.0, 0.0, -1.0])
        while True:
            way = mujoco.mj_ray(self.model, self.data, at, down, _TOUCHING, True, -1, geom)
            if way < 0:
                return -np.inf
            at[2] -= way + 1e-4
            if int(geom[0]) not in skipped:
                return float(at[2])

    def is_held(self, name: str) -> bool:
        """Whether both fingers touch an object."""
        return touched_by_both(self.data.contact.geom, self._pads, self.geoms(name))

    def close(self) -> None:
        """Free the simulator."""
        self._env.close()


def geom_points(model: Any, data: Any, geom: int) -> np.ndarray:
    """The vertices of a mesh, or the corners of the box around another geom: float64 [n, 3] m in the world."""
    if model.geom_type[geom] == mujoco.mjtGeom.mjGEOM_MESH:
        mesh = model.geom_dataid[geom]
        first = model.mesh_vertadr[mesh]
        corners = model.mesh_vert[first : first + model.mesh_vertnum[mesh]]
    else:
        centre, half = model.geom_aabb[geom].reshape(2, 3)
        corners = centre + half * (np.indices((2, 2, 2)).reshape(3, -1).T * 2 - 1)
    return np.asarray(corners @ data.geom_xmat[geom].reshape(3, 3).T + data.geom_xpos[geom])


def touched_by_both(contacts: np.ndarray, pads: list[set[int]], geoms: set[int]) -> bool:
    """Whether geoms of an object are in contact with each of `pads`. contacts: int [n, 2], ids of the geoms."""
    touched = {int(b if a in geoms else a) for a, b in contacts if (a in geoms) != (b in geoms)}
    return all(touched & pad for pad in pads)
