"""Forward kinematics of the MJCF model, link by link."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import mujoco
import numpy as np

from molmoact_ros.robots.franka import SINGLE, Arm
from molmoact_ros.robots.mjcf import arms_spec

WORLD = "world"


class Links:
    """All links of one or two arms, and each arm's tool centre point. Units: m and rad.

    names: frames, parents before children. parents: parent frame of each; the base of a single arm has none.
    """

    def __init__(self, robot: Path, arms: Sequence[Arm] = (SINGLE,)) -> None:
        """`robot`: an arm's MJCF file. Raises FileNotFoundError when it is missing."""
        self.model = arms_spec(robot, arms).compile()
        self._data = mujoco.MjData(self.model)
        bodies = [self.model.body(i) for i in range(1, self.model.nbody)]
        single = len(arms) == 1 and not arms[0].prefix
        self.names = [body.name for body in bodies]
        self.parents = {body.name: self.model.body(body.parentid[0]).name for body in bodies}
        if single:
            del self.parents[arms[0].base_frame]
        self._bodies = {body.name: body.id for body in bodies} | {WORLD: 0}
        self._joints = {
            self.model.joint(i).name: int(self.model.jnt_qposadr[i]) for i in range(self.model.njnt)
        }  # fmt: skip
        self._sites = {arm.tcp_frame: self.model.site(arm.tcp_frame).id for arm in arms}
        for arm in arms:
            self.names.append(arm.tcp_frame)
            self.parents[arm.tcp_frame] = self.model.body(self.model.site(arm.tcp_frame).bodyid[0]).name

    @property
    def joints(self) -> list[str]:
        """Names of the joints, fingers included."""
        return list(self._joints)

    def is_fixed(self, frame: str) -> bool:
        """Whether the transform from a frame to its parent is fixed: there is no joint between them."""
        return frame in self._sites or not self.model.body(frame).jntnum[0]

    def update(self, positions: Mapping[str, float]) -> None:
        """Set the joint `positions` by name; joints that are not named stay."""
        for name, at in self._joints.items():
            self._data.qpos[at] = positions.get(name, self._data.qpos[at])
        mujoco.mj_kinematics(self.model, self._data)

    def pose(self, frame: str) -> np.ndarray:
        """Homogeneous transform [4, 4] of a frame, in the base frame of a single arm or in the world of two arms."""
        out = np.eye(4)
        if frame in self._sites:
            site = self._sites[frame]
            out[:3, :3], out[:3, 3] = self._data.site_xmat[site].reshape(3, 3), self._data.site_xpos[site]
        else:
            body = self._bodies[frame]
            out[:3, :3], out[:3, 3] = self._data.xmat[body].reshape(3, 3), self._data.xpos[body]
        return out

    def in_parent(self, frame: str) -> np.ndarray:
        """Homogeneous transform [4, 4] of a frame in its parent."""
        result: np.ndarray = np.linalg.inv(self.pose(self.parents[frame])) @ self.pose(frame)
        return result
