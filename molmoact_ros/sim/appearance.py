"""How the workcell with one arm looks: lights, surfaces, sizes of objects and cameras, drawn at random.

An appearance is put on the compiled model and taken off again, so that no model is compiled anew. What it leaves out
stays as it is built. Units: m, rad; colours are 0..1.
"""

from __future__ import annotations

import colorsys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace

import mujoco
import numpy as np
from scipy.spatial.transform import Rotation

from molmoact_ros.cameras.intrinsics import CameraIntrinsics
from molmoact_ros.sim.scene import COLORS, TARGETS

MOST_LIGHTS = 3
LIGHTS_FROM = 2.0  # m from the middle of the table
LIT = np.array([0.5, 0.0, 0.0])  # m: where all lights point to
CAMERAS = ("front", "wrist")
SURFACES = ("table", "floor", *TARGETS)
HUE, SHIFT, TURN, FOCAL, SIZE = 0.025, 0.02, np.radians(2.0), 0.03, 0.07
"""Largest changes: of a hue (1 is once around the circle), m and rad of a camera, and the shares of a focal length and
of an object's size."""
TEXTURE_SIDE = 64  # pixels


@dataclass(frozen=True)
class CameraMove:
    """How a camera differs from where it is mounted.

    shift: [3] m in its parent's frame. turn: rotation vector [3] rad in its own frame. focal: factor of both focal
    lengths.
    """

    shift: np.ndarray
    turn: np.ndarray
    focal: float = 1.0


@dataclass(frozen=True)
class Lamp:
    """A light: its position [3] m, from where it points to LIT, and its colour and strength [3]."""

    position: np.ndarray
    diffuse: np.ndarray


@dataclass(frozen=True)
class Surface:
    """The surface of the table, the floor or a target: its colour [3], and the texture that is multiplied by it."""

    color: tuple[float, float, float]
    texture: str | None = None


@dataclass(frozen=True)
class Appearance:
    """How a scene looks, by names of surfaces, objects and cameras. Empty: as it is built.

    lamps: 1 to MOST_LIGHTS in place of the built-in one. ambient, headlight: grey light from everywhere and from the
    camera. sizes: factors of objects' sizes.
    """

    lamps: tuple[Lamp, ...] = ()
    ambient: float | None = None
    headlight: float | None = None
    surfaces: Mapping[str, Surface] = field(default_factory=dict)
    colors: Mapping[str, tuple[float, float, float]] = field(default_factory=dict)
    sizes: Mapping[str, float] = field(default_factory=dict)
    cameras: Mapping[str, CameraMove] = field(default_factory=dict)


def draw_appearance(rng: np.random.Generator, objects: Iterable[str]) -> Appearance:
    """Draw everything: lights, surfaces, colours within their names and sizes of `objects`, cameras, focal lengths."""
    names = list(objects)
    moved = draw_moved_cameras(rng)
    cameras = {name: replace(move, focal=1 + rng.uniform(-FOCAL, FOCAL)) for name, move in moved.cameras.items()}
    textures = [None, None, *_textures()]
    surfaces = {
        name: Surface(_muted(rng), textures[rng.integers(len(textures))] if name in ("table", "floor") else None)
        for name in SURFACES
    }
    return replace(
        moved,
        cameras=cameras,
        surfaces=surfaces,
        colors={name: _shade(COLORS[name.split()[0]], rng) for name in names},
        sizes={name: 1 + rng.uniform(-SIZE, SIZE) for name in names},
    )


def draw_moved_cameras(rng: np.random.Generator) -> Appearance:
    """Draw lights, and cameras moved by up to SHIFT and TURN; everything else stays."""
    lamps = tuple(_lamp(rng) for _ in range(rng.integers(1, MOST_LIGHTS + 1)))
    lamps = tuple(replace(lamp, diffuse=lamp.diffuse / np.sqrt(len(lamps))) for lamp in lamps)
    cameras = {name: CameraMove(_in_ball(rng, SHIFT), _in_ball(rng, TURN)) for name in CAMERAS}
    return Appearance(
        lamps, ambient=float(rng.uniform(0.3, 0.55)), headlight=float(rng.uniform(0.2, 0.45)), cameras=cameras
    )


def _lamp(rng: np.random.Generator) -> Lamp:
    way = np.array([*rng.uniform(-0.7, 0.7, 2), 1.0])
    tint = 1 + rng.uniform(-0.15, 0.15, 3)
    return Lamp(LIT + LIGHTS_FROM * way / np.linalg.norm(way), rng.uniform(0.25, 0.65) * tint)


def _in_ball(rng: np.random.Generator, radius: float) -> np.ndarray:
    """A vector [3] of any direction, as long as `radius` at most."""
    way = rng.normal(size=3)
    return np.asarray(way / np.linalg.norm(way) * rng.uniform(0, radius))


def _muted(rng: np.random.Generator) -> tuple[float, float, float]:
    """A colour that is none of the objects': of any hue, but pale."""
    return colorsys.hsv_to_rgb(rng.random(), rng.uniform(0, 0.45), rng.uniform(0.3, 1.0))


def _shade(color: tuple[float, float, float], rng: np.random.Generator) -> tuple[float, float, float]:
    hue, saturation, value = colorsys.rgb_to_hsv(*color)
    shade = (hue + rng.uniform(-HUE, HUE)) % 1, saturation * rng.uniform(0.85, 1.0), value * rng.uniform(0.75, 1.1)
    return colorsys.hsv_to_rgb(shade[0], shade[1], min(1.0, shade[2]))


