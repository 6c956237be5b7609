"""Simulated RealSense cameras: the intrinsics of the real ones, colour and depth from one render pass."""

from __future__ import annotations

from dataclasses import dataclass

import mujoco
import numpy as np

from molmoact_ros.cameras.intrinsics import CameraIntrinsics

# D435 colour at 640x480: focal length about 615 px (69 deg x 42 deg at 16:9, Intel D400 datasheet, cropped to 4:3).
D435_FRONT = CameraIntrinsics(640, 480, 615.0, 615.0, 320.0, 240.0, 0.28, 3.0)
# D405 at 424x240: 87 deg x 58 deg depth field of view (Intel D400 datasheet), colour from the same imager.
D405_WRIST = CameraIntrinsics(424, 240, 216.5, 216.5, 212.0, 120.0, 0.07, 1.0)


class CameraRenderer:
    """Renders one MuJoCo camera off-screen, colour and depth in a single pass."""

    def __init__(self, model: mujoco.MjModel, camera: str, intrinsics: CameraIntrinsics) -> None:
        """Needs a MuJoCo GL context (MUJOCO_GL=egl or osmesa) in this thread; raises RuntimeError without one."""
        self.camera, self.intrinsics = camera, intrinsics
        self._model = model
        self._scene = mujoco.MjvScene(model, maxgeom=400)
        for flag in (mujoco.mjtRndFlag.mjRND_SHADOW, mujoco.mjtRndFlag.mjRND_REFLECTION):
            self._scene.flags[flag] = 0
        self._gl = mujoco.GLContext(intrinsics.width, intrinsics.height)
        self._gl.make_current()
        self._context = mujoco.MjrContext(model, mujoco.mjtFontScale.mjFONTSCALE_100)
        self._context.readDepthMap = mujoco.mjtDepthMap.mjDEPTH_ZEROFAR
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._viewport = mujoco.MjrRect(0, 0, intrinsics.width, intrinsics.height)
        self._view = mujoco.MjvCamera()
        self._view.type = mujoco.mjtCamera.mjCAMERA_FIXED
        self._view.fixedcamid = model.camera(camera).id
        self._rgb = np.empty((intrinsics.height, intrinsics.width, 3), np.uint8)
        self._depth = np.empty((intrinsics.height, intrinsics.width), np.float32)

    def render(self, data: mujoco.MjData) -> tuple[np.ndarray, np.ndarray]:
        """Colour uint8 [H, W, 3] RGB and depth along the optical axis float32 [H, W] in m, 0 where out of range."""
        self._gl.make_current()
        option = mujoco.MjvOption()
        mujoco.mjv_updateScene(self._model, data, option, None, self._view, mujoco.mjtCatBit.mjCAT_ALL, self._scene)
        mujoco.mjr_render(self._viewport, self._scene, self._context)
        mujoco.mjr_readPixels(self._rgb, self._depth, self._viewport, self._context)
        extent, planes = self._model.stat.extent, self._model.vis.map
        near, far = planes.znear * extent, planes.zfar * extent
        # The buffer holds reversed z: 1 at the near plane, 0 at the far one.
        depth = near * far / (self._depth * (far - near) + near)
        depth[(depth < self.intrinsics.nearest) | (depth > self.intrinsics.farthest)] = 0.0
        return self._rgb[::-1].copy(), depth[::-1].copy()

    def close(self) -> None:
        """Free the GL context."""
        self._context.free()
        self._gl.free()


def project(points: np.ndarray, position: np.ndarray, rotation: np.ndarray, k: CameraIntrinsics) -> np.ndarray:
    """Project world points [n, 3] m to pixels [n, 2] (x right, y down).

    `position` [3] and `rotation` [3, 3] are the camera's pose in MuJoCo's convention (looks along -z, y up).
    """
    local = (np.asarray(points, float) - position) @ rotation
    depth = np.maximum(-local[:, 2], 1e-6)
    return np.stack([k.cx + k.fx * local[:, 0] / depth, k.cy - k.fy * local[:, 1] / depth], axis=1)


def lift(
    pixels: np.ndarray, heights: np.ndarray, position: np.ndarray, rotation: np.ndarray, k: CameraIntrinsics
) -> np.ndarray:
    """World points [n, 3] m at `heights` [n] m that project to `pixels` [n, 2].

    This inverts `project` for a camera that looks down on the points.
    """
    rays = sight(pixels, rotation, k)
    return position + rays * ((np.asarray(heights) - position[2]) / rays[:, 2])[:, None]


def sight(pixels: np.ndarray, rotation: np.ndarray, k: CameraIntrinsics) -> np.ndarray:
    """Viewing rays [n, 3] of `pixels` [n, 2] in the world frame, scaled to 1 m of depth."""
    x, y = (np.asarray(pixels, float) - (k.cx, k.cy)).T / np.array([[k.fx], [-k.fy]])
    return np.stack([x, y, -np.ones_like(x)], axis=1) @ rotation.T


@dataclass(frozen=True)
class PlacedCamera:
    """A camera where it stands: position [3] m and rotation [3, 3] in MuJoCo's convention, and its intrinsics."""

    position: np.ndarray
    rotation: np.ndarray
    intrinsics: CameraIntrinsics

    def project(self, points: np.ndarray) -> np.ndarray:
        """Project points [n, 3] m to pixels [n, 2]."""
        return project(points, self.position, self.rotation, self.intrinsics)

    def lift(self, pixel: np.ndarray, height: float) -> np.ndarray:
        """Deproject a pixel [2] to the point [3] m at a given height, m."""
        return lift(pixel[None], np.array([height]), self.position, self.rotation, self.intrinsics)[0]
