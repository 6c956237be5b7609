"""A ChArUco board beside the simulated arm: on the table for the wrist camera, or in the hand for the front camera."""

from __future__ import annotations

from pathlib import Path

import mujoco
import numpy as np
from PIL import Image
from scipy.spatial.transform import Rotation

from molmoact_ros.cameras.board_page import draw_board
from molmoact_ros.cameras.charuco import CharucoBoard
from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.robots.franka import FR3, HOME_Q, SINGLE
from molmoact_ros.robots.mjcf import arms_spec
from molmoact_ros.sim.base_workcell import furnish
from molmoact_ros.sim.camera_renderer import CameraRenderer
from molmoact_ros.utils.paths import robot_model

CAMERAS = {
    "front": CameraIntrinsics(1280, 720, 910.0, 910.0, 640.0, 360.0, 0.1, 3.0),
    "wrist": CameraIntrinsics(848, 480, 433.0, 433.0, 424.0, 240.0, 0.07, 1.0),
}
PIXELS = 80
"""Of a square in the board's texture."""


class BoardScene:
    """The arm, the board and one camera, without physics."""

    def __init__(self, board: CharucoBoard, camera: str, folder: Path) -> None:
        spec = arms_spec(robot_model(), [SINGLE])
        furnish(spec, CAMERAS, np.array([1.05, 0.0, 0.55]), np.array([0.45, 0.0, 0.3]))
        file = folder / "board.png"
        Image.fromarray(draw_board(board, PIXELS)).convert("RGB").save(file)
        spec.add_texture(name="board", type=mujoco.mjtTexture.mjTEXTURE_2D, file=str(file))
        material = spec.add_material(name="board", texuniform=False, texrepeat=[1, 1])
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = "board"
        size = [board.columns * board.square / 2, board.rows * board.square / 2, 0.001]
        body = spec.worldbody if camera == "wrist" else spec.body("fr3_hand")
        if camera == "wrist":
            place, turn = [0.45, 0.0, 0.001], Rotation.from_euler("z", 25, degrees=True)
        else:  # its face away from the flange, beside the fingers
            place, turn = [0.0, 0.0, 0.13], Rotation.from_euler("yz", [0, 90], degrees=True)
        quaternion = turn.as_quat()[[3, 0, 1, 2]]
        body.add_geom(
            type=mujoco.mjtGeom.mjGEOM_BOX, size=size, pos=place, quat=quaternion, material="board", mass=0.01
        )
        self.board, self.camera = board, camera
        self._model = spec.compile()
        self._data = mujoco.MjData(self._model)
        self._renderer = CameraRenderer(self._model, camera, CAMERAS[camera])
        self._joints = [self._model.joint(name).qposadr[0] for name in SINGLE.joints]

    def close(self) -> None:
        self._renderer.close()

    def render(self, q: np.ndarray) -> np.ndarray:
        """The camera's image with the arm at `q` [7] rad, uint8 [H, W, 3] RGB."""
        self._data.qpos[self._joints] = q
        mujoco.mj_kinematics(self._model, self._data)
        mujoco.mj_camlight(self._model, self._data)
        return self._renderer.render(self._data)[0]

    def camera_pose(self) -> np.ndarray:
        """The true pose [4, 4] of the camera's optical frame on its body."""
        view, pose, turn = self._model.camera(self.camera), np.eye(4), np.empty(9)
        mujoco.mju_quat2Mat(turn, view.quat)
        pose[:3, :3], pose[:3, 3] = turn.reshape(3, 3) * (1, -1, -1), view.pos
        return pose

    def poses(self, rng: np.random.Generator, count: int) -> list[np.ndarray]:
        """Joints [7] rad of poses from which the whole board is seen."""
        found: list[np.ndarray] = []
        middle = HOME_Q if self.camera == "wrist" else HOME_Q + [0, 0, 0, 0.3, 0, 0.9, 0]
        for _ in range(400):
            q = np.clip(middle + rng.normal(0, 0.18, 7) * [1, 1, 1, 1, 2, 2, 3], FR3.position_min, FR3.position_max)
            try:
                self.board.find(self.render(q))
            except ValueError:
                continue
            found.append(q)
            if len(found) == count:
                break
        return found