def _textures() -> dict[str, np.ndarray]:
    """Brightness patterns, float [64, 64] in 0..1, by name."""
    rng, (y, x) = np.random.default_rng(0), np.mgrid[:TEXTURE_SIDE, :TEXTURE_SIDE] / TEXTURE_SIDE
    waves = sum(np.sin(2 * np.pi * (np.rint(rng.normal(0, 2, 2)) @ [x.ravel(), y.ravel()])) / 4 for _ in range(6))
    return {
        "checker": np.where((x * 4 % 1 < 0.5) ^ (y * 4 % 1 < 0.5), 1.0, 0.75),
        "stripes": 0.85 + 0.15 * np.sin(2 * np.pi * 5 * x + 0.8 * np.sin(2 * np.pi * y)),
        "speckles": rng.uniform(0.7, 1.0, x.shape),
        "clouds": 0.85 + 0.15 * np.tanh(waves).reshape(x.shape),
        "tiles": np.where((x * 4 % 1 < 0.06) | (y * 4 % 1 < 0.06), 0.6, 1.0),
    }


def add_appearances(spec: mujoco.MjSpec) -> None:
    """Add the lights and textures that appearances choose from to a model, unseen until one does."""
    for _ in range(MOST_LIGHTS - len(spec.lights)):
        spec.worldbody.add_light(active=False, specular=[0, 0, 0])
    for name, pattern in _textures().items():
        pixels = np.repeat(np.rint(255 * pattern).astype(np.uint8)[..., None], 3, axis=2)
        texture = spec.add_texture(
            name=name, type=mujoco.mjtTexture.mjTEXTURE_2D, width=TEXTURE_SIDE, height=TEXTURE_SIDE, nchannel=3
        )
        texture.data = pixels.tobytes()
        material = spec.add_material(name=name, texrepeat=[2, 2], texuniform=name != "clouds")
        material.textures[mujoco.mjtTextureRole.mjTEXROLE_RGB] = name


class Wardrobe:
    """Puts appearances on a compiled model that has `add_appearances`, and takes them off."""

    _FIELDS = (
        "light_active", "light_pos", "light_dir", "light_diffuse", "geom_rgba", "geom_matid", "geom_size",
        "geom_rbound", "geom_aabb", "bvh_aabb", "cam_pos", "cam_quat", "cam_fovy",
    )  # fmt: skip

    def __init__(self, model: mujoco.MjModel, cameras: Mapping[str, CameraIntrinsics]) -> None:
        self._model, self._cameras = model, dict(cameras)
        self._built = {name: getattr(model, name).copy() for name in self._FIELDS}
        head = model.vis.headlight
        self._head = head.ambient.copy(), head.diffuse.copy()

    def dress(self, appearance: Appearance | None) -> dict[str, CameraIntrinsics]:
        """Put on `appearance` in place of the last one; None: as it is built. Returns the intrinsics of each camera."""
        model, worn = self._model, appearance or Appearance()
        for name, value in self._built.items():
            getattr(model, name)[:] = value
        self._light(worn)
        for name, surface in worn.surfaces.items():
            for geom in self._geoms(name):
                model.geom_rgba[geom, :3] = surface.color
                model.geom_matid[geom] = -1 if surface.texture is None else model.material(surface.texture).id
        for name, color in worn.colors.items():
            model.geom_rgba[self._geoms(name), :3] = color
        for name, factor in worn.sizes.items():
            self._scale(name, factor)
        return {name: self._aim(name, k, worn.cameras.get(name)) for name, k in self._cameras.items()}

    def _light(self, worn: Appearance) -> None:
        model, head, (ambient, diffuse) = self._model, self._model.vis.headlight, self._head
        head.ambient[:] = ambient if worn.ambient is None else worn.ambient
        head.diffuse[:] = diffuse if worn.headlight is None else worn.headlight
        if worn.lamps:
            model.light_active[:] = np.arange(model.nlight) < len(worn.lamps)
        for i, lamp in enumerate(worn.lamps):
            way = LIT - lamp.position
            model.light_pos[i], model.light_dir[i] = lamp.position, way / np.linalg.norm(way)
            model.light_diffuse[i] = lamp.diffuse

    def _geoms(self, name: str) -> np.ndarray:
        """The geoms of a body, or the one geom of this name."""
        model = self._model
        if name in ("table", "floor"):
            return np.array([model.geom(name).id])
        return np.flatnonzero(model.geom_bodyid == model.body(name).id)

    def _scale(self, name: str, factor: float) -> None:
        model, body, geoms = self._model, self._model.body(name).id, self._geoms(name)
        for values in (model.geom_size, model.geom_rbound, model.geom_aabb):
            values[geoms] *= factor
        first = model.body_bvhadr[body]
        model.bvh_aabb[first : first + model.body_bvhnum[body]] *= factor

    def _aim(self, name: str, k: CameraIntrinsics, move: CameraMove | None) -> CameraIntrinsics:
        if move is None:
            return k
        camera, turned = self._model.camera(name), np.empty(4)
        turn = Rotation.from_rotvec(move.turn).as_quat(scalar_first=True)
        mujoco.mju_mulQuat(turned, camera.quat, turn)
        seen = replace(k, fx=k.fx * move.focal, fy=k.fy * move.focal)
        camera.pos[:] += move.shift
        camera.quat[:], camera.fovy[:] = turned, seen.fovy_deg
        return seen
